"""The front as a page to hover over, by plotly; the page works without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mobo_mpq.trial import Trial
from mobo_mpq.workflows.plotting import COLOURS, DENOISED, FLOAT, FRONT, OTHERS, Axis, Picture
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import compact, show_measured


def draw(picture: Picture, out: Path) -> None:
    """One panel for each cost; with several, parallel coordinates of all objectives below."""
    count, several = len(picture.costs), picture.has_several_costs
    specs: list[list[dict[str, Any] | None]] = [[{"type": "xy"} for _ in picture.costs]]
    if several:
        specs.append([{"type": "domain", "colspan": count}, *[None] * (count - 1)])
    figure = make_subplots(rows=len(specs), cols=count, specs=specs, vertical_spacing=0.16)
    for column, cost in enumerate(picture.costs, start=1):
        _panel(figure, picture, cost, column)
    if several:
        figure.add_trace(_parallel(picture), row=2, col=1)
        best = picture.quality.values(picture.shown)
        scale = {
            "colorscale": COLOURS,
            "cmin": min(best),
            "cmax": max(best),
            "colorbar": {"title": picture.quality.title},
        }
        figure.update_layout(coloraxis=scale, height=950)
        figure.update_layout(legend={"orientation": "h", "y": 1.06})  # beside it would cover the colours
    figure.update_layout(title=picture.title, template="plotly_white")
    figure.write_html(str(out), include_plotlyjs=True)


def _panel(figure: Any, picture: Picture, cost: Axis, column: int) -> None:
    where = {"row": 1, "col": column}
    for name, trials, colour, size in (
        ("other trials", picture.others, OTHERS, 7),
        ("Pareto set", picture.front, FRONT, 10),
        (DENOISED, picture.denoised, FRONT, 12),
    ):
        if name == DENOISED and not picture.record.estimates:
            continue
        marker: dict[str, Any] = {"color": colour, "size": size}
        if name == "Pareto set" and picture.has_several_costs:
            marker |= {"color": picture.quality.values(trials), "coloraxis": "coloraxis"}
        if name == DENOISED:
            marker["symbol"] = "circle-open"
        dots = go.Scatter(
            x=cost.values(trials),
            y=picture.quality.values(trials),
            name=name,
            legendgroup=name,
            mode="markers",
            marker=marker,
            text=[_hover(picture.record, trial) for trial in trials],
            hoverinfo="text",
            showlegend=column == 1,
        )
        if name != "other trials":
            figure.add_trace(_steps(picture, cost, trials, name), **where)
        figure.add_trace(dots, **where)
    figure.add_hline(picture.float_quality, line_dash="dash", line_color=FLOAT, annotation_text="float model", **where)
    figure.update_xaxes(title_text=cost.title, range=picture.cost_limits(cost), **where)
    figure.update_yaxes(title_text=picture.quality.title, range=picture.quality_limits, **where)


def _steps(picture: Picture, cost: Axis, trials: list[Trial], name: str) -> Any:
    """The front in the quality and one cost."""
    line = picture.line(cost, trials)
    dash = {"dash": "dot", "width": 1} if name == DENOISED else {"dash": "solid", "width": 1.5}
    return go.Scatter(
        x=cost.values(line),
        y=picture.quality.values(line),
        mode="lines",
        line={"shape": "hv", "color": FRONT, **dash},
        legendgroup=name,
        hoverinfo="skip",
        showlegend=False,
    )


def _parallel(picture: Picture) -> Any:
    """One line per member of the front that is of interest; better is further up on every axis."""
    trials = picture.shown
    dimensions: list[dict[str, Any]] = [{"label": "trial", "values": [trial.number for trial in trials]}]
    for axis in (picture.quality, *picture.costs):
        values = axis.values(trials)
        low, high = min(values), max(values)
        ends = [low, high] if axis.info.sign > 0 else [high, low]
        span = {} if low == high else {"range": ends}  # plotly finds the ends of a single value itself
        dimensions.append({"label": axis.title, "values": values, **span})
    line = {"color": picture.quality.values(trials), "coloraxis": "coloraxis"}
    return go.Parcoords(dimensions=dimensions, line=line)


def _hover(record: StudyRecord, trial: Trial) -> str:
    lines = [f"trial {trial.number}"]
    lines += [f"{info.name}: {show_measured(info, trial.values[info.name])}" for info in record.infos]
    lines.append(compact(trial.policy) if trial.policy else "")
    return "<br>".join(lines)
