"""Profiles of ONNX Runtime: ``SessionOptions.enable_profiling``, some runs, ``session.end_profiling()``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.profiles.entries import CONVOLUTIONS, PRODUCTS, Entry, Profile, checked_profile, checked_time

RUNTIME = "ONNX Runtime"
_SUFFIX = "_kernel_time"
_CONVOLUTIONS = {"Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcFusedConv", "NhwcConv", "QConv"}
_PRODUCTS = {
    "Gemm", "FusedGemm", "QGemm", "GemmFloat8", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "MatMulBnb4",
}  # fmt: skip


def recognises(content: Any) -> bool:
    """Whether a JSON document is such a profile: a list of events."""
    return isinstance(content, list) and any(
        isinstance(event, dict) and {"cat", "ph"} <= event.keys() for event in content
    )


def read(content: list[Any], file: str) -> Profile:
    """The kernels of all runs; the first run warms up, and does not count where there are more.

    The time of a kernel is the mean of the middle half of its runs: durations are whole microseconds, in which the
    median of a short kernel would have few digits.

    Raises:
        InputError: a time that is none, or no kernel.
    """
    events = [event for event in content if isinstance(event, dict)]
    runs = sum(event.get("cat") == "Session" and event.get("name") == "model_run" for event in events)
    durations: dict[str, list[float]] = defaultdict(list)
    arguments: dict[str, Mapping[str, Any]] = {}
    for event in events:
        name = str(event.get("name"))
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            name = name.removesuffix(_SUFFIX)
            durations[name].append(checked_time(event.get("dur"), file, name, "µs"))
            given = event.get("args")
            arguments.setdefault(name, given if isinstance(given, dict) else {})
    runs = runs or min(map(len, durations.values()), default=1)
    return checked_profile(
        Profile(file, RUNTIME, tuple(_entry(name, durations[name], runs, arguments[name]) for name in durations))
    )


def _entry(name: str, microseconds: list[float], runs: int, arguments: Mapping[str, Any]) -> Entry:
    calls = max(1, len(microseconds) // runs)  # of nodes that share a name, or are in a loop, several in each run
    whole = len(microseconds) // calls
    totals = np.asarray(microseconds[: whole * calls], dtype=np.float64).reshape(whole, calls).sum(1)
    totals = totals[1:] if whole > 1 else totals
    low, high = np.quantile(totals, [0.25, 0.75])
    middle = totals[(totals >= low) & (totals <= high)]
    shape = _shape(arguments.get("output_type_shape"), 0)
    seconds, std = float(middle.mean()) * 1e-6, float(totals.std()) * 1e-6
    return Entry(name, seconds, _kinds(arguments), shape, std, len(totals))


def _kinds(arguments: Mapping[str, Any]) -> frozenset[OpKind]:
    operator = arguments.get("op_name")
    if operator in _CONVOLUTIONS:
        return CONVOLUTIONS
    # a product of two activations is no layer
    return PRODUCTS if operator in _PRODUCTS and str(arguments.get("parameter_size", "1")) != "0" else frozenset()


def _shape(shapes: Any, index: int) -> tuple[int, ...]:
    """Of one tensor among ``[{"float": [1, 16, 8, 8]}, ...]``; empty where it is not known."""
    try:
        (sizes,) = shapes[index].values()
        return tuple(int(size) for size in sizes)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return ()
