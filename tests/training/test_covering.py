"""Legal policies for the bits found, against enumeration."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.testing.contracts import TOYS
from mobo_mpq.testing.toys import make_toy
from mobo_mpq.training.covering import covering, covering_within

SPACES = {name: make_toy(**arguments).problem.space for name, arguments in TOYS.items()}


@pytest.mark.parametrize("name", SPACES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_decision_gets_at_least_what_was_found(name, data):
    space = SPACES[name]
    bits = [data.draw(st.floats(0.0, 9.0)) for _ in space.decisions]
    policy = covering(space, bits)
    assert policy in space
    for decision, wanted in zip(space.decisions, bits, strict=True):
        assert getattr(policy[decision.layers[0]], decision.role) >= min(wanted, decision.choices[-1]) - 1e-9


def test_policies_cover_themselves():
    for space in SPACES.values():
        for policy in space.to_policies(space.grid()[::7]):
            bits = [getattr(policy[d.layers[0]], d.role) for d in space.decisions]
            assert covering(space, bits) == policy


def test_nothing_is_raised_beyond_the_next_choice():
    space = SPACES["every combination is legal"]
    policy = covering(space, [2.1] * len(space.decisions))
    assert {bits.weight for bits in policy.values()} == {4}


@pytest.mark.parametrize("name", SPACES)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_what_is_found_within_limits_is_the_best_of_all_policies(name, data):
    problem = make_toy(**TOYS[name]).problem
    space, cost = problem.space, problem.costs[0]
    losses = [[data.draw(st.floats(-2.0, 2.0)) for _ in decision.choices] for decision in space.decisions]
    grid = space.grid()
    kept = problem.affordable(grid)
    costs = cost.of_levels(grid)
    limit = data.draw(st.floats(float(costs[kept].min()), float(costs.max())))

    def lost(policy):
        return sum(
            loss[decision.choices.index(getattr(policy[decision.layers[0]], decision.role))]
            for decision, loss in zip(space.decisions, losses, strict=True)
        )

    found = covering_within(problem, losses, {cost.info.name: limit})
    assert cost(found) <= limit * (1 + 1e-9)
    assert problem.broken_budget(found) is None
    best = min(lost(policy) for policy in space.to_policies(grid[kept & (costs <= limit)]))
    assert lost(found) == pytest.approx(best, abs=1e-6)


def test_a_limit_that_no_policy_keeps_is_refused():
    problem = make_toy(**TOYS["every combination is legal"]).problem
    losses = [[0.0] * len(decision.choices) for decision in problem.space.decisions]
    least = problem.costs[0](problem.space.lowest())
    with pytest.raises(InfeasibleBudget, match=f"the cheapest legal policy costs {least:.6g}"):
        covering_within(problem, losses, {"latency_s": 0.9 * least})


def test_losses_that_are_not_finite_are_refused():
    problem = make_toy(**TOYS["every combination is legal"]).problem
    losses = [[0.0] * len(decision.choices) for decision in problem.space.decisions]
    losses[2][1] = float("nan")
    decision = problem.space.decisions[2]
    with pytest.raises(InputError, match=f"the loss of {decision.choices[1]} bits for '{decision.name}' is not finite"):
        covering_within(problem, losses, {})
