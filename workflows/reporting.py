"""What people and programs read: tables, JSON, CSV, progress. The only place of display units."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mobo_mpq.front import hypervolume_share
from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.objectives.quality import PERCENT_FROM
from mobo_mpq.policy import Policy
from mobo_mpq.trial import Trial
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.selection import Selection

SCHEMA = 1

_DISPLAY = {  # SI unit -> (factor, decimals, unit) by size, the largest that leaves a number of at least one
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "J": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "byte": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "bit-op": ((1e9, "GBOP"), (1e6, "MBOP"), (1e3, "kBOP"), (1.0, "BOP")),
}

_PIPE_WIDTH = 160
"""Columns of tables that go to a file or a pipe, which have no width of their own."""

stdout = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
stderr = Console(stderr=True, highlight=False)


def scale_of(unit: str, value: float) -> tuple[float, str]:
    """Factor and name of the display unit that suits a value in SI."""
    scales = _DISPLAY.get(unit, ((1.0, unit),))
    return next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])


def is_share(info: ObjectiveInfo) -> bool:
    """Whether a metric is an accuracy from 0 to 1, which people read in percent; some come as 0 to 100."""
    return info.name == "accuracy" and abs(info.reference) <= PERCENT_FROM


def show(info: ObjectiveInfo, value: float) -> str:
    """A value for people: ``1.53 ms``, ``97.25 %``, ``2.031``."""
    if is_share(info):
        return f"{100 * value:.2f} %"
    if info.unit not in _DISPLAY:
        return f"{value:.4g}{' ' + info.unit if info.unit else ''}"
    factor, unit = scale_of(info.unit, value)
    return f"{value / factor:.3f} {unit}"


def show_measured(info: ObjectiveInfo, measurement: Measurement | None) -> str:
    """A value and its standard error."""
    if measurement is None:
        return "-"
    if not measurement.stderr:
        return show(info, measurement.value)
    error = f"{100 * measurement.stderr:.2f}" if is_share(info) else f"{measurement.stderr:.2g}"
    return f"{show(info, measurement.value)} ± {error}"


def show_share(share: float) -> str:
    """A share for people: ``48.31 %``, ``0.0021 %``: with several objectives, boxes are large."""
    return f"{100 * share:.2f} %" if share >= 0.01 or not share else f"{100 * share:.2g} %"


def show_spread(info: ObjectiveInfo, spread: float) -> str:
    """A difference of values for people: ``0.42 points``, ``0.031``."""
    return f"{100 * spread:.2g} points" if is_share(info) else f"{spread:.2g}{' ' + info.unit if info.unit else ''}"


def mean_bits(policy: Policy) -> tuple[float, float]:
    """Mean weight and activation bits over the layers."""
    pairs = list(policy.values())
    return sum(b.weight for b in pairs) / len(pairs), sum(b.activation for b in pairs) / len(pairs)


def compact(policy: Policy, limit: int = 32) -> str:
    """``W 8442 A 8448``, one digit per layer in order; shortened for deep networks."""
    pairs = list(policy.values())
    return " ".join(
        f"{role} {_shortened([getattr(bits, name) for bits in pairs], limit)}"
        for role, name in (("W", "weight"), ("A", "activation"))
    )


def _shortened(bits: list[int], limit: int) -> str:
    text = ("" if max(bits) < 10 else ",").join(map(str, bits))
    return text if len(text) <= limit else text[: limit - 1] + "…"


# --- the Pareto set ---------------------------------------------------------------------------------------------------


def pareto_document(record: StudyRecord) -> dict[str, Any]:
    """The set as ``mobo-mpq pareto --json`` prints it."""
    return {
        "schema": SCHEMA,
        "study": record.name,
        "objectives": [
            {"name": i.name, "unit": i.unit, "direction": str(i.direction), "reference": i.reference}
            for i in record.infos
        ],
        "hypervolume": record.hypervolume(),
        "float": {name: value.value for name, value in record.float_values.items()},
        "float_test": {name: value.value for name, value in record.float_tested.items()},
        "sensitivity": record.sensitivity,
        "surrogate": dict(record.surrogate.diagnosis) or None if record.surrogate else None,
        "denoised": _denoised_members(record) if record.estimates else None,
        "trials": [
            {
                "number": trial.number,
                "values": _plain(trial.values),
                "stderr": {n: v.stderr for n, v in trial.values.items() if v.stderr},
                "test": _plain(record.tested.get(trial.number, {})),
                "policy": trial.policy.to_dict() if trial.policy else None,
                "details": dict(trial.details),
                "mlflow_run_id": record.run_id(trial.number),
            }
            for trial in record.pareto()
        ],
    }


def _denoised_members(record: StudyRecord) -> list[dict[str, Any]]:
    estimates = [(trial.number, record.estimates[trial.number]) for trial in record.denoised()]
    return [
        {
            "number": number,
            "value": estimate.value,
            "stderr": estimate.stderr,
            "test": _plain(record.tested.get(number, {})),
        }
        for number, estimate in estimates
    ]


def pareto_frame(record: StudyRecord) -> pd.DataFrame:
    """One row per member: number, values, test values, mean bits, bits per layer."""
    rows = []
    for trial in record.pareto():
        assert trial.policy is not None, "a complete trial has a policy"
        weight, activation = mean_bits(trial.policy)
        row: dict[str, Any] = {"number": trial.number, **_plain(trial.values)}
        row |= {f"test_{name}": value for name, value in _plain(record.tested.get(trial.number, {})).items()}
        row |= {"mean_weight_bits": weight, "mean_activation_bits": activation}
        for name, bits in trial.policy.items():
            row |= {f"{name}.weight": bits.weight, f"{name}.activation": bits.activation}
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["number", *(info.name for info in record.infos)])


def pareto_csv(record: StudyRecord) -> str:
    """The same as CSV."""
    buffer = io.StringIO()
    pareto_frame(record).to_csv(buffer, index=False)
    return buffer.getvalue()


def pareto_table(record: StudyRecord) -> Table:
    """The same for people, with the speed-up over the highest bits."""
    table = Table(title=_title(record), title_justify="left", caption=_caption(record), caption_justify="left")
    quality, costs = record.quality, record.infos[1:]
    table.add_column("trial", justify="right")
    table.add_column(f"{quality.name} (val)", justify="right")
    if record.estimates:
        table.add_column(f"{quality.name} (denoised)", justify="right")
    if record.float_tested:
        table.add_column(f"{quality.name} (test)", justify="right")
    for info in costs:
        table.add_column(info.name.rsplit("_", 1)[0], justify="right")
        table.add_column("gain", justify="right")
    table.add_column("mean W/A", justify="right")
    table.add_column("bits of each layer")
    for trial in record.of_interest():
        assert trial.policy is not None, "a complete trial has a policy"
        row = [str(trial.number), show_measured(quality, trial.values[quality.name])]
        if record.estimates:
            row.append(show_measured(quality, record.estimates.get(trial.number)))
        if record.float_tested:
            row.append(show_measured(quality, record.tested.get(trial.number, {}).get(quality.name)))
        for info in costs:
            value = trial.values[info.name].value
            row += [show(info, value), f"{info.reference / value:.2f}x"]
        row += ["{:.1f}/{:.1f}".format(*mean_bits(trial.policy)), compact(trial.policy)]
        table.add_row(*row)
    return table


def _title(record: StudyRecord) -> str:
    done = len(record.finished)
    return f"{record.name}: {len(record.pareto())} Pareto policies of {done} trials" + (
        "" if record.is_finished else f" (of {record.total}; go on with 'mobo-mpq resume {record.name}')"
    )


def _caption(record: StudyRecord) -> str:
    quality = record.quality
    lines = [f"float model: {quality.name} {show_measured(quality, record.float_values[quality.name])} (val)"]
    if record.float_tested:
        lines[0] += f", {show_measured(quality, record.float_tested[quality.name])} (test)"
    share = hypervolume_share(record.infos, record.finished, record.float_values[quality.name].value)
    lines.append(
        f"gain: over the highest bits everywhere; hypervolume {show_share(share)} of the box between the reference "
        f"({show(quality, quality.reference)}, highest bits) and a float model for free"
    )
    hidden = len(record.pareto()) - len(record.of_interest())
    if hidden:
        lines.append(f"{hidden} more Pareto policies are worse than the reference in some objective; --json has them")
    if record.estimates:
        lines.append(_denoised_line(record))
    known = record.sensitivity
    if known:
        equivalents = known["evaluation_equivalents"]
        trials = "" if equivalents is None else f", as much as {equivalents:.2g} trials"
        lines.append(f"sensitivities: {known['cpu_s']:.2f} s CPU{trials}{' (cached)' if known['cached'] else ''}")
    layers = [layer["name"] for layer in record.header["layers"]]
    if len(layers) <= 12:
        lines.append(f"layers: {', '.join(layers)}")
    return "\n".join(lines)


def _denoised_line(record: StudyRecord) -> str:
    """Which model denoised, how well it predicts, and which members of the front it does not believe in."""
    assert record.surrogate is not None, "estimates are part of it"
    diagnosis, quality = record.surrogate.diagnosis, record.quality
    models = diagnosis.get("models", quality.name)
    model = f"a model of {models}" if models == quality.name else f"a model of the {models} from the float network"
    error = diagnosis.get("leave_one_out_error")
    predicts = "" if error is None else f", which predicts left-out trials to {show_spread(quality, error)}"
    members = {trial.number for trial in record.denoised()}
    lucky = [str(trial.number) for trial in record.of_interest() if trial.number not in members]
    luck = f"trials {', '.join(lucky)} are" if len(lucky) > 1 else f"trial {lucky[0]} is" if lucky else "none is"
    return f"denoised: by {model}{predicts}; {luck} on the front by luck of the draw"


def _plain(values: Mapping[str, Measurement]) -> dict[str, float]:
    return {name: measurement.value for name, measurement in values.items()}


# --- single trials ----------------------------------------------------------------------------------------------------


def trial_line(infos: tuple[ObjectiveInfo, ...], trial: Trial) -> str:
    """One line about a finished trial."""
    head = f"trial {trial.number:>3}"
    if not trial.values:
        return f"{head}  {trial.state}: {trial.error}"
    shown = "  ".join(f"{info.name} {show_measured(info, trial.values[info.name])}" for info in infos)
    bits = "W{:.1f}/A{:.1f}".format(*mean_bits(trial.policy)) if trial.policy else ""
    return f"{head}  {shown}  {bits}  {trial.origin}"


def selection_line(record: StudyRecord, choice: str, selection: Selection) -> str:
    """Which trial ``best`` is, and why."""
    note = f" ({selection.note})" if selection.note else ""
    return f"{choice}: {trial_line(record.infos, selection.trial).strip()}{note}"


def dump(document: Any) -> str:
    """JSON for programs: never NaN."""
    return json.dumps(document, indent=2, allow_nan=False)


def rows_table(rows: list[dict[str, Any]], title: str = "") -> Table:
    """A plain table of dictionaries with the same keys."""
    table = Table(title=title or None, title_justify="left")
    for key in rows[0] if rows else []:
        table.add_column(key.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def short_pairs(pairs: Iterable[tuple[int, int]]) -> str:
    """Pairs in short: ``2, 4, 8 × 8``; weights that take the same activations share an entry."""
    activations: dict[int, set[int]] = {}
    for weight, activation in pairs:
        activations.setdefault(weight, set()).add(activation)
    groups: dict[tuple[int, ...], list[int]] = {}
    for weight, found in sorted(activations.items()):
        groups.setdefault(tuple(sorted(found)), []).append(weight)
    return "; ".join(f"{short_bits(weights)} × {short_bits(found)}" for found, weights in groups.items())


def short_bits(bits: Iterable[int]) -> str:
    """``1, 2, 3, 4, 8`` in short: ``1-4, 8``."""
    runs: list[list[int]] = []
    for value in sorted(bits):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts)
