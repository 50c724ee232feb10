"""Phase 3 of AMP against brute force on random graphs of groups, and what its programme promises."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective, Direction, ObjectiveInfo
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace
from mobo_mpq.strategies.amp import Amp, AmpOptions
from mobo_mpq.strategies.amp_conversions import SHARES, Phase3, conversions
from mobo_mpq.strategies.amp_curve import groups, phase_1, phase_2
from mobo_mpq.strategies.registry import check_strategy
from mobo_mpq.testing.toys import SerialLatency, Toy, make_toy
from mobo_mpq.trial import Trial, TrialState

BITS = (4, 8, 16)


def graph_of(
    seed: int, layers: int, *, pinned: bool = False, budget: float | None = None, dearer: bool = False
) -> Problem:
    """Convolutions whose outputs go anywhere, some of which share activations; a cost that need not fall with bits."""
    rng = np.random.default_rng(seed)
    names = [f"layer{i}" for i in range(layers)]
    specs = tuple(
        LayerSpec(
            name,
            OpKind.CONV,
            (int(rng.integers(1, 9)), 4, 3, 3),
            (4, 8, 8),
            (int(rng.integers(1, 9)), 8, 8),
            activation_group="tie" if rng.random() < 0.3 else "",
            input_tensor=f"tensor{i}",
            reader=str(rng.choice(["", *names])),
        )
        for i, name in enumerate(names)
    )
    pairs = frozenset(itertools.product((4, 8, 16), BITS))
    target = HardwareTarget("serial", {OpKind.CONV: pairs}, SerialLatency())
    pin = {names[0]: (8, 8)} if pinned else {}
    if pinned:
        specs = (replace(specs[0], activation_group=""), *specs[1:])
    space = SearchSpace.from_layers(specs, target, pin=pin)
    cost = CostObjective.from_model(SerialLatency(), specs, space)
    if dearer:
        cost = replace(cost, table=cost.table * rng.lognormal(0.0, 1.0, cost.table.shape))
    quality = ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.5)
    problem = Problem(specs, space, (quality, cost), sensitivity=rng.random(cost.table.shape))
    return problem if budget is None else replace(problem, budgets={"latency_s": budget * cost(space.highest())})


def alternatives(problem: Problem, levels: np.ndarray) -> list[np.ndarray]:
    """Everything that phase 3 may choose: each group as it is, or at its highest."""
    highest, found = problem.space.sizes - 1, []
    members = groups(problem)
    for raised in itertools.product((False, True), repeat=len(members)):
        chosen = levels.copy()
        for group, up in zip(members, raised, strict=True):
            chosen[list(group.variables)] = (highest if up else levels)[list(group.variables)]
        found.append(chosen)
    return [chosen for chosen in found if problem.affordable(chosen)]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(1, 6),
    price=st.sampled_from(["count", "elements"]),
    pinned=st.booleans(),
    dearer=st.booleans(),
    budget=st.sampled_from([None, 0.5]),
)
def test_brute_force_finds_nothing_better(
    seed: int, layers: int, price: str, pinned: bool, dearer: bool, budget: float | None
) -> None:
    problem = graph_of(seed, layers, pinned=pinned, dearer=dearer)
    cost = problem.costs[0]
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, problem.space.sizes, len(problem.space.sizes))
    if budget is not None:  # that the point itself keeps, and the highest bits do not always
        problem = replace(problem, budgets={"latency_s": float(cost.of_levels(levels)) * 1.2})
    programme, every = Phase3(problem, levels, price), alternatives(problem, levels)
    converted = [conversions(problem, one, price) for one in every]
    before, least = conversions(problem, levels, price), min(converted)
    spent = []
    for share in SHARES:
        chosen = programme.solve(share)
        limit = least + share * (before - least)
        allowed = [cost.of_levels(one) for one, c in zip(every, converted, strict=True) if c <= limit * (1 + 1e-9)]
        assert any((chosen == one).all() for one in every)
        assert conversions(problem, chosen, price) <= limit * (1 + 1e-9)
        assert cost.of_levels(chosen) == pytest.approx(min(allowed), rel=1e-9)
        spent.append(cost.of_levels(chosen))
    assert spent[0] <= cost.of_levels(levels)
    assert (np.diff(spent) >= -1e-9 * np.abs(spent[:-1])).all()  # fewer conversions cost no less
    assert conversions(problem, programme.solve(0.0), price) == least


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), layers=st.integers(2, 8))
def test_no_conversion_is_left_at_share_0(seed: int, layers: int) -> None:
    """All groups may go back to the same highest bits, so all conversions can be saved."""
    problem = graph_of(seed, layers)
    points = phase_2(problem, phase_1(problem))
    for levels in points[:: max(1, len(points) // 4)]:
        programme = Phase3(problem, levels)
        assert conversions(problem, programme.solve(0.0)) == 0
        assert (programme.solve(1.0) == levels).all()  # bits save: nothing is better than phase 2 itself


def chain(bits: str) -> tuple[Problem, np.ndarray]:
    """Layers one behind the other, as numbers of activation bits say; weights at 8."""
    problem = make_toy(len(bits), weight_bits=(8,), activation_bits=(4, 8), sensitivity=True).problem
    return problem, np.array([int(b == "8") for b in bits])


def test_conversions_are_borders_between_widths() -> None:
    problem, levels = chain("84484")
    assert conversions(problem, levels) == 3
    outputs = [np.prod(layer.output_shape) for layer in problem.layers]
    assert conversions(problem, levels, "elements") == outputs[0] + outputs[2] + outputs[3]
    assert conversions(problem, problem.space.sizes - 1) == 0


def test_an_island_is_raised_before_a_continent() -> None:
    problem, levels = chain("4448488")
    assert conversions(problem, levels) == 3
    raised = Phase3(problem, levels).solve(0.4)  # one border may stay: 1.2 of them
    assert "".join("48"[level] for level in raised) == "4448888"
    assert (Phase3(problem, levels).solve(0.0) == problem.space.sizes - 1).all()


def test_layers_of_tables_are_read_by_the_next() -> None:
    problem = Problem.from_tables(
        ["a", "b", "c"],
        weight_bits=(8,),
        activation_bits=(4, 8),
        costs={"size_bytes": [[1.0, 2.0]] * 3},
        references={"size_bytes": 6.0},
        quality=ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.5),
    )
    levels = np.array([0, 1, 0])
    assert conversions(problem, levels) == 2
    assert problem.costs[0].of_levels(Phase3(problem, levels).solve(0.0)) == 6.0


def test_nothing_to_choose_is_no_obstacle() -> None:
    problem = make_toy(3, weight_bits=(8,), sensitivity=True).problem
    levels = np.zeros(0, dtype=np.intp)
    assert len(Phase3(problem, levels).solve(0.0)) == 0


# --- as a strategy --------------------------------------------------------------------------------------------------


def play(strategy: Amp, toy: Toy, trials: int) -> list[Trial]:
    """One trial after the other; they keep their origins."""
    for number in range(trials):
        (proposal,) = strategy.ask(1)
        assert proposal.policy is not None
        strategy.tell([replace(toy.trial(number, proposal.policy), origin=proposal.origin)])
    return strategy.finished


def test_every_other_trial_has_fewer_conversions() -> None:
    toy = make_toy(6, weight_bits=(8,), activation_bits=(2, 4, 8), sensitivity=True)
    strategy = Amp(toy.problem, seed=0, options=AmpOptions(conversions="count"))
    trials = play(strategy, toy, 12)
    assert len({trial.policy for trial in trials}) == 12
    curve = set(toy.problem.space.to_policies(strategy.points))
    made = [trial.policy for trial in trials if trial.origin == "amp-conversions"]
    assert made
    assert not curve & set(made)
    plain = play(Amp(toy.problem, seed=0), toy, 6)
    assert [t.policy for t in trials if t.origin != "amp-conversions"][:4] == [t.policy for t in plain[:4]]


def test_a_search_is_followed_by_what_phase_3_makes_of_the_point_found() -> None:
    toy = make_toy(12, weight_bits=(8,), activation_bits=(4, 8), sensitivity=True, seed=1)
    problem = replace(toy.problem, float_quality=toy.top)
    strategy = Amp(problem, seed=0, options=AmpOptions("binary", 0.005, "count"))
    trials = play(strategy, toy, 14)
    found = strategy.points[strategy.diagnosis()["point_found"]]
    expected = {problem.space.to_policies(Phase3(problem, found).solve(share))[0] for share in SHARES}
    expected -= set(problem.space.to_policies(strategy.points))
    assert len(expected) == 4
    made = [trial.policy for trial in trials if trial.origin == "amp-conversions"]
    assert set(made) == expected
    first = min(trial.number for trial in trials if trial.origin == "amp-conversions")
    assert all(trial.origin == "amp-conversions" for trial in trials[first : first + len(made)])
    converted = [conversions(problem, problem.space.to_levels([policy])[0]) for policy in made if policy is not None]
    assert converted == sorted(converted, reverse=True)


def test_a_search_that_waits_is_not_followed_yet() -> None:
    toy = make_toy(8, weight_bits=(8,), activation_bits=(4, 8), sensitivity=True)
    strategy = Amp(toy.problem, seed=0, options=AmpOptions("binary", 0.02, "count"))
    asked = strategy.ask(4)
    strategy.tell([Trial(0, TrialState.FAILED, asked[0].policy, "amp")])
    assert {proposal.origin for proposal in asked[1:]} == {"amp"}


def test_an_unknown_price_is_refused() -> None:
    expected = "^unknown value of option 'conversions' of strategy 'amp' 'bytes'; known: count, elements, off"
    with pytest.raises(InputError, match=expected):
        check_strategy("amp", {"conversions": "bytes"})
