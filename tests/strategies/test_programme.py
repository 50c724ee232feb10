"""Strategies that solve an integer programme for each trial: hawq and ompq."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mobo_mpq as mm
from mobo_mpq.allocation import least_loss
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.optimization import optimize
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.registry import make_strategy, own_sensitivity
from mobo_mpq.testing.networks import mobilenet_v2
from mobo_mpq.testing.toys import Toy, make_toy, run_serial

NAMES = ("hawq", "ompq")


def predicted(problem: Problem, policies: list[Policy], table: np.ndarray | None = None) -> np.ndarray:
    options = problem.space.option_indices(problem.space.to_levels(policies))
    values = problem.sensitivity if table is None else table
    assert values is not None
    return np.asarray(values[np.arange(len(values)), options].sum(axis=-1))


def linear(toy: Toy, worth: np.ndarray) -> Problem:
    """A problem whose sensitivities are what kind ``orthogonality`` gives: importance times missing bits."""
    bits = np.array([option.weight for option in toy.problem.space.options])
    return replace(toy.problem, sensitivity=worth[:, None] * (bits.max() - bits))


def test_each_trial_is_the_best_new_policy_within_its_budget() -> None:
    toy = make_toy(5, activation_bits=(4, 8), tie=[["layer0", "layer2"]], sensitivity=True)
    cost = toy.problem.costs[0]
    trials = run_serial(make_strategy("hawq", toy.problem, 0), toy, 24)
    least, most = min(map(cost, toy.everything)), cost(toy.problem.space.highest())
    shares = [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    seen = {toy.problem.space.highest()}
    for trial, share in zip(trials[1:8], shares, strict=True):
        limit = most - share * (most - least)
        legal = [p for p in toy.everything if cost(p) <= limit * (1 + 1e-9) and p not in seen]
        assert trial.policy is not None
        assert cost(trial.policy) <= limit * (1 + 1e-9)
        found = predicted(toy.problem, [trial.policy])[0]
        assert found == pytest.approx(predicted(toy.problem, legal).min(), rel=1e-9)
        seen.add(trial.policy)
    assert [trial.origin for trial in trials[1:3]] == ["toy", "toy"]
    assert make_strategy("hawq", toy.problem, 0).ask(2)[1].origin == "hawq"


def test_several_costs_are_budgeted_in_turn_beside_the_problems_own() -> None:
    toy = make_toy(5, size=True, sensitivity=True, budgets={"latency_s": 0.7})
    latency, size = toy.problem.costs
    first, by_latency, by_size, *_ = (p.policy for p in make_strategy("hawq", toy.problem, 0).ask(5))
    assert first is not None and by_latency is not None and by_size is not None
    least = toy.problem.cheapest("latency_s"), toy.problem.cheapest("size_bytes")
    assert latency(by_latency) <= (latency(first) + latency(least[0])) / 2 * (1 + 1e-9)
    assert size(by_size) <= (size(first) + size(least[1])) / 2 * (1 + 1e-9)
    assert all(toy.problem.broken_budget(policy) is None for policy in (first, by_latency, by_size))


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_nothing_and_does_not_depend_on_the_seed(name: str) -> None:
    toy = make_toy(6, sensitivity=True)
    worse = optimize(toy.problem, lambda policy: 0.0, strategy=name, trials=12, seed=0)
    better = optimize(toy.problem, toy.quality, strategy=name, trials=12, seed=1)
    assert [trial.policy for trial in worse.trials] == [trial.policy for trial in better.trials]


def test_good_sensitivities_beat_random_search() -> None:
    toy = make_toy(8, sensitivity=True)
    shares = {
        name: np.median([toy.share(run_serial(make_strategy(name, toy.problem, seed), toy, 16)) for seed in range(3)])
        for name in ("hawq", "random")
    }
    assert shares["hawq"] > 0.95 > 0.8 > shares["random"]


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_without_sensitivities_is_refused(name: str) -> None:
    needs = f"strategy '{name}' needs sensitivities and this problem has none; leave out --no-sensitivity, or give "
    with pytest.raises(InputError, match=f"^{needs}Problem.from_tables a sensitivity table$"):
        make_strategy(name, make_toy(2).problem, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_one_policy_is_enough(name: str) -> None:
    toy = make_toy(3, weight_bits=(8,), sensitivity=True)
    assert len(run_serial(make_strategy(name, toy.problem, 0), toy, 5)) == 1


def test_each_has_a_kind_of_its_own() -> None:
    assert {name: own_sensitivity(name) for name in ("hawq", "ompq", "mobo", "sensitivity")} == {
        "hawq": "hessian",
        "ompq": "orthogonality",
        "mobo": "perturbation",
        "sensitivity": "perturbation",
    }


# --- ompq -------------------------------------------------------------------------------------------------------------


def table_of(problem: Problem, **options: float | str) -> np.ndarray:
    """What the programme minimises, ``layers x options``."""
    strategy = make_strategy("ompq", problem, 0, options)
    return np.asarray(strategy.predicted_loss())  # type: ignore[attr-defined]


def test_importance_to_the_power_of_beta() -> None:
    toy = make_toy(3)
    worth = np.array([1.0, 0.5, 0.25])
    problem = linear(toy, worth)
    missing = np.array([6, 4, 0])
    assert table_of(problem, penalty="linear") == pytest.approx(worth[:, None] * missing)
    assert table_of(problem, penalty="linear", beta=2.0) == pytest.approx(worth[:, None] ** 2 * missing)
    assert table_of(problem, penalty="linear", beta=0.0) == pytest.approx(np.ones((3, 1)) * missing)
    assert table_of(problem) == pytest.approx(worth[:, None] * missing**2)


def test_the_importance_of_all_that_follow() -> None:
    problem = linear(make_toy(3), np.array([1.0, 0.5, 0.25]))
    suffix = np.array([1.75 / 3, 0.375, 0.25])
    assert table_of(problem, penalty="linear", importance="suffix")[:, 0] == pytest.approx(6 * suffix)


def test_alike_layers_get_bits_by_their_cost() -> None:
    """With squares, what is published for MobileNetV2: the nearest to the highest bits that the budget allows.

    Its Lagrangian is ``b_i = B - lambda * P_i`` between the bounds: larger layers lose more.
    """
    toy = make_toy(6, weight_bits=(2, 3, 4), sensitivity=True)
    problem = linear(toy, np.ones(6))
    cost = toy.problem.costs[0].table
    slope = (cost[:, 2] - cost[:, 0]) / 2
    for proposal in make_strategy("ompq", problem, 0, {"beta": 0.0}).ask(8)[1:]:
        assert proposal.policy is not None
        bits = np.array([b.weight for b in proposal.policy.values()])
        missing = 4 - bits[np.argsort(slope)]
        assert (missing[:-1] <= missing[1:] + 1).all(), "up to rounding"
    few = make_strategy("ompq", problem, 0, {"beta": 0.0}).ask(2)[1].policy
    vertex = make_strategy("ompq", problem, 0, {"beta": 0.0, "penalty": "linear"}).ask(2)[1].policy
    assert few is not None and vertex is not None
    middle = [sum(b.weight == 3 for b in policy.values()) for policy in (few, vertex)]
    assert middle[0] > middle[1], "the linear programme goes to the bounds"


def test_the_published_configuration_of_mobilenet_v2_at_one_and_a_half_megabytes() -> None:
    """52 layers at 4 bits, and the classifier, by far the largest, at 3: what the authors' repository runs."""
    layers = mm.trace_layers(mobilenet_v2(), torch.zeros(1, 3, 224, 224))
    names, bits = [layer.name for layer in layers], (2, 3, 4)
    size = np.array([[layer.num_weights * b / 8 / 2**20 for b in bits] for layer in layers])
    assert len(names) == 53
    problem = mm.Problem.from_tables(
        names, weight_bits=bits, activation_bits=(8,), costs={"size_mib": size},
        references={"size_mib": float(size[:, -1].sum())}, quality=mm.ObjectiveInfo("accuracy", "", "maximize", 0.0),
        sensitivity=np.exp(-np.ones((53, 1))) * (4 - np.array(bits)),
    )  # fmt: skip
    strategy = make_strategy("ompq", problem, 0, {"beta": 0.0})
    table = np.asarray(strategy.predicted_loss())  # type: ignore[attr-defined]
    published = [4] * 52 + [3]
    limit = float(size[np.arange(53), [bits.index(b) for b in published]].sum())
    assert limit == pytest.approx(1.5, abs=0.01)
    policy = least_loss(problem.space, table, [(problem.costs[0].table, limit)])
    assert policy is not None
    assert [policy[name].weight for name in names] == published


def test_layers_that_share_nothing_keep_their_bits() -> None:
    toy = make_toy(4)
    problem = linear(toy, np.array([1.0, 1e-6, 1e-6, 1e-6]))
    policies = [p.policy for p in make_strategy("ompq", problem, 0).ask(4)]
    assert all(policy is not None and policy["layer0"].weight == 8 for policy in policies[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "option 'beta' of strategy 'ompq' is -1.0; expected a number of at least 0"),
        ({"beta": float("inf")}, "option 'beta' of strategy 'ompq' is inf; expected a number of at least 0"),
        ({"penalty": "cubic"}, "unknown value of option 'penalty' of strategy 'ompq' 'cubic'; known: linear, square"),
        ({"importance": "x"}, "unknown value of option 'importance' of strategy 'ompq' 'x'; known: layer, suffix"),
        ({"gamma": 1.0}, "unknown option of strategy 'ompq' 'gamma'; known: beta, importance, penalty"),
    ],
)
def test_options_are_checked(options: dict[str, float | str], message: str) -> None:
    problem = make_toy(2, sensitivity=True).problem
    with pytest.raises((InputError, UnknownName), match=message):
        make_strategy("ompq", problem, 0, options)
