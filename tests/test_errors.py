import inspect

import pytest

from mobo_mpq import errors
from mobo_mpq.errors import InfeasibleBudget, InputError, MoboError, UnknownName, WorkError


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]
    assert all(issubclass(cls, MoboError) for cls in classes)
    assert all(cls is MoboError or issubclass(cls, InputError) != issubclass(cls, WorkError) for cls in classes)
    assert errors.__doc__ is not None
    assert all(cls.__name__ in errors.__doc__ for cls in classes)


@pytest.mark.parametrize(
    ("name", "known", "hint", "message"),
    [
        ("mpci", ["mpic", "bitfusion"], "", "unknown target 'mpci'; known: bitfusion, mpic. Did you mean 'mpic'?"),
        ("x", ["mpic"], "Run 'mobo-mpq targets'.", "unknown target 'x'; known: mpic. Run 'mobo-mpq targets'."),
        ("x", [], "", "unknown target 'x'; known: none."),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name: str, known: list[str], hint: str, message: str) -> None:
    error = UnknownName("target", name, known, hint)
    assert str(error) == message
    assert (error.kind, error.name, error.known) == ("target", name, tuple(sorted(known)))


def test_an_infeasible_budget_says_what_is_possible() -> None:
    assert str(InfeasibleBudget("latency_s", 0.002, 0.001)) == (
        "budget 'latency_s' of 0.001 is impossible: the cheapest legal policy costs 0.002; "
        "raise the budget to at least that, or allow fewer bits"
    )
    assert "the cheapest legal policy within the budget on 'a' and 'b' costs 2;" in str(
        InfeasibleBudget("c", 2, 1, ["a", "b"])
    )


@pytest.mark.parametrize("cheapest", [0.002, 1 / 3, 2 / 3, 1234567.1, 6.8e-08, 70 / 3 * 1e-5])
def test_the_budget_that_is_named_as_possible_is_possible(cheapest: float) -> None:
    named = float(str(InfeasibleBudget("latency_s", cheapest, 0.0)).partition("costs ")[2].partition(";")[0])
    assert cheapest * (1 - 1e-9) <= named <= cheapest * (1 + 1e-5)
