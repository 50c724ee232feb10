import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective, Direction, Measurement, ObjectiveInfo
from mobo_mpq.optimization import optimize
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace
from mobo_mpq.strategies.amp import Amp, AmpOptions
from mobo_mpq.strategies.amp_curve import groups, phase_1, phase_2
from mobo_mpq.strategies.registry import check_strategy, make_strategy
from mobo_mpq.testing.toys import SerialLatency, make_toy, run_serial
from mobo_mpq.trial import Trial, TrialState

PAIRS = {(16, 16), (8, 16), (16, 8)}
LOSSES = {  # of phase 1
    ("conv1", 8, 16): 0.01,
    ("conv2", 8, 16): 0.02,
    ("conv1", 16, 8): 0.03,
    ("conv2", 16, 8): 0.04,
}
CURVE = [  # weight/activation bits of both layers, and the quality that phase 2 finds
    ((16, 16), (16, 16), 0.92),
    ((8, 16), (16, 16), 0.91),
    ((8, 16), (8, 16), 0.90),
    ((16, 8), (8, 16), 0.89),
    ((16, 8), (16, 8), 0.86),
]


def conv(name: str, channels: int, **more: str) -> LayerSpec:
    return LayerSpec(name, OpKind.CONV, (channels, 4, 3, 3), (4, 8, 8), (channels, 8, 8), **more)


def problem_of(
    layers: tuple[LayerSpec, ...], pairs: set[tuple[int, int]], losses: Mapping[tuple[str, int, int], float]
) -> Problem:
    target = HardwareTarget("serial", {OpKind.CONV: frozenset(pairs)}, SerialLatency())
    space = SearchSpace.from_layers(layers, target)
    table = np.array([[losses.get((name, *bits), 0.0) for bits in space.options] for name in space.names])
    quality = ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.5)
    cost = CostObjective.from_model(SerialLatency(), layers, space)
    return Problem(layers, space, (quality, cost), sensitivity=table)


@pytest.fixture
def two() -> Problem:
    return problem_of((conv("conv1", 8), conv("conv2", 24)), PAIRS, LOSSES)


def policy(first: tuple[int, int], second: tuple[int, int]) -> Policy:
    return Policy.of({"conv1": first, "conv2": second})


def play(strategy: Amp, trials: int) -> list[int]:
    """Points of the curve, in the order in which they were evaluated."""
    quality = {policy(first, second): (index, value) for index, (first, second, value) in enumerate(CURVE)}
    order = []
    for number in range(trials):
        (proposal,) = strategy.ask(1)
        assert proposal.policy is not None
        index, value = quality[proposal.policy]
        order.append(index)
        values = {"accuracy": Measurement(value), **strategy.problem.cost_values(proposal.policy)}
        strategy.tell([Trial(number, TrialState.COMPLETE, proposal.policy, "amp", values)])
    return order


# --- the list -------------------------------------------------------------------------------------------------------


def test_the_walk_through_of_two_convolutions(two: Problem) -> None:
    entries = phase_1(two)
    assert [(entry.group.layers, entry.loss) for entry in entries] == [
        ((0,), pytest.approx(0.01)),
        ((1,), pytest.approx(0.02)),
        ((0,), pytest.approx(0.03)),
        ((1,), pytest.approx(0.04)),
    ]
    points = two.space.to_policies(phase_2(two, entries))
    assert points == [policy(first, second) for first, second, _ in CURVE]  # a later entry replaces an earlier one
    work = two.costs[0].of_levels(phase_2(two, entries)) / two.costs[0].info.reference
    share = two.layers[0].macs / (two.layers[0].macs + two.layers[1].macs)
    assert work == pytest.approx([1.0, 1 - share / 2, 0.5, 0.5, 0.5])


def test_of_equal_losses_more_bits_then_more_work_saved_then_earlier_layers() -> None:
    layers = (conv("a", 8), conv("b", 8), conv("c", 16))
    problem = problem_of(layers, {(8, 8), (8, 4), (4, 8), (2, 8)}, {})
    found = [
        (problem.space.names[entry.group.layers[0]], tuple(entry.levels), entry.bits) for entry in phase_1(problem)
    ]
    assert [bits for _, _, bits in found] == [12.0] * 6 + [10.0] * 3
    assert [name for name, _, _ in found[6:]] == ["c", "a", "b"]
    assert [name for name, _, _ in found[:2]] == ["c", "c"]


