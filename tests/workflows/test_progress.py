"""A bar on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.study import Study
from mobo_mpq.workflows.progress import Reporter


def make_study() -> Study:
    bits = np.array([2.0, 4.0, 8.0])
    problem = Problem.from_tables(
        ["a", "b"],
        weight_bits=(2, 4, 8),
        activation_bits=(8,),
        costs={"latency_s": np.stack([bits, bits])},
        references={"latency_s": 16.0},
        quality=ObjectiveInfo("accuracy", "", "maximize", 0.0),  # type: ignore[arg-type]
    )
    return Study(problem, make_strategy("sobol", problem, seed=0))


def run(terminal: bool) -> str:
    out = io.StringIO()
    study = make_study()
    reporter = Reporter(Console(file=out, force_terminal=terminal, width=200), study, total=3, float_quality=1.0)
    with reporter.running():
        for value in (0.9, None, 0.5):
            (trial,) = study.ask()
            values = None if value is None else {"accuracy": Measurement(value)}
            reporter.finished(study.tell(trial.number, values, error="boom" if value is None else None))
    return out.getvalue()


def test_one_line_per_trial_where_there_is_no_terminal() -> None:
    lines = run(terminal=False).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        "[1/3] trial   0  accuracy 90.00 %  latency_s 16.000 s  W8.0/A8.0  highest  hypervolume 0.00 %"
    )
    assert lines[1].startswith("[2/3] trial   1  failed: boom")


def test_a_bar_with_hypervolume_ends_of_the_front_and_time_left_on_a_terminal() -> None:
    shown = run(terminal=True)
    assert "3/3" in shown
    assert "hypervolume" in shown
    assert "90.00 % at 16.000 s" in shown
    assert "left" in shown
    assert "failed: boom" in shown
