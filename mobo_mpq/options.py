"""Options of recipes and strategies: plain values of a study file, checked against a dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar, get_args, get_type_hints

from mobo_mpq.errors import InputError, UnknownName

D = TypeVar("D")


def parse_options(options: type[D], values: Mapping[str, float | str], owner: str) -> D:
    """Options as a dataclass whose fields are numbers (``float``, ``float | None``) and words (``str``).

    Args:
        options: the dataclass; its own checks run, too.
        values: as the user wrote them; what is missing has its default.
        owner: whose options they are, for messages: "recipe 'ptq'".

    Raises:
        UnknownName: for an option that is no field.
        InputError: for a word where a number is expected, or what the dataclass refuses.
    """
    hints = get_type_hints(options)
    kinds = {field.name: hints[field.name] for field in fields(options)}  # type: ignore[arg-type]
    found: dict[str, float | str] = {}
    for name, value in values.items():
        if name not in kinds:
            raise UnknownName(f"option of {owner}", name, kinds)
        is_number = float in (kinds[name], *get_args(kinds[name]))
        try:
            found[name] = float(value) if is_number else str(value)
        except (TypeError, ValueError):
            raise InputError(f"option '{name}' of {owner} is {value!r}; expected a number") from None
    return options(**found)


def is_whole(value: float, least: float, most: float = math.inf) -> bool:
    """Whether a number is a whole one of a range; infinity and NaN, which TOML has too, are none."""
    return least <= value <= most and float(value).is_integer()


def check_each(options: object, owner: str, legal: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse the first option whose value makes no sense.

    Args:
        options: a dataclass.
        owner: whose options they are, for messages: "the fine-tune".
        legal: name of an option -> whether its value is legal, and what is expected.

    Raises:
        InputError: naming option and value.
    """
    for name, (holds, expected) in legal.items():
        if not holds:
            raise InputError(f"option '{name}' of {owner} is {getattr(options, name)!r}; expected {expected}")
