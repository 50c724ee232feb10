from __future__ import annotations

from dataclasses import dataclass

import pytest

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.options import check_each, is_whole, parse_options
from mobo_mpq.strategies.base import NoOptions


@dataclass(frozen=True)
class Example:
    rate: float = 0.5
    limit: float | None = None
    word: str = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise InputError(f"rate is {self.rate}; expected 0 or more")


def test_what_is_missing_has_its_default() -> None:
    assert parse_options(Example, {}, "x") == Example()
    assert parse_options(Example, {"rate": 1, "limit": "2", "word": 3.0}, "x") == Example(1.0, 2.0, "3.0")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rote": 1.0}, "unknown option of recipe 'x' 'rote'; known: limit, rate, word. Did you mean 'rate'?"),
        ({"rate": "fast"}, "option 'rate' of recipe 'x' is 'fast'; expected a number"),
        ({"limit": "none"}, "option 'limit' of recipe 'x' is 'none'; expected a number"),
        ({"rate": -1.0}, "rate is -1.0; expected 0 or more"),
    ],
)
def test_wrong_options_are_named(values: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_options(Example, values, "recipe 'x'")
    assert str(refused.value) == message


def test_where_there_are_none() -> None:
    with pytest.raises(UnknownName, match="unknown option of strategy 'tpe' 'beta'; known: none"):
        parse_options(NoOptions, {"beta": 1.0}, "strategy 'tpe'")


def test_values_that_make_no_sense_are_named() -> None:
    legal = {"rate": (True, "0 or more"), "limit": (False, "a number above 0"), "word": (False, "a or b")}
    with pytest.raises(InputError, match="^option 'limit' of recipe 'x' is -1.0; expected a number above 0$"):
        check_each(Example(0.5, -1.0), "recipe 'x'", legal)
    check_each(Example(), "recipe 'x'", {"rate": (True, "0 or more")})


def test_whole_numbers_of_a_range() -> None:
    assert all(is_whole(value, 1) for value in (1, 1.0, 7.0, 1e300))
    assert not any(is_whole(value, 1) for value in (0.0, 1.5, float("inf"), float("-inf"), float("nan")))
    assert is_whole(8, 1, 8) and not is_whole(9.0, 1, 8)
