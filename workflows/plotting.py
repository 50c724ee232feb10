"""Pictures of a study: the front as a PNG for papers, or as an HTML page to hover over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mobo_mpq.errors import InputError
from mobo_mpq.objective import ObjectiveInfo
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import compact, is_share, scale_of, show_measured

_DENOISED = "Pareto set, denoised"
_FRONT, _OTHERS, _FLOAT = "#0b6e4f", "#b8b8b8", "#c1440e"


def plot(record: StudyRecord, out: Path) -> None:
    """Draw the front: quality against every cost, with the trials behind it and the float model's quality.

    Where the strategy has estimates, the denoised front is drawn beside the raw one, thin and hollow.

    Args:
        record: of the study.
        out: ends in ``.png`` or ``.html``.

    Raises:
        InputError: another ending, a folder that cannot be written, or no complete trial.
    """
    draw = {".png": _png, ".html": _html}.get(out.suffix)
    if draw is None:
        raise InputError(f"cannot plot to '{out.name}'; expected a name that ends in .png or .html")
    if not record.pareto():
        raise InputError(f"study '{record.name}' has no complete trial yet; go on with 'mobo-mpq resume {record.name}'")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(record, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; choose another --out") from None


def _display(info: ObjectiveInfo, values: list[float]) -> tuple[list[float], str]:
    """Values in the unit that suits their largest, and the axis' title."""
    if is_share(info):
        return [100 * value for value in values], "accuracy, %"
    factor, unit = scale_of(info.unit, max(map(abs, values), default=1.0))
    name = info.name.rsplit("_", 1)[0] if info.unit else info.name.replace("_", " ")
    return [value / factor for value in values], f"{name}, {unit}" if unit else name


def _columns(record: StudyRecord, cost: ObjectiveInfo, trials: list[Trial]) -> tuple[list[float], list[float]]:
    """Cost and quality in display units, scaled alike for all trials of the study."""
    quality = record.quality
    every = [t.values[cost.name].value for t in record.finished if t.state is TrialState.COMPLETE]
    factor = 1.0 if not cost.unit else scale_of(cost.unit, max(every, default=1.0))[0]
    x = [trial.values[cost.name].value / factor for trial in trials]
    y, _ = _display(quality, [trial.values[quality.name].value for trial in trials])
    return x, y


def _parts(record: StudyRecord, cost: ObjectiveInfo) -> tuple[list[Trial], list[Trial], str, str]:
    """Front (by cost), the other complete trials, and the titles of both axes."""
    front = sorted(record.pareto(), key=lambda trial: trial.values[cost.name].value)
    numbers = {trial.number for trial in front}
    others = [t for t in record.finished if t.state is TrialState.COMPLETE and t.number not in numbers]
    values = [trial.values[cost.name].value for trial in (*front, *others)]
    return front, others, _display(cost, values)[1], _display(record.quality, [1.0])[1]


def _denoised(record: StudyRecord, cost: ObjectiveInfo) -> list[Trial]:
    """Members of the denoised front with their estimates, by cost; none where there are no estimates."""
    return sorted(record.denoised(), key=lambda trial: trial.values[cost.name].value)


def _png(record: StudyRecord, out: Path) -> None:
    # matplotlib, since plotly needs a browser to write a PNG
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    costs = record.infos[1:]
    figure = Figure(figsize=(6.4 * len(costs), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, cost in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
        front, others, x_title, y_title = _parts(record, cost)
        axis.scatter(*_columns(record, cost, others), s=16, color=_OTHERS, label="other trials")
        x, y = _columns(record, cost, front)
        if len(costs) == 1:
            axis.step(x, y, where="post", color=_FRONT, linewidth=1)
        axis.scatter(x, y, s=32, color=_FRONT, label="Pareto set", zorder=3)
        baseline = _display(record.quality, [record.float_values[record.quality.name].value])[0][0]
        axis.axhline(baseline, color=_FLOAT, linewidth=1, linestyle="--", label="float model")
        worst = _display(record.quality, [record.quality.reference])[0][0]
        expected_x, expected_y = _columns(record, cost, _denoised(record, cost))
        if expected_y:
            if len(costs) == 1:
                axis.step(expected_x, expected_y, where="post", color=_FRONT, linewidth=0.8, linestyle=":")
            axis.scatter(expected_x, expected_y, s=48, facecolors="none", edgecolors=_FRONT, label=_DENOISED, zorder=4)
        shown = [*y, *expected_y, baseline, worst]  # two-bit disasters far below the reference would flatten the front
        pad = 0.06 * (max(shown) - min(shown) or 1.0)
        axis.set_ylim(min(shown) - pad, max(shown) + pad)
        axis.set_xlabel(x_title)
        axis.set_ylabel(y_title)
        axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.suptitle(f"{record.name}: {len(record.finished)} trials")
    figure.savefig(str(out))


def _html(record: StudyRecord, out: Path) -> None:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    costs = record.infos[1:]
    figure = make_subplots(rows=1, cols=len(costs))
    for column, cost in enumerate(costs, start=1):
        front, others, x_title, y_title = _parts(record, cost)
        traces = [("other trials", others, _OTHERS, 7), ("Pareto set", front, _FRONT, 10)]
        if record.estimates:
            traces.append((_DENOISED, _denoised(record, cost), _FRONT, 12))
        for name, trials, color, size in traces:
            x, y = _columns(record, cost, trials)
            line: dict[str, Any] = {"shape": "hv", "color": color}
            marker: dict[str, Any] = {"color": color, "size": size}
            if name == _DENOISED:
                line |= {"dash": "dot", "width": 1}
                marker["symbol"] = "circle-open"
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    name=name,
                    mode="lines+markers" if name != "other trials" and len(costs) == 1 else "markers",
                    line=line,
                    marker=marker,
                    text=[_hover(record, trial) for trial in trials],
                    hoverinfo="text",
                    showlegend=column == 1,
                ),
                row=1,
                col=column,
            )
        baseline = _display(record.quality, [record.float_values[record.quality.name].value])[0][0]
        figure.add_hline(
            baseline, line_dash="dash", line_color=_FLOAT, annotation_text="float model", row=1, col=column
        )
        figure.update_xaxes(title_text=x_title, row=1, col=column)
        figure.update_yaxes(title_text=y_title, row=1, col=column)
    figure.update_layout(title=f"{record.name}: {len(record.finished)} trials", template="plotly_white")
    figure.write_html(str(out), include_plotlyjs=True)  # the page works without a network


def _hover(record: StudyRecord, trial: Trial) -> str:
    lines = [f"trial {trial.number}"]
    lines += [f"{info.name}: {show_measured(info, trial.values[info.name])}" for info in record.infos]
    lines.append(compact(trial.policy) if trial.policy else "")
    return "<br>".join(lines)