def test_groups_are_what_shares_an_activation_or_a_weight() -> None:
    layers = (
        conv("a", 8, activation_group="x"),
        conv("b", 8, activation_group="x"),
        conv("c", 8),
        conv("d", 8, weight_group="d"),
        conv("e", 8, weight_group="d"),
    )
    losses = {("a", 4, 4): 0.1, ("b", 4, 4): 0.2}
    problem = problem_of(layers, {(8, 8), (4, 4)}, losses)
    assert [group.layers for group in groups(problem)] == [(0, 1), (2,), (3, 4)]
    entry = phase_1(problem)[-1]
    assert entry.group.layers == (0, 1)
    assert entry.loss == pytest.approx(0.3)
    for point in problem.space.to_policies(phase_2(problem, phase_1(problem))):
        assert point["a"] == point["b"]
        assert point["d"] == point["e"]


def test_a_pinned_member_keeps_its_weights_and_the_group_its_candidates() -> None:
    layers = (conv("a", 8, activation_group="x"), conv("b", 8, activation_group="x"))
    target = HardwareTarget("t", {OpKind.CONV: frozenset({(8, 8), (4, 8), (2, 8)})}, SerialLatency())
    space = SearchSpace.from_layers(layers, target, pin={"a": (8, 8)})
    plain = problem_of(layers, {(8, 8), (4, 8), (2, 8)}, {})
    cost = CostObjective.from_model(SerialLatency(), layers, space)
    problem = replace(plain, space=space, objectives=(plain.quality, cost), sensitivity=np.zeros((2, 3)))
    points = space.to_policies(phase_2(problem, phase_1(problem)))
    assert [(point["a"].weight, point["b"].weight) for point in points] == [(8, 8), (8, 4), (8, 2)]


def test_points_over_a_budget_are_left_out(two: Problem) -> None:
    limited = replace(two, budgets={"latency_s": 0.6 * two.costs[0].info.reference})
    assert two.space.to_policies(phase_2(limited, phase_1(limited))) == [policy(a, b) for a, b, _ in CURVE[2:]]


# --- the walk -------------------------------------------------------------------------------------------------------


def test_the_whole_curve_from_both_ends_inwards(two: Problem) -> None:
    strategy = Amp(two, seed=0)
    assert play(strategy, 5) == [0, 4, 2, 1, 3]
    assert strategy.diagnosis() == {}


@pytest.mark.parametrize(
    ("search", "drop", "visited", "index"),
    [
        ("brute", 0.04, [0, 4, 1, 2, 3], 3),
        ("binary", 0.04, [0, 4, 2, 3], 3),
        ("interpolation", 0.04, [0, 4, 2, 3], 3),
        ("interpolation", 0.024, [0, 4, 1, 2, 3], 2),
        ("binary", 0.07, [0, 4], 4),  # even the lowest keep it
    ],
)
def test_searches_for_the_drop(two: Problem, search: str, drop: float, visited: list[int], index: int) -> None:
    strategy = Amp(replace(two, float_quality=0.925), seed=0, options=AmpOptions(search, drop + 0.004))
    assert play(strategy, len(visited)) == visited
    found = strategy.diagnosis()
    assert found["point_found"] == index
    assert found["policy_found"] == policy(*CURVE[index][:2]).to_dict()
    assert (found["points"], found["points_evaluated"], found["search"]) == (5, len(visited), search)
    assert json.dumps(found, allow_nan=False)


def test_a_target_that_the_highest_bits_miss_ends_the_search(two: Problem) -> None:
    strategy = Amp(replace(two, float_quality=0.99), seed=0, options=AmpOptions("binary", 0.01))
    assert play(strategy, 1) == [0]
    assert strategy.diagnosis()["point_found"] == 0
    assert play_on(strategy, 1, 4) == [4, 2, 1, 3]  # trials that are left draw the curve


def play_on(strategy: Amp, start: int, trials: int) -> list[int]:
    points = [policy(first, second) for first, second, _ in CURVE]
    order = []
    for number in range(start, start + trials):
        (proposal,) = strategy.ask(1)
        assert proposal.policy is not None
        order.append(points.index(proposal.policy))
        strategy.tell([Trial(number, TrialState.FAILED, proposal.policy, "amp")])
    return order


