"""Fronts of several methods in one picture, as the test split scores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from methods_runs import UNIFORM, Scored

from mobo_mpq.workflows.preparation import Prepared

COLOURS = {
    "mobo": "#d62728",
    "random": "#7f7f7f",
    "haq": "#1f77b4",
    "ddq": "#2ca02c",
    "bsq": "#9467bd",
    "seam": "#ff7f0e",
}


def draw(prepared: Prepared, fronts: Mapping[str, Sequence[Scored]], file: Path) -> None:
    """One panel per method: its front for each seed, over those of uniform bits."""
    methods = [method for method in fronts if method != UNIFORM]
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    figure = Figure(figsize=(4.0 * columns, 3.2 * rows), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    quality, worst = prepared.problem.quality.name, 100 * prepared.problem.quality.reference
    limit = 1e6 * prepared.problem.costs[0].info.reference
    top = 100 * prepared.baseline["test"][quality].value
    for axis, method in zip(axes, methods, strict=False):
        for one in fronts[method]:
            costs, values = zip(*front_of(one), strict=True)
            colour = COLOURS.get(method, "#d62728")
            axis.step(costs, values, where="post", color=colour, linewidth=1, marker="o", markersize=3, alpha=0.8)
        for one in fronts[UNIFORM]:
            costs, values = zip(*[(1e6 * c, 100 * q) for c, q in one.points], strict=True)
            axis.plot(costs, values, "x", color="black", markersize=6, label="uniform bits")
        axis.axhline(top, color="#1f77b4", linewidth=0.8, linestyle="--", label="float")
        axis.set(title=method, xlim=(0, 1.03 * limit), ylim=(worst, top + 0.06 * (top - worst)))
        axis.grid(alpha=0.3)
    for axis in axes[len(methods) :]:
        axis.set_axis_off()
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")
    figure.supxlabel(f"latency on {prepared.target.name} (µs)")
    figure.supylabel(f"{quality} on the test split (%)")
    figure.savefig(str(file))


def front_of(found: Scored) -> list[tuple[float, float]]:
    """Its undominated points, the cheapest first, in µs and %."""
    front: list[tuple[float, float]] = []
    for cost, value in found.points:
        if not front or 100 * value > front[-1][1]:
            front.append((1e6 * cost, 100 * value))
    return front
