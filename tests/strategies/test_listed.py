"""Policies that were found elsewhere."""

import pytest

from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.strategies.listed import Listed
from mobo_mpq.study import Study
from mobo_mpq.testing.contracts import TOYS, StrategyContract
from mobo_mpq.testing.toys import make_toy


class EveryPolicy(Listed):
    """All policies of a space, in an order that has nothing to do with their costs."""

    def __init__(self, problem, *, seed):
        grid = problem.space.to_policies(problem.space.grid()[::-1])
        super().__init__(problem, seed=seed, policies=grid[1::2] + grid[::2])


class TestListed(StrategyContract):
    def make(self, problem, seed):
        return EveryPolicy(problem, seed=seed)


def test_each_policy_is_tried_once_behind_the_highest_bits():
    toy = make_toy(layers=3)
    space = toy.problem.space
    policies = [space.lowest(), space.uniform(4, 4), space.lowest(), space.highest()]
    study = Study(toy.problem, Listed(toy.problem, seed=0, policies=policies))
    tried: list[Policy | None] = []
    while trials := study.ask(1):
        tried += [trial.policy for trial in trials]
        study.tell(trials[0].number, {toy.problem.quality.name: Measurement(0.5)})
    assert tried == [space.highest(), space.lowest(), space.uniform(4, 4)]
    assert [trial.origin for trial in study.trials] == ["highest", "proxy", "proxy"]


@pytest.mark.parametrize("name", [name for name, arguments in TOYS.items() if "budget" in str(arguments)] or [None])
def test_what_breaks_a_budget_is_left_out(name):
    toy = make_toy(**TOYS[name]) if name else make_toy(layers=3)
    space = toy.problem.space
    strategy = Listed(toy.problem, seed=0, policies=space.to_policies(space.grid()))
    affordable = int(toy.problem.affordable(space.grid()).sum())
    assert len(strategy.left()) == affordable
    assert all(toy.problem.broken_budget(policy) is None for policy in strategy.left())
