"""What the runs of the engine's benchmark say: kept in a file, as tables, as plots."""

from __future__ import annotations

import fcntl
import json
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = Mapping[str, Any]
Key = tuple[Any, ...]

BUDGETS = (24, 40, 64, 112)
COLOURS = {
    "mobo": "#d62728",
    "sensitivity": "#ff7f0e",
    "ax": "#1f77b4",
    "qlognehvi": "#17becf",
    "qlognehvi-mixed": "#9467bd",
    "optuna-gp": "#2ca02c",
    "tpe": "#8c564b",
    "nsga2": "#e377c2",
    "random": "#7f7f7f",
}
_RUN = ("problem", "strategy", "seed", "batch")
_GROWTH = ("strategy", "layers", "trials", "batch")


# --- the file -------------------------------------------------------------------------------------------------------


def run_key(record: Record) -> Key:
    """Runs that agree in it measure the same."""
    return tuple(record[name] for name in _RUN)


def growth_key(record: Record) -> Key:
    """The same for the timings of growth."""
    return tuple(record[name] for name in _GROWTH)


def merge(old: Iterable[Record], new: Iterable[Record], key: Callable[[Record], Key]) -> list[Record]:
    """All records, sorted; of those that measure the same, the last."""
    latest = {key(record): record for record in (*old, *new)}
    return [latest[each] for each in sorted(latest)]


def read(path: Path) -> list[Record]:
    """Records of a file; none where it does not exist yet."""
    return list(json.loads(path.read_text())) if path.exists() else []


def add(path: Path, record: Record, key: Callable[[Record], Key]) -> None:
    """Merge one record into a file that other processes may add to as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        lines = [json.dumps(each) for each in merge(read(path), [record], key)]
        draft = path.with_suffix(".draft")
        draft.write_text("[\n" + ",\n".join(lines) + "\n]\n")
        os.replace(draft, path)
    finally:
        os.close(folder)  # which unlocks it


# --- numbers --------------------------------------------------------------------------------------------------------


def share_at(record: Record, budget: int) -> float | None:
    """Share of the best hypervolume after ``budget`` evaluations, those spent on sensitivities among them.

    0 before the first trial; the last share once the strategy had nothing more to propose; ``None`` where the run was
    not asked for that many.
    """
    own = budget - int(record["sensitivity_evaluations"])
    if own > record["trials"]:
        return None
    return float(record["curve"][min(own, len(record["curve"])) - 1]) if own > 0 and record["curve"] else 0.0


def across_seeds(records: Sequence[Record], budget: int) -> tuple[float, float] | None:
    """Median and lowest share over the seeds."""
    shares = [share for record in records if (share := share_at(record, budget)) is not None]
    return (statistics.median(shares), min(shares)) if shares else None


def table(title: str, rows: Mapping[str, Sequence[Record]]) -> str:
    """Markdown: one row per label, medians over the seeds and the lowest seed in brackets."""
    lines = [
        f"| {title} | " + " | ".join(str(budget) for budget in BUDGETS) + " | CPU s / proposal | MB | seeds |",
        "|---" * (len(BUDGETS) + 4) + "|",
    ]
    for label, records in rows.items():
        if not records:
            continue
        found = [across_seeds(records, budget) for budget in BUDGETS]
        cells = ["–" if each is None else f"{each[0]:.4f} ({each[1]:.4f})" for each in found]
        timed = [record["cpu_s"] for record in records if record["cpu_s"] is not None]
        cells.append(f"{statistics.median(timed):.3f}" if timed else "–")
        cells.append(f"{max(record['memory_bytes'] for record in records) / 1e6:.0f}")
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {len(records)} |")
    return "\n".join(lines)


def growth_table(records: Sequence[Record]) -> str:
    """Markdown: one row per strategy, size and batch, one column per number of trials."""
    trials = sorted({record["trials"] for record in records})
    lines = [
        "| CPU s / proposal (MB) | d | q | " + " | ".join(f"n = {n}" for n in trials) + " |",
        "|---" * (3 + len(trials)) + "|",
    ]
    rows = sorted({(record["strategy"], record["layers"], record["batch"]) for record in records})
    at = {growth_key(record): record for record in records}
    for strategy, layers, batch in rows:
        found = [at.get((strategy, layers, n, batch)) for n in trials]
        cells = ["–" if one is None else f"{one['cpu_s']:.3f} ({one['memory_bytes'] / 1e6:.0f})" for one in found]
        lines.append(f"| {strategy} | {layers} | {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- plots ----------------------------------------------------------------------------------------------------------


def plot_curves(path: Path, panels: Mapping[str, Mapping[str, Sequence[Record]]]) -> None:
    """HV share against evaluations: one panel per problem, medians as lines, lowest to highest seed as bands."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    labels: dict[str, Any] = {}
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for number, (label, records) in enumerate(lines.items()):
            if records:
                labels.setdefault(label, _band(axis, records, COLOURS.get(label, f"C{number}"), label == "mobo"))
        axis.set(title=title, ylim=(0.9, 1.0), xlim=(0, max(BUDGETS)), xticks=(0, *BUDGETS))
        axis.set(xlabel="evaluations", ylabel="share of the best hypervolume")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=3 * columns)
    _save(figure, path)


def _band(axis: Axes, records: Sequence[Record], colour: str, emphasised: bool) -> Any:
    """Draw one strategy; returns its line."""
    longest = max(record["trials"] + record["sensitivity_evaluations"] for record in records)
    evaluations = np.arange(1, longest + 1)
    shares = np.array(
        [[np.nan if (s := share_at(record, int(n))) is None else s for n in evaluations] for record in records]
    )
    known = ~np.isnan(shares).all(axis=0)
    evaluations, shares = evaluations[known], shares[:, known]
    low, high = np.nanmin(shares, axis=0), np.nanmax(shares, axis=0)
    axis.fill_between(evaluations, low, high, color=colour, alpha=0.12, linewidth=0)
    middle = np.nanmedian(shares, axis=0)
    (line,) = axis.plot(evaluations, middle, color=colour, linewidth=2.4 if emphasised else 1.2)
    return line


def plot_growth(path: Path, records: Sequence[Record]) -> None:
    """CPU seconds per proposal, and peak memory, against the number of trials; a line for each size and batch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    time_axis, memory_axis = figure.subplots(1, 2)
    lines = sorted({(record["strategy"], record["layers"], record["batch"]) for record in records})
    layers = sorted({each[1] for each in lines})
    batches = sorted({each[2] for each in lines})
    for strategy, d, batch in lines:
        mine = [r for r in records if (r["strategy"], r["layers"], r["batch"]) == (strategy, d, batch)]
        style = {"color": f"C{layers.index(d)}", "linestyle": ("-", "--", ":")[batches.index(batch) % 3], "marker": "."}
        trials = [record["trials"] for record in mine]
        time_axis.plot(trials, [r["cpu_s"] for r in mine], label=f"{strategy}, d = {d}, q = {batch}", **style)
        memory_axis.plot(trials, [r["memory_bytes"] / 1e6 for r in mine], **style)
    time_axis.set(xscale="log", yscale="log", xlabel="trials", ylabel="CPU s per proposal, fit included")
    memory_axis.set(xscale="log", xlabel="trials", ylabel="peak memory above the imports, MB")
    ticks = sorted({record["trials"] for record in records})
    for axis in (time_axis, memory_axis):
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
