"""Profiles of TensorRT: ``trtexec --exportProfile=FILE``, or ``--exportProfile`` with ``--separateProfileRun``."""

from __future__ import annotations

import re
from typing import Any

from mobo_mpq.errors import InputError
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.profiles.entries import CONVOLUTIONS, PRODUCTS, Entry, Profile, checked_profile, checked_time

RUNTIME = "TensorRT trtexec"
_TIMES = ("medianMs", "averageMs")  # old versions have no median


def recognises(content: Any) -> bool:
    """Whether a JSON document is such a profile, or a broken one: a list whose elements count, or have a name."""
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    return "count" in content[0] or {"name", "percentage"} <= content[0].keys()


def read(content: list[Any], file: str) -> Profile:
    """The layers of an engine.

    Raises:
        InputError: an element that is no layer, without a time in milliseconds, or that repeats.
    """
    entries: dict[str, Entry] = {}
    for number, element in enumerate(content):
        if isinstance(element, dict) and number == 0 and "name" not in element:
            continue  # how often the engine ran
        if not isinstance(element, dict) or not isinstance(element.get("name"), str):
            raise InputError(
                f"profile '{file}': element {number} has no name; expected what trtexec --exportProfile writes"
            )
        name = element["name"]
        if name in entries:
            raise InputError(f"profile '{file}': operator '{name}' comes twice; export the profile of one engine")
        times = [element[key] for key in _TIMES if key in element]
        if not times:
            raise InputError(
                f"profile '{file}': operator '{name}' has neither {_TIMES[0]} nor {_TIMES[1]}, but "
                f"{', '.join(map(str, element))}; expected milliseconds, as trtexec --exportProfile writes them"
            )
        entries[name] = Entry(name, checked_time(times[0], file, name, "ms") * 1e-3, _kinds(name))
    return checked_profile(Profile(file, RUNTIME, tuple(entries.values())))


def _kinds(name: str) -> frozenset[OpKind]:
    """What a fused layer may be: its name is all that TensorRT says."""
    if name.startswith("Reformatting"):
        return frozenset()
    if re.search(r"conv(?!ert|trans)", name, re.IGNORECASE):
        return CONVOLUTIONS
    return PRODUCTS if re.search(r"gemm|linear|matmul|dense|\bfc|_fc|fully", name, re.IGNORECASE) else frozenset()
