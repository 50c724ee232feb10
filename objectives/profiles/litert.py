"""Profiles of LiteRT: ``benchmark_model --enable_op_profiling=true --profiling_output_csv_file=FILE``."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping

from mobo_mpq.errors import InputError
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.profiles.entries import PRODUCTS, Entry, Profile, checked_profile, checked_time

RUNTIME = "LiteRT benchmark_model"
_TIMES = ("avg_ms", "avg ms")


def recognises(text: str) -> bool:
    """Whether a text is such a profile: it has a table of nodes."""
    return re.search(r"^\s*\[?node type\]?\s*,", text, re.IGNORECASE | re.MULTILINE) is not None


def read(text: str, file: str) -> Profile:
    """The operators in their order of execution, from the table of the regular runs.

    The file has sections (initialization, regular runs), and in each several tables of the same operators by other
    orders; the first table after initialization counts.

    Raises:
        InputError: no such table, other units, a line that is cut off, or a time that is none.
    """
    lines = text.splitlines()
    start = _table(lines, file)
    columns = [_column(cell) for cell in next(csv.reader([lines[start]], skipinitialspace=True))]
    time = next((column for column in _TIMES if column in columns), None)
    if time is None or "name" not in columns:
        raise InputError(
            f"profile '{file}', line {start + 1}: the columns are {', '.join(columns)}; expected {_TIMES[0]} and name, "
            "as benchmark_model writes them"
        )
    entries = []
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if not line.strip() or line.startswith("="):
            break
        cells = next(csv.reader([line], skipinitialspace=True))
        if len(cells) < len(columns):
            raise InputError(
                f"profile '{file}', line {number}: {len(cells)} cells under {len(columns)} columns; copy the whole file"
            )
        cells[len(columns) - 1 :] = [",".join(cells[len(columns) - 1 :])]  # names may have commas
        entries.append(_entry(dict(zip(columns, map(str.strip, cells), strict=True)), time, file))
    return checked_profile(Profile(file, RUNTIME, tuple(entries)))


def _table(lines: list[str], file: str) -> int:
    """The line of the header that counts."""
    initialization = False
    for number, line in enumerate(lines):
        if re.search(r"Profiling Info for", line, re.IGNORECASE):
            initialization = "initialization" in line.lower()
        elif re.match(r"\s*\[?node type\]?\s*,", line, re.IGNORECASE) and "name" in line.lower() and not initialization:
            return number
    raise InputError(
        f"profile '{file}' has no table of operators of the regular runs; give benchmark_model "
        "--enable_op_profiling=true and --profiling_output_csv_file"
    )


def _column(cell: str) -> str:
    return cell.strip().strip("[]").lower()


def _entry(cells: Mapping[str, str], time: str, file: str) -> Entry:
    name, kind = cells["name"], cells.get("node type", "")
    milliseconds = checked_time(_number(cells[time]), file, name, "ms")
    calls = _number(cells.get("times called", "1"))
    times = calls if isinstance(calls, float) and math.isfinite(calls) and calls > 0 else 1.0
    return Entry(name, milliseconds * times * 1e-3, _kinds(kind))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _kinds(kind: str) -> frozenset[OpKind]:
    """Of a built-in operator, ``DEPTHWISE_CONV_2D``, or of a kernel of XNNPACK, ``Convolution (NHWC, QC8) IGEMM``."""
    if re.search(r"transpose|deconv", kind, re.IGNORECASE):
        return frozenset()
    if re.search(r"depthwise|dwconv", kind, re.IGNORECASE):
        return frozenset({OpKind.DEPTHWISE})
    if re.search(r"conv", kind, re.IGNORECASE):
        return frozenset({OpKind.CONV})
    return PRODUCTS if re.search(r"fully.?connected", kind, re.IGNORECASE) else frozenset()
