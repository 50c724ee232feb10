"""Pictures of a comparison: hypervolume against trials and against CPU time, as a PNG or an HTML page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mobo_mpq.errors import InputError
from mobo_mpq.workflows.comparison import Comparison, Curve

COLOURS = ("#0b6e4f", "#c1440e", "#3b6ea8", "#8a5fa8", "#c79a1b", "#5b5b5b", "#d1719f", "#2aa6a6", "#7a4a2b")
Y_TITLE = "hypervolume, % of the box"


@dataclass(frozen=True)
class Line:
    """One strategy in one panel: medians over the seeds, and what lies between the worst and the best of them.

    Attributes:
        name: of the strategy.
        colour: the same in all panels.
        x: where a seed takes a step, rising.
        middle: medians, as percentages.
        low: the worst seed.
        high: the best seed.
    """

    name: str
    colour: str
    x: list[float]
    middle: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Panel:
    """One half of the picture."""

    title: str
    lines: list[Line]
    logarithmic: bool


def check_name(out: Path) -> None:
    """Whether there is a picture of that kind: asked before anything is run.

    Raises:
        InputError: another ending.
    """
    if out.suffix not in (".png", ".html"):
        raise InputError(f"cannot plot to '{out.name}'; expected a name that ends in .png or .html")


def plot_comparison(comparison: Comparison, out: Path) -> None:
    """Draw medians over the seeds, with the range of all seeds behind them.

    Args:
        comparison: of one strategy or several.
        out: ends in ``.png`` or ``.html``.

    Raises:
        InputError: another ending, or a folder that cannot be written.
    """
    check_name(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        (_draw_png if out.suffix == ".png" else _draw_html)(panels(comparison), comparison.config.name, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; choose another --out") from None


def panels(comparison: Comparison) -> list[Panel]:
    """Against trials, and against CPU time, where it is known of any strategy."""
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(comparison.curves)}
    by_trials, by_time = [], []
    for name, curves in comparison.curves.items():
        trials = [[float(count) for count in range(1, len(curve.shares) + 1)] for curve in curves]
        by_trials.append(_line(name, colours[name], curves, trials))
        times = [[spent.total for spent in curve.cpu_times] for curve in curves if curve.cpu_times is not None]
        if len(times) == len(curves):
            by_time.append(_line(name, colours[name], curves, times))
    found = [Panel("trials", by_trials, False)]
    return [*found, Panel("CPU time, s: evaluations, proposals, sensitivities", by_time, True)] if by_time else found


def _line(name: str, colour: str, curves: Sequence[Curve], steps: Sequence[Sequence[float]]) -> Line:
    """From where every seed has a value; a seed that has ended keeps its last."""
    x = sorted({step for one in steps for step in one if step >= max(each[0] for each in steps)})
    found = [
        [100 * curve.shares[bisect_right(one, at) - 1] for curve, one in zip(curves, steps, strict=True)] for at in x
    ]
    return Line(name, colour, x, *([pick(values) for values in found] for pick in (median, min, max)))


def _draw_png(halves: Sequence[Panel], title: str, out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(5.6 * len(halves), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, panel in zip(figure.subplots(1, len(halves), sharey=True, squeeze=False)[0], halves, strict=True):
        for line in panel.lines:
            axis.step(line.x, line.middle, where="post", color=line.colour, linewidth=1.6, label=line.name)
            axis.plot(line.x[-1:], line.middle[-1:], "o", color=line.colour, markersize=4)
            axis.fill_between(line.x, line.low, line.high, step="post", color=line.colour, alpha=0.12, linewidth=0)
        axis.set_xlabel(panel.title)
        if panel.logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel(Y_TITLE)
    marks, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(marks, names, frameon=False, loc="outside lower center", ncols=min(len(names), 8), fontsize="small")
    figure.suptitle(title)
    figure.savefig(str(out))


def _draw_html(halves: Sequence[Panel], title: str, out: Path) -> None:
    import plotly.graph_objects as go
    from plotly.colors import hex_to_rgb as to_rgb
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(halves), shared_yaxes=True)
    for column, panel in enumerate(halves, start=1):
        where = {"row": 1, "col": column}
        for line in panel.lines:
            shared: dict[str, Any] = {"x": line.x, "mode": "lines", "legendgroup": line.name}
            for edge, fill in ((line.low, None), (line.high, "tonexty")):
                band: dict[str, Any] = {"line": {"width": 0, "shape": "hv"}, "fill": fill, "hoverinfo": "skip"}
                band |= {"fillcolor": f"rgba{(*to_rgb(line.colour), 0.12)}", "showlegend": False}
                figure.add_trace(go.Scatter(y=edge, **shared, **band), **where)
            style = {"color": line.colour, "shape": "hv"}
            middle = go.Scatter(y=line.middle, name=line.name, line=style, showlegend=column == 1, **shared)
            figure.add_trace(middle, **where)
        figure.update_xaxes(title_text=panel.title, type="log" if panel.logarithmic else "linear", **where)
    figure.update_yaxes(title_text=Y_TITLE, row=1, col=1)
    figure.update_layout(title=title, template="plotly_white")
    figure.write_html(str(out), include_plotlyjs=True)
