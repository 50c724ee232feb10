import numpy as np
import pytest
from numpy.typing import NDArray

from mobo_mpq.arrays import Levels
from mobo_mpq.errors import InputError
from mobo_mpq.objective import Direction, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.toys import Toy, make_toy
from mobo_mpq.trial import Proposal, TrialState


class Lowest(Strategy):
    """Wants the lowest bits, again and again."""

    def propose(self, n: int) -> list[Proposal]:
        policy = self.fresh([self.problem.space.lowest()], self.rng(self.number))
        return [] if policy is None else [Proposal(policy, "lowest")]


@pytest.fixture
def toy() -> Toy:
    return make_toy(3)


def test_a_policy_that_was_seen_gives_way_to_a_neighbour(toy: Toy) -> None:
    strategy = Lowest(toy.problem, seed=0)
    _, lowest, third = (proposal.policy for proposal in strategy.ask(3))
    assert lowest == toy.problem.space.lowest()
    assert third in set(toy.problem.space.neighbours(toy.problem.space.lowest()))
    assert strategy.seen == {toy.problem.space.highest(), lowest, third}


def test_trial_0_descends_until_the_budgets_hold() -> None:
    toy = make_toy(5, budgets={"latency_s": 0.4, "size_bytes": 0.5})
    first = Lowest(toy.problem, seed=0).ask(1)[0]
    assert first.origin == "highest-affordable"
    assert first.policy in toy.everything


def test_trial_0_is_the_cheapest_where_nothing_else_is_affordable() -> None:
    toy = make_toy(5, budgets={"latency_s": 0.2500001})  # 2 of 8 bits everywhere, and no step above
    first = Lowest(toy.problem, seed=0).ask(1)[0]
    assert first.policy == toy.problem.space.lowest()
    assert Lowest(toy.problem, seed=0).ask(3) == [first]


def test_trial_0_is_found_where_every_step_towards_one_budget_leads_away_from_another() -> None:
    problem = Problem.from_tables(
        ["a"],
        weight_bits=(2, 4, 8),
        activation_bits=(8,),
        costs={"left": [[1.0, 4.0, 9.0]], "right": [[9.0, 4.0, 1.0]]},
        references={"left": 9.0, "right": 9.0},
        quality=ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.0),
        budgets={"left": 5.0, "right": 5.0},
    )
    assert Lowest(problem, seed=0).ask(1)[0].policy == Policy.of({"a": (4, 8)})


@pytest.mark.parametrize("name", ["random", "sobol", "nsga2", "tpe"])
def test_policies_within_a_tight_budget_of_a_large_space_are_found(name: str) -> None:
    toy = make_toy(40, activation_bits=(2, 4, 8), budgets={"latency_s": 0.15})  # one random policy in very many
    strategy = make_strategy(name, toy.problem, 0)
    policies = {proposal.policy for proposal in strategy.ask(8)}
    assert len(policies) == 8
    assert all(policy is not None and toy.problem.broken_budget(policy) is None for policy in policies)


def test_numbers_follow_what_was_told(toy: Toy) -> None:
    strategy = Lowest(toy.problem, seed=0)
    strategy.restore(
        [toy.trial(4, toy.problem.space.lowest()), toy.trial(2, toy.problem.space.highest(), TrialState.RUNNING)]
    )
    assert strategy.number == 5
    assert strategy.running == {2: toy.problem.space.highest()}
    assert strategy.pending == [toy.problem.space.highest()]
    assert [policy for policy, _ in strategy.observed] == [toy.problem.space.lowest()]


def test_trials_without_a_policy_of_the_space_are_neither_observed_nor_pending(toy: Toy) -> None:
    strategy = Lowest(toy.problem, seed=0)
    foreign = Policy.of({"other": (8, 8)})
    finished = toy.trial(0, toy.problem.space.lowest())
    other = type(finished)(1, TrialState.COMPLETE, foreign, "toy", finished.values)
    found_while_training = type(finished)(2, TrialState.RUNNING, None, "toy")
    strategy.restore([finished, other, found_while_training])
    assert len(strategy.complete) == 2
    assert len(strategy.observed) == 1
    assert strategy.pending == []


def test_only_complete_trials_are_observed(toy: Toy) -> None:
    strategy = Lowest(toy.problem, seed=0)
    a, b, c = toy.everything[:3]
    strategy.tell([toy.trial(0, a, TrialState.FAILED), toy.trial(1, b), toy.trial(2, c, TrialState.PRUNED)])
    assert [policy for policy, _ in strategy.observed] == [b]
    assert strategy.seen == {a, b, c}
    with pytest.raises(InputError, match="trial 1 was told before; tell each number once"):
        strategy.tell([toy.trial(1, b)])
    with pytest.raises(InputError, match="trial 3 still runs; tell a strategy of finished trials only"):
        strategy.tell([toy.trial(3, b, TrialState.RUNNING)])


def test_fresh_finds_the_last_policy_of_a_large_budgeted_space() -> None:
    toy = make_toy(6, budgets={"latency_s": 0.3})
    strategy = Lowest(toy.problem, seed=0)
    rng = np.random.default_rng(0)
    taken = toy.everything[:-1]
    assert strategy.fresh(taken, rng, taken) == toy.everything[-1]
    assert strategy.fresh(taken, rng, toy.everything) is None


def test_fresh_leaves_a_limit_when_nothing_new_is_within_it() -> None:
    toy = make_toy(6, budgets={"latency_s": 0.8})
    cost, rng = toy.problem.costs[0], np.random.default_rng(0)
    limit = 0.3 * cost(toy.problem.space.highest())
    inside = [policy for policy in toy.everything if cost(policy) <= limit]
    strategy, start = Lowest(toy.problem, seed=0), inside[:1]

    def within(levels: Levels) -> NDArray[np.bool_]:
        return cost.of_levels(levels) <= limit

    taken = set(start)
    for _ in inside[1:]:
        found = strategy.fresh(start, rng, taken, within)
        assert found is not None
        taken.add(found)
    assert taken == set(inside)
    beyond = strategy.fresh(start, rng, taken, within)
    assert beyond is not None and limit < cost(beyond) <= toy.problem.budgets["latency_s"]


def test_fresh_samples_what_is_too_large_to_enumerate() -> None:
    toy = make_toy(30)
    strategy = Lowest(toy.problem, seed=0)
    around = [toy.problem.space.highest(), *toy.problem.space.neighbours(toy.problem.space.highest())]
    found = strategy.fresh([], np.random.default_rng(0), around)
    assert found is not None
    assert found not in around
