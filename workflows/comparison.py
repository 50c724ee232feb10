"""What a comparison found: hypervolume against trials and CPU time; as data, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table

from mobo_mpq.config import StudyConfig
from mobo_mpq.front import hypervolume_share
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import SCHEMA, show, show_share


class CpuTime(NamedTuple):
    """CPU time of a study, in seconds.

    Attributes:
        evaluations: to quantize, train and score, on the workers.
        proposals: the strategy's own, learning included.
        sensitivities: what they had cost when they were measured, whoever paid.
    """

    evaluations: float
    proposals: float
    sensitivities: float

    @property
    def total(self) -> float:
        """Of all three."""
        return sum(self)


class Curve:
    """One study, as far as it is compared.

    Args:
        record: of the study, which has ended.
        seed: of the study.
        trials: evaluations that count; what a study has beyond them does not.
    """

    def __init__(self, record: StudyRecord, seed: int, trials: int) -> None:
        self.record, self.seed, self.trials = record, seed, trials

    @cached_property
    def evaluations(self) -> list[int]:
        """Finished trials at the end of each evaluation: those refused for their budget are none."""
        ends = [index for index, trial in enumerate(self.record.finished, start=1) if trial.was_evaluated]
        return ends[: self.trials]

    @cached_property
    def shares(self) -> list[float]:
        """After each evaluation, the hypervolume as the share of the box that ``mobo-mpq pareto`` shows."""
        record = self.record
        found: list[float] = []
        ideal = record.float_values[record.quality.name].value
        for end in self.evaluations:
            trials = record.finished[:end]
            grew = not found or trials[-1].state is TrialState.COMPLETE
            found.append(hypervolume_share(record.infos, trials, ideal) if grew else found[-1])
        return found

    def share(self, evaluations: int) -> float:
        """After so many evaluations; after the last, where the strategy had nothing more to propose."""
        return self.shares[min(evaluations, len(self.shares)) - 1]

    @cached_property
    def cpu_times(self) -> list[CpuTime] | None:
        """After each evaluation; ``None`` where a trial is of a version that did not look."""
        sensitivity = self.record.header.get("sensitivity")
        spent = CpuTime(0.0, 0.0, float(sensitivity["cpu_s"]) if sensitivity else 0.0)
        found: list[CpuTime] = []
        for trial in self.record.finished[: self.evaluations[-1]]:
            if trial.proposal_cpu_s is None or (trial.cpu_s is None and trial.seconds is not None):
                return None
            evaluations, proposals, sensitivities = spent
            spent = CpuTime(evaluations + (trial.cpu_s or 0.0), proposals + trial.proposal_cpu_s, sensitivities)
            if trial.was_evaluated:
                found.append(spent)
        return found

    @cached_property
    def test_share(self) -> float | None:
        """Of the front as the test split scores it, up to the float model's quality there; ``None`` without a split.

        The front is that of all trials, so a study with more of them than are compared has none either.
        """
        record, name = self.record, self.record.quality.name
        if not record.float_tested or record.evaluated > self.trials:
            return None
        members = [_tested(trial, record) for trial in record.pareto() if trial.number in record.tested]
        return hypervolume_share(record.infos, members, record.float_tested[name].value)


def _tested(trial: Trial, record: StudyRecord) -> Trial:
    return replace(trial, values={**trial.values, **record.tested[trial.number]})


@dataclass(frozen=True)
class Comparison:
    """Strategies on equal terms.

    Attributes:
        config: what the studies have in common; its name is that of the comparison.
        curves: strategy -> one for each seed, in the order in which they were asked for.
    """

    config: StudyConfig
    curves: Mapping[str, Sequence[Curve]]

    @property
    def first(self) -> StudyRecord:
        """Any of the studies: task, objectives and references are those of all."""
        return next(iter(self.curves.values()))[0].record

    @property
    def seeds(self) -> list[int]:
        """Of the studies of each strategy."""
        return [curve.seed for curve in next(iter(self.curves.values()))]

    @property
    def marks(self) -> list[int]:
        """Numbers of evaluations after which the table looks: a quarter, half, all."""
        return sorted({max(1, self.config.trials // part) for part in (4, 2, 1)})

    def cpu_time(self, strategy: str) -> CpuTime | None:
        """Medians over the seeds at the end; ``None`` where it is not known of all."""
        ends = [curve.cpu_times[-1] if curve.cpu_times else None for curve in self.curves[strategy]]
        known = [end for end in ends if end is not None]
        return CpuTime(*map(median, zip(*known, strict=True))) if len(known) == len(ends) else None

    def test_shares(self, strategy: str) -> list[float] | None:
        """Of each seed; ``None`` where it is not known of all."""
        found = [curve.test_share for curve in self.curves[strategy]]
        known = [share for share in found if share is not None]
        return known if len(known) == len(found) else None


# --- for programs -----------------------------------------------------------------------------------------------------


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """As ``mobo-mpq compare --json`` prints it."""
    config, first = comparison.config, comparison.first
    return {
        "schema": SCHEMA,
        "comparison": config.name,
        "task": config.task,
        "target": first.header["target"],
        "recipe": config.recipe,
        "trials": config.trials,
        "seeds": comparison.seeds,
        "objectives": [
            {"name": i.name, "unit": i.unit, "direction": str(i.direction), "reference": i.reference}
            for i in first.infos
        ],
        "float": {name: value.value for name, value in first.float_values.items()},
        "strategies": [_strategy_document(comparison, name) for name in comparison.curves],
    }


def _strategy_document(comparison: Comparison, name: str) -> dict[str, Any]:
    curves, tested, spent = comparison.curves[name], comparison.test_shares(name), comparison.cpu_time(name)
    return {
        "strategy": name,
        "hypervolume_share": [
            {"trials": mark, **_spread([curve.share(mark) for curve in curves])} for mark in comparison.marks
        ],
        "test_hypervolume_share": _spread(tested) if tested else None,
        "cpu_s": _seconds(spent),
        "sensitivity": curves[0].record.sensitivity,
        "studies": [_study_document(curve) for curve in curves],
    }


def _spread(shares: Sequence[float]) -> dict[str, float]:
    return {"median": median(shares), "lowest": min(shares)}


def _seconds(spent: CpuTime | None) -> dict[str, float] | None:
    return None if spent is None else {"total": spent.total, **spent._asdict()}


def _study_document(curve: Curve) -> dict[str, Any]:
    return {
        "study": curve.record.name,
        "seed": curve.seed,
        "evaluations": len(curve.evaluations),
        "hypervolume_share": curve.shares,
        "cpu_s": None if curve.cpu_times is None else [spent.total for spent in curve.cpu_times],
        "test_hypervolume_share": curve.test_share,
    }


# --- for people -------------------------------------------------------------------------------------------------------


def comparison_table(comparison: Comparison) -> Table:
    """One row for each strategy, the best at the end first."""
    caption = "\n".join(_caption(comparison))
    table = Table(title=_title(comparison), title_justify="left", caption=caption, caption_justify="left")
    table.add_column("strategy")
    for mark in comparison.marks:
        table.add_column(f"after {mark} trial{'s' if mark > 1 else ''}", justify="right")
    has_test = bool(comparison.first.float_tested)
    if has_test:
        table.add_column("test", justify="right")
    for heading in ("CPU s", "of it: evaluations", "proposals", "sensitivities"):
        table.add_column(heading, justify="right")
    ends = {name: median(curve.shares[-1] for curve in curves) for name, curves in comparison.curves.items()}
    for name in sorted(ends, key=lambda name: -ends[name]):
        curves, tested, spent = comparison.curves[name], comparison.test_shares(name), comparison.cpu_time(name)
        row = [name, *(_cell([curve.share(mark) for curve in curves]) for mark in comparison.marks)]
        row += [_cell(tested) if tested else "-"] * has_test
        row += ["-"] * 4 if spent is None else [_seconds_cell(seconds) for seconds in (spent.total, *spent)]
        table.add_row(*row)
    return table


def _cell(shares: Sequence[float]) -> str:
    lowest = f" ({show_share(min(shares))})" if len(shares) > 1 else ""
    return show_share(median(shares)) + lowest


def _seconds_cell(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def _title(comparison: Comparison) -> str:
    config, count = comparison.config, len(comparison.seeds)
    return (
        f"{config.name}: {config.trials} trials of recipe '{config.recipe}' for each strategy, "
        f"{count} seed{'s' if count > 1 else ''}"
    )


def _caption(comparison: Comparison) -> list[str]:
    quality = comparison.first.quality
    what = "median (lowest) over the seeds of the hypervolume" if len(comparison.seeds) > 1 else "hypervolume"
    lines = [
        f"{what}: share of the box between the reference ({show(quality, quality.reference)}, highest bits) and a "
        "float model for free"
    ]
    if comparison.first.float_tested:
        lines.append("test: the same of the front that was found, with its qualities on the test split")
    passes = {
        name: curves[0].record.sensitivity["evaluations"]
        for name, curves in comparison.curves.items()
        if curves[0].record.sensitivity
    }
    if passes:
        each = ", ".join(f"{count} for {name}" for name, count in passes.items())
        lines.append(f"sensitivities, in passes over some training samples: {each}; charged to every study in full")
    for name, curves in comparison.curves.items():
        fewest = min(len(curve.evaluations) for curve in curves)
        if fewest < comparison.config.trials:
            lines.append(f"{name} had nothing more to propose after {fewest} trials")
    return lines