def test_without_a_float_model_the_highest_bits_stand_in(two: Problem) -> None:
    strategy = Amp(two, seed=0, options=AmpOptions("binary", 0.035))
    assert play(strategy, 4) == [0, 4, 2, 3]
    assert strategy.diagnosis()["target"] == pytest.approx(0.885)


def test_metrics_that_are_minimised() -> None:
    toy = make_toy(6, sensitivity=True)
    quality = ObjectiveInfo("loss", "", Direction.MINIMIZE, 0.5)
    problem = replace(toy.problem, objectives=(quality, *toy.problem.costs), float_quality=0.05)
    options = {"search": "binary", "drop": 0.02}
    study = optimize(
        problem, lambda policy: 1 - toy.quality(policy), strategy="amp", trials=12, strategy_options=options
    )
    found = study.strategy.diagnosis()
    chosen = Policy.from_dict(found["policy_found"])
    assert found["target"] == pytest.approx(0.07)
    assert 1 - toy.quality(chosen) <= 0.07


@pytest.mark.parametrize("search", ["binary", "interpolation", "brute"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_search_finds_the_last_point_that_keeps_the_quality(search: str, batch: int) -> None:
    toy = make_toy(8, sensitivity=True)
    problem = replace(toy.problem, float_quality=toy.top)
    strategy = Amp(problem, seed=0, options=AmpOptions(search, 0.02))
    trials = run_serial(strategy, toy, len(strategy.points) + 2, batch)
    assert len({trial.policy for trial in trials}) == len(trials)
    scores = [toy.quality(point) for point in problem.space.to_policies(strategy.points)]
    assert sorted(scores, reverse=True) == scores  # what the searches assume
    expected = max(index for index, score in enumerate(scores) if score >= toy.top - 0.02)
    assert strategy.diagnosis()["point_found"] == expected


def test_bisection_needs_few_evaluations() -> None:
    toy = make_toy(40, sensitivity=True)
    strategy = Amp(replace(toy.problem, float_quality=toy.top), seed=0, options=AmpOptions("binary", 0.01))
    run_serial(strategy, toy, 10)  # 81 points: both ends, and 7 between
    assert strategy.diagnosis()["point_found"] is not None


def test_results_that_are_awaited_do_not_hold_up_others() -> None:
    toy = make_toy(8, sensitivity=True)
    strategy = Amp(replace(toy.problem, float_quality=toy.top), seed=0, options=AmpOptions("binary", 0.02))
    asked = strategy.ask(6)
    assert len({proposal.policy for proposal in asked}) == 6
    assert [proposal.origin for proposal in asked] == ["highest"] + ["amp"] * 5


# --- wrong use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "random", "drop": 0.1}, "unknown value of option 'search' of strategy 'amp' 'random'; known: bin"),
        ({"drop": 0.1}, "option 'drop' of strategy 'amp' is 0.1, but search 'curve' evaluates the whole curve"),
        ({"search": "binary"}, "option 'drop' of strategy 'amp' is None, and search 'binary' needs a number of at"),
        ({"search": "brute", "drop": -1.0}, "option 'drop' of strategy 'amp' is -1.0, and search 'brute' needs"),
        ({"search": "brute", "drop": "little"}, "option 'drop' of strategy 'amp' is 'little'; expected a number"),
        ({"beta": 1.0}, "unknown option of strategy 'amp' 'beta'; known: conversions, drop, search"),
    ],
)
def test_wrong_options_are_refused_before_a_search(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        check_strategy("amp", options)


def test_other_strategies_take_none() -> None:
    with pytest.raises(InputError, match="unknown option of strategy 'sobol' 'drop'; known: none"):
        make_strategy("sobol", make_toy(2).problem, 0, {"drop": 0.1})
    check_strategy("mobo")


def test_a_problem_without_sensitivities_is_refused() -> None:
    with pytest.raises(InputError, match="^strategy 'amp' needs sensitivities and this problem has none; leave out"):
        make_strategy("amp", make_toy(2).problem, seed=0)


def test_one_policy_is_enough() -> None:
    toy = make_toy(3, weight_bits=(8,), sensitivity=True)
    assert len(run_serial(Amp(toy.problem, seed=0), toy, 5)) == 1
