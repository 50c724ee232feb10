from dataclasses import replace

import numpy as np
import pytest

from mobo_mpq.engine.designs import sensitivity_front
from mobo_mpq.errors import InputError
from mobo_mpq.optimization import optimize
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.strategies.sensitivity import SensitivityFront
from mobo_mpq.testing.toys import make_toy, run_serial

MISSING = (
    "strategy 'sensitivity' needs sensitivities and this problem has none; leave out --no-sensitivity, or give "
    "Problem.from_tables a sensitivity table"
)


def test_the_front_comes_first_and_from_both_ends_inwards() -> None:
    toy = make_toy(8, sensitivity=True)
    front = toy.problem.space.to_policies(sensitivity_front(toy.problem, np.random.default_rng(0)))
    trials = run_serial(SensitivityFront(toy.problem, seed=0), toy, len(front) + 3)
    assert [trial.origin for trial in trials] == ["toy"] * len(trials)
    assert {trial.policy for trial in trials[: len(front)]} == set(front)
    assert len({trial.policy for trial in trials}) == len(trials)
    latency = toy.problem.costs[0]
    costs = [latency(trial.policy) for trial in trials[:4] if trial.policy is not None]
    low, high = latency(toy.problem.space.lowest()), latency(toy.problem.space.highest())
    share = [(cost - low) / (high - low) for cost in costs]
    assert share == pytest.approx([1, 1 / 2, 3 / 4, 1 / 4], abs=0.12)


def test_it_beats_random_search_and_learns_nothing() -> None:
    toy = make_toy(8, sensitivity=True)
    shares = {
        name: np.median([toy.share(run_serial(make_strategy(name, toy.problem, seed), toy, 16)) for seed in range(3)])
        for name in ("sensitivity", "random")
    }
    assert shares["sensitivity"] > 0.95
    assert shares["random"] < 0.8
    worse = optimize(toy.problem, lambda policy: 0.0, strategy="sensitivity", trials=6)
    better = optimize(toy.problem, toy.quality, strategy="sensitivity", trials=6)
    assert [trial.policy for trial in worse.trials] == [trial.policy for trial in better.trials]


def test_a_problem_without_sensitivities_is_refused() -> None:
    with pytest.raises(InputError, match=f"^{MISSING}$"):
        make_strategy("sensitivity", make_toy(2).problem, seed=0)


def test_one_policy_is_enough() -> None:
    toy = make_toy(3, weight_bits=(8,), sensitivity=True)
    assert len(run_serial(SensitivityFront(toy.problem, seed=0), toy, 5)) == 1


def test_budgets_that_leave_nothing_of_the_front() -> None:
    toy = make_toy(6, sensitivity=True)
    size = toy.problem.constraints[0]
    inverted = replace(size, table=size.table[:, ::-1])  # what is fast is large, and the budgets meet in between
    least = float(inverted.of_levels(toy.problem.space.grid()).min())
    budgets = {"latency_s": 0.5 * toy.problem.costs[0].info.reference, "size_bytes": 2.5 * least}
    problem = replace(toy.problem, constraints=(inverted,), budgets=budgets)
    assert len(sensitivity_front(problem, np.random.default_rng(0))) == 0
    policies = [proposal.policy for proposal in SensitivityFront(problem, seed=0).ask(40)]
    assert len(set(policies)) == len(policies) == problem.affordable(problem.space.grid()).sum()
    assert all(policy is not None and problem.broken_budget(policy) is None for policy in policies)
