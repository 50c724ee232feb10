"""The front as a PNG, by matplotlib, since plotly needs a browser to write one."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mobo_mpq.workflows.plotting import COLOURS, DENOISED, FLOAT, FRONT, OTHERS, Axis, Picture


def draw(picture: Picture, out: Path) -> None:
    """One panel for each cost; with several, one for each pair of them as well."""
    pairs = list(combinations(picture.costs, 2))
    panels = len(picture.costs) + len(pairs)
    columns = min(panels, 4 if len(picture.costs) > 3 else 3)
    rows = -(-panels // columns)
    width, height = (6.4, 4.4) if panels == 1 else (4.6, 3.6)
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, cost in zip(axes, picture.costs, strict=False):
        _quality_panel(axis, picture, cost)
    for axis, (x, y) in zip(axes[len(picture.costs) :], pairs, strict=False):
        _cost_panel(axis, picture, x, y)
    for axis in axes[panels:]:
        axis.set_axis_off()
    if picture.has_several_costs:
        scale = ScalarMappable(_shades(picture), COLOURS)
        figure.colorbar(scale, ax=axes.tolist(), label=f"{picture.quality.title} of the Pareto set", fraction=0.03)
    axes[0].legend(frameon=False, loc="lower right", fontsize="small")
    figure.suptitle(picture.title)
    figure.savefig(str(out))


def _shades(picture: Picture) -> Normalize:
    """From the worst to the best quality of the front that is of interest."""
    values = picture.quality.values(picture.shown)
    return Normalize(min(values), max(values))


def _front(axis: Any, picture: Picture, x: Axis, y: Axis) -> None:
    """The Pareto set: what is beyond the reference is worth no room."""
    style: dict[str, Any] = {"color": FRONT}
    if picture.has_several_costs:
        colours = picture.quality.values(picture.shown)
        style = {"c": colours, "cmap": COLOURS, "norm": _shades(picture), "edgecolors": "white", "linewidths": 0.4}
    axis.scatter(x.values(picture.shown), y.values(picture.shown), s=32, label="Pareto set", zorder=3, **style)


def _quality_panel(axis: Any, picture: Picture, cost: Axis) -> None:
    quality, denoised = picture.quality, picture.denoised
    axis.scatter(cost.values(picture.others), quality.values(picture.others), s=16, color=OTHERS, label="other trials")
    line = picture.line(cost, picture.front)
    axis.step(cost.values(line), quality.values(line), where="post", color=FRONT, linewidth=1)
    _front(axis, picture, cost, quality)
    axis.axhline(picture.float_quality, color=FLOAT, linewidth=1, linestyle="--", label="float model")
    if denoised:
        line = picture.line(cost, denoised)
        axis.step(cost.values(line), quality.values(line), where="post", color=FRONT, linewidth=0.8, linestyle=":")
        hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": FRONT, "label": DENOISED, "zorder": 4}
        axis.scatter(cost.values(denoised), quality.values(denoised), s=48, **hollow)
    _finish(axis, picture, cost, quality)


def _cost_panel(axis: Any, picture: Picture, x: Axis, y: Axis) -> None:
    axis.scatter(x.values(picture.others), y.values(picture.others), s=16, color=OTHERS)
    _front(axis, picture, x, y)
    _finish(axis, picture, x, y)


def _finish(axis: Any, picture: Picture, x: Axis, y: Axis) -> None:
    axis.set_xlim(*picture.cost_limits(x))
    axis.set_ylim(*(picture.quality_limits if y is picture.quality else picture.cost_limits(y)))
    axis.ticklabel_format(useOffset=False)
    axis.set_xlabel(x.title)
    axis.set_ylabel(y.title)
    axis.grid(alpha=0.3)
