"""What a runtime's profiler says of one operator, and the ways of finding out which profiler wrote a file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from mobo_mpq.errors import InputError
from mobo_mpq.layers import OpKind

CONVOLUTIONS = frozenset({OpKind.CONV, OpKind.DEPTHWISE})
PRODUCTS = frozenset({OpKind.LINEAR})


@dataclass(frozen=True, slots=True)
class Entry:
    """One operator of a profile, after fusion.

    Attributes:
        name: that the runtime gave it.
        seconds: of one run of the whole batch.
        kinds: of layers that it may be; empty for what is no layer, such as a pooling.
        output_shape: with the batch, where the profiler says it; empty otherwise. The order of its axes may be any.
        std_s: spread over the runs, where the profiler says it.
        repeats: runs that ``seconds`` is the middle of, where the profiler says it.
    """

    name: str
    seconds: float
    kinds: frozenset[OpKind] = frozenset()
    output_shape: tuple[int, ...] = ()
    std_s: float | None = None
    repeats: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """One run of the whole network at one precision.

    Attributes:
        file: its name, for messages.
        runtime: that wrote it.
        entries: in the order in which they ran.
    """

    file: str
    runtime: str
    entries: tuple[Entry, ...]


def parse_json(text: str, file: str) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: when it is cut off, or no JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"profile '{file}' is not whole JSON: {error.msg} at line {error.lineno}; let the profiler end on its own, "
            "and copy the whole file"
        ) from None
    except RecursionError:
        raise InputError(f"profile '{file}' is nested too deeply to be a profile; check the file") from None


def checked_time(value: Any, file: str, name: str, unit: str) -> float:
    """A finite number of at least 0, in the profiler's unit.

    Raises:
        InputError: naming the file, the operator and the value.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and number >= 0):
        raise InputError(
            f"profile '{file}': operator '{name}' took {value!r} {unit}; expected a finite number of at least 0: "
            "profile again"
        )
    return float(number)


def checked_profile(profile: Profile) -> Profile:
    """The same profile, unless it says nothing.

    Raises:
        InputError: when it has no operator, or all took no time.
    """
    if not any(entry.seconds for entry in profile.entries):
        raise InputError(
            f"profile '{profile.file}' of {profile.runtime} holds no operator that took any time; profile some runs"
        )
    return profile
