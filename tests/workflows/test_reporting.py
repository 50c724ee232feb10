from __future__ import annotations

import json
import math

import pytest

from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.reporting import compact, dump, mean_bits, show, show_measured, trial_line


def info(name: str, unit: str) -> ObjectiveInfo:
    return ObjectiveInfo(name, unit, "minimize", 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "unit", "value", "shown"),
    [
        ("latency_s", "s", 2.5, "2.500 s"),
        ("latency_s", "s", 1.5e-3, "1.500 ms"),
        ("latency_s", "s", 9.87e-6, "9.870 µs"),
        ("energy_j", "J", 2e-8, "20.000 nJ"),
        ("energy_j", "J", 2e-12, "0.002 nJ"),
        ("size_bytes", "byte", 2_345_678, "2.346 MB"),
        ("size_bytes", "byte", 12, "12.000 B"),
        ("bops", "bit-op", 3.2e9, "3.200 GBOP"),
        ("accuracy", "", 0.98765, "98.77 %"),
        ("bits_per_char", "", 2.03456, "2.035"),
        ("latency_cycles", "cycle", 12.0, "12 cycle"),
    ],
)
def test_display_units(name: str, unit: str, value: float, shown: str) -> None:
    assert show(info(name, unit), value) == shown


def test_standard_errors_are_shown_where_known() -> None:
    accuracy = info("accuracy", "")
    assert show_measured(accuracy, Measurement(0.9, 0.0123)) == "90.00 % ± 1.23"
    assert show_measured(accuracy, Measurement(0.9)) == "90.00 %"
    assert show_measured(accuracy, None) == "-"
    assert show_measured(info("bits", ""), Measurement(2.0, 0.012)) == "2 ± 0.012"


def test_accuracies_that_come_in_percent_are_left_so() -> None:
    percent = ObjectiveInfo("accuracy", "", "maximize", 87.0)  # type: ignore[arg-type]
    assert show_measured(percent, Measurement(97.25, 0.5)) == "97.25 ± 0.5"


def test_policies_in_one_line() -> None:
    policy = Policy.of({"a": (8, 4), "b": (2, 8)})
    assert compact(policy) == "W 82 A 48"
    assert compact(Policy.of({"a": (16, 4), "b": (2, 8)})) == "W 16,2 A 48"
    deep = Policy.of({str(n): (8, 8) for n in range(100)})
    assert compact(deep, limit=5) == "W 8888… A 8888…"
    assert mean_bits(policy) == (5.0, 6.0)


def test_a_line_per_trial() -> None:
    values = {"latency_s": Measurement(1e-3, 0.0)}
    done = Trial(7, TrialState.COMPLETE, Policy.of({"a": (8, 4)}), "sobol", values)
    assert trial_line((info("latency_s", "s"),), done) == "trial   7  latency_s 1.000 ms  W8.0/A4.0  sobol"
    failed = Trial(8, TrialState.FAILED, None, "sobol", error="boom")
    assert trial_line((), failed) == "trial   8  failed: boom"


def test_json_never_holds_nan() -> None:
    assert json.loads(dump({"a": 1.5})) == {"a": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"a": math.nan})
