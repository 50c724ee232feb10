from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.objective import Direction, Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.testing.toys import make_toy

ACCURACY = ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.1)
TABLE = [[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]  # (2, 4), (2, 8), (4, 4), (4, 8)


def _problem(**changes: Any) -> Problem:
    arguments: dict[str, Any] = {
        "weight_bits": (2, 4),
        "activation_bits": (4, 8),
        "costs": {"size_bytes": TABLE},
        "references": {"size_bytes": 44.0},
        "quality": ACCURACY,
    }
    return Problem.from_tables(["a", "b"], **(arguments | changes))


def test_tables_are_read_in_the_order_of_the_product() -> None:
    cost = _problem().cost("size_bytes")
    assert cost(Policy.of({"a": (2, 8), "b": (4, 4)})) == 32.0
    assert (cost.info.unit, cost.info.reference) == ("byte", 44.0)


def test_bits_may_come_in_any_order() -> None:
    swapped = [[row[i] for i in (3, 2, 1, 0)] for row in TABLE]
    problem = _problem(weight_bits=(4, 2), activation_bits=(8, 4), costs={"size_bytes": swapped}, sensitivity=swapped)
    assert (problem.cost("size_bytes").table == TABLE).all()
    assert problem.sensitivity is not None
    assert (problem.sensitivity == TABLE).all()


def test_objectives_come_in_order_and_are_maximised() -> None:
    problem = _problem(
        costs={"size_bytes": TABLE, "latency_s": TABLE}, references={"size_bytes": 44.0, "latency_s": 50.0}
    )
    assert [info.name for info in problem.infos] == ["accuracy", "size_bytes", "latency_s"]
    assert [info.unit for info in problem.infos] == ["", "byte", "s"]
    assert problem.quality is ACCURACY
    assert problem.reference.tolist() == [0.1, -44.0, -50.0]
    policy = Policy.of({"a": (2, 4), "b": (2, 4)})
    values = {"accuracy": Measurement(0.7), **problem.cost_values(policy)}
    assert problem.maximised(values).tolist() == [0.7, -11.0, -11.0]
    assert problem.cost_values(policy)["size_bytes"] == Measurement(11.0, 0.0)


def test_budgets_hold_up_to_rounding() -> None:
    problem = _problem(budgets={"size_bytes": 22.0})
    assert problem.broken_budget(Policy.of({"a": (2, 8), "b": (2, 8)})) is None
    broken = problem.broken_budget(Policy.of({"a": (4, 4), "b": (2, 8)}))
    assert str(broken) == "size_bytes of 23 is over the budget of 22"
    levels = problem.space.grid()
    expected = [problem.broken_budget(policy) is None for policy in problem.space.to_policies(levels)]
    assert problem.affordable(levels).tolist() == expected
    assert (problem.excess(levels) == 0).tolist() == expected
    over = problem.space.to_levels([Policy.of({"a": (4, 4), "b": (4, 4)})])
    assert problem.excess(over).tolist() == pytest.approx([11 / 22])
    assert problem.cheapest("size_bytes") == problem.space.lowest()


def test_a_budget_may_be_on_a_cost_that_is_no_objective() -> None:
    toy = make_toy(3, budgets={"size_bytes": 0.5})
    assert [info.name for info in toy.problem.infos] == ["accuracy", "latency_s"]
    assert toy.problem.broken_budget(toy.problem.space.highest()) is not None
    assert list(toy.problem.cost_values(toy.problem.space.highest())) == ["latency_s"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"costs": {"size_bytes": [[1.0]]}},
            r"table 'size_bytes' has shape \(1, 1\); expected \(2, 4\), layers x options",
        ),
        ({"costs": {"size_bytes": [[np.nan] * 4] * 2}}, "table 'size_bytes' holds values that are not finite"),
        ({"sensitivity": [[1.0]]}, r"table 'sensitivity' has shape \(1, 1\)"),
        ({"references": {}}, "cost 'size_bytes' has no reference; give its worst value of interest"),
        (
            {"costs": {}},
            "a problem trades at least one measured quality against at least one cost; got 1 measured and 0 costs",
        ),
        ({"budgets": {"latency_s": 1.0}}, "no cost 'latency_s' in this problem; it has size_bytes"),
        ({"budgets": {"size_bytes": float("nan")}}, "budget 'size_bytes' is not a number"),
        (
            {"quality": replace(ACCURACY, name="size_bytes")},
            "objectives are called size_bytes, size_bytes; expected each",
        ),
    ],
)
def test_problems_that_are_none_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _problem(**changes)


def test_an_impossible_budget_is_named_with_the_cheapest_value() -> None:
    with pytest.raises(InfeasibleBudget, match="budget 'size_bytes' of 10 is impossible: .* costs 11;"):
        _problem(budgets={"size_bytes": 10.0})
    both = {"small": TABLE, "large": [[-cost for cost in row] for row in TABLE]}
    with pytest.raises(InfeasibleBudget, match="'large' of -40 .* within the budget on 'small' costs -11;"):
        _problem(costs=both, references={"small": 44.0, "large": 0.0}, budgets={"small": 11.0, "large": -40.0})


def test_several_measured_objectives_in_any_order() -> None:
    loss = ObjectiveInfo("loss", "nat", Direction.MINIMIZE, 2.0)
    problem = _problem(quality=[ACCURACY, loss])
    assert [info.name for info in problem.infos] == ["accuracy", "loss", "size_bytes"]
    cost = problem.costs[0]
    problem = replace(problem, objectives=(loss, cost, ACCURACY))
    assert [info.name for info in problem.infos] == ["loss", "size_bytes", "accuracy"]
    assert problem.measured == (loss, ACCURACY)
    assert problem.quality is loss
    assert problem.reference.tolist() == [-2.0, -44.0, 0.1]
    values = {"accuracy": Measurement(0.7), "loss": Measurement(0.5), "size_bytes": Measurement(11.0)}
    assert problem.maximised(values).tolist() == [-0.5, -11.0, 0.7]


def test_a_problem_measures_something() -> None:
    with pytest.raises(InputError, match="got 0 measured and 1 costs"):
        _problem(quality=[])
    with pytest.raises(InputError, match="objectives are called accuracy, accuracy, size_bytes; expected each name"):
        _problem(quality=[ACCURACY, ACCURACY])
