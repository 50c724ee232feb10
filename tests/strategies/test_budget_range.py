"""What sweeps of budgets span, with the strategies that make them."""

import re

import pytest

from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.toys import make_toy

SWEEPS = ["ddq", "haq", "seam"]


def budgets(name, trials, problem, options=None):
    """Of each cost, the budgets that are asked for, as shares of what the highest bits cost."""
    strategy, found = make_strategy(name, problem, 0, options), {}
    for number in range(1, trials):
        if name == "haq":
            goal = strategy.goal(number)
            cost = strategy.costs[goal.cost]
            aim = {"cost": cost.info.name, "budget": goal.limit / cost(problem.space.highest())}
        else:
            aim = strategy.ask(1 if number > 1 else 2)[-1].learner.options
        found.setdefault(aim["cost"], []).append(aim["budget"])
    return found


@pytest.mark.parametrize("name", SWEEPS)
def test_budgets_end_at_the_studys_own(name):
    problem = make_toy(4, size=True, budgets={"latency_s": 0.5}).problem
    found = budgets(name, 65, problem)
    assert 0.25 < min(found["latency_s"]) < 0.3 and max(found["latency_s"]) < 0.5
    for highest, limit in ((0.9, 0.5), (0.4, 0.4)):
        found = budgets(name, 33, problem, {"cost": "latency_s", "lowest": 0.3, "highest": highest})
        assert 0.3 < min(found["latency_s"]) < 0.32 and limit - 0.02 < max(found["latency_s"]) < limit


@pytest.mark.parametrize("name", ["ddq", "seam"])
def test_a_budget_on_one_cost_leaves_the_sweep_of_another_alone(name):
    problems = make_toy(4, size=True, budgets={"latency_s": 0.5}).problem, make_toy(4, size=True).problem
    tight, free = (make_strategy(name, problem, 0).lines() for problem in problems)
    ends = [[(line.fixed["cost"], line.start, line.end) for line in lines] for lines in (tight, free)]
    (cost, start, end), size = ends[1]
    assert cost == "latency_s" and start == 1.0
    assert ends[0] == [(cost, 0.5, end), size] and size[0] == "size_bytes"


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize(("options", "limits", "message"), [
    ({"lowest": 0.2}, {}, "'lowest' of {} is 0.2; expected at least 0.25, what the cheapest legal policy takes of the "
     "latency_s of the highest bits; or allow fewer bits"),
    ({"highest": 0.2}, {}, "'highest' of {} is 0.2; expected at least 0.25, what the cheapest legal policy takes"),
    ({"lowest": 0.2}, {"latency_s": 0.5},
     "'lowest' of {} is 0.2; expected at least 0.25, what the cheapest legal policy takes"),
    ({"highest": 0.2}, {"size_bytes": 0.5},
     "'highest' of {} is 0.2; expected at least 0.25, what the cheapest legal policy within the budget on size_bytes"),
    ({"lowest": 0.6, "highest": 0.6}, {"latency_s": 0.5},
     "'lowest' of {} is 0.6; expected at most 0.5, where budgets on latency_s end; lower it, or raise 'highest' or "
     "the study's budget"),
])  # fmt: skip
def test_ends_beyond_what_can_be_reached_are_refused(name, options, limits, message):
    named = re.escape(message.format(f"strategy '{name}'"))
    with pytest.raises(InputError, match=f"^option {named}"):
        make_strategy(name, make_toy(4, budgets=limits).problem, 0, options)


@pytest.mark.parametrize("name", SWEEPS)
def test_the_share_that_a_refusal_names_is_taken(name):
    thirds = {"weight_bits": (8, 16, 24)}  # shares without an end
    with pytest.raises(InputError, match=r"expected at least 0\.3334, "):
        make_strategy(name, make_toy(4, **thirds).problem, 0, {"lowest": 0.3333})
    least = {"lowest": 0.3334, "highest": 0.3334}
    assert budgets(name, 4, make_toy(4, **thirds).problem, least)["latency_s"] == pytest.approx([0.3334] * 3)
    problem = make_toy(4, budgets={"latency_s": 2 / 3}, **thirds).problem
    with pytest.raises(InputError, match=r"expected at most 0\.6666, "):
        make_strategy(name, problem, 0, {"lowest": 0.7, "highest": 0.9})
    assert max(budgets(name, 4, problem, {"lowest": 0.6666, "highest": 0.9})["latency_s"]) <= 2 / 3


@pytest.mark.parametrize("name", SWEEPS)
def test_a_study_with_room_for_the_cheapest_policy_alone_asks_for_that(name):
    problem = make_toy(4, budgets={"latency_s": 0.25}).problem
    assert budgets(name, 5, problem)["latency_s"] == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_cost_that_there_is_not_and_a_budget_that_no_policy_keeps_are_refused_before_any_trial(name):
    with pytest.raises(InputError, match="no cost 'energy_j' in this problem; it has latency_s, size_bytes"):
        make_strategy(name, make_toy(4).problem, 0, {"cost": "energy_j"})
    with pytest.raises(
        InfeasibleBudget, match="budget 'latency_s' of .* is impossible: the cheapest legal policy costs"
    ):
        make_strategy(name, make_toy(4, budgets={"latency_s": 0.2}).problem, 0)
