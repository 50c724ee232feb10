"""What each layer's bits are expected to cost: measured, shown, drawn and saved; no trial is run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import LayerBits
from mobo_mpq.sensitivity import SensitivityTable, kind_names
from mobo_mpq.space import SearchSpace
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.preparation import resolve, space_of, study_recipe
from mobo_mpq.workflows.reporting import dump, rows_table, stderr, stdout
from mobo_mpq.workflows.sensitivities import Sensitivities, sensitivities_of

SCHEMA = 1


@dataclass(frozen=True)
class Measured:
    """Sensitivities of a task's layers on a target.

    Attributes:
        task: its name.
        target: its name.
        space: whose policies they predict.
        found: the table, and whether it came from the cache.
    """

    task: str
    target: str
    space: SearchSpace
    found: Sensitivities

    @property
    def table(self) -> SensitivityTable:
        """The values, and where they came from."""
        return self.found.table


def show_sensitivity(config: StudyConfig, out: Path | None, as_json: bool) -> None:
    """Print the table, and write it where that is asked for.

    Args:
        config: of the search that would use it.
        out: a file ``.json``, ``.csv`` or ``.png``.
        as_json: print the document.

    Raises:
        InputError: whatever would stop the search, a file of another kind, or sensitivities that cannot be measured.
    """
    writer = None if out is None else _writer(out)
    environment.prepare()
    measured = measure(resolve(config))
    if out is not None and writer is not None:
        try:
            writer(measured, out)
        except OSError as error:
            raise InputError(f"cannot write {out}: {error.strerror}; give another --out") from None
    if as_json:
        print(dump(document(measured)))
    else:
        stdout.print(rows_table(_rows(measured), f"{measured.table.method} sensitivity, {measured.table.unit}"))
    if out is not None:
        stderr.print(f"written to {out}", markup=False, soft_wrap=True)


def measure(config: StudyConfig) -> Measured:
    """Take the table from the cache, or measure it: what a search with this configuration would begin with.

    Args:
        config: resolved.

    Raises:
        InputError: when it cannot be measured, or the space is impossible.
    """
    task, target = load_task(config.task), load_target(config.target)
    network = Network.from_model(task.model(), task.example)
    space = space_of(config, network, target)
    kind = config.sensitivity_kind or kind_names()[0]

    def say(sentence: str) -> None:
        stderr.print(sentence, markup=False, soft_wrap=True)

    found = sensitivities_of(network, space, task, say, kind, study_recipe(config))
    return Measured(task.name, target.name, space, found)


def document(measured: Measured) -> dict[str, Any]:
    """As data: ``values`` are ``layers x options``; options that a layer lacks have those of the next bits above."""
    return {
        **measured.found.to_dict(),
        "schema": SCHEMA,
        "task": measured.task,
        "target": measured.target,
        "layers": list(measured.space.names),
        "options": [{"weight": bits.weight, "activation": bits.activation} for bits in measured.space.options],
    }


# --- for people -------------------------------------------------------------------------------------------------------


def _shown(measured: Measured) -> tuple[list[LayerBits], NDArray[np.bool_]]:
    """Options that some layer can take, the highest first, and which layer can: ``layers x options`` of the space."""
    space = measured.space
    legal = np.array([[tuple(option) in pairs for option in space.options] for pairs in space.pairs])
    return [option for column, option in enumerate(space.options) if legal[:, column].any()][::-1], legal


def _rows(measured: Measured) -> list[dict[str, Any]]:
    options, legal = _shown(measured)
    columns = {option: measured.space.options.index(option) for option in options}
    return [
        {
            "layer": name,
            **{
                f"W{option.weight}/A{option.activation}": f"{measured.table.values[row, column]:.3g}"
                if legal[row, column]
                else "-"
                for option, column in columns.items()
            },
        }
        for row, name in enumerate(measured.space.names)
    ]


# --- files ------------------------------------------------------------------------------------------------------------


def _writer(out: Path) -> Callable[[Measured, Path], None]:
    writers = {".json": _write_json, ".csv": _write_csv, ".png": _write_png}
    if out.suffix not in writers:
        raise InputError(f"--out is '{out}'; expected a name that ends in {', '.join(writers)}")
    return writers[out.suffix]


def _write_json(measured: Measured, out: Path) -> None:
    out.write_text(json.dumps(document(measured), indent=1) + "\n")


def _write_csv(measured: Measured, out: Path) -> None:
    """One row for each layer and legal option."""
    _, legal = _shown(measured)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "weight", "activation", "sensitivity"])
    for row, column in np.argwhere(legal):
        option = measured.space.options[column]
        value = repr(float(measured.table.values[row, column]))
        writer.writerow([measured.space.names[row], option.weight, option.activation, value])
    out.write_text(text.getvalue())


def _write_png(measured: Measured, out: Path) -> None:
    """A heat map, its colours logarithmic over four decades; white where a layer cannot take the bits."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    options, legal = _shown(measured)
    columns = [measured.space.options.index(option) for option in options]
    values = np.where(legal, measured.table.values, np.nan)[:, columns]
    most = float(np.nanmax(values)) or 1.0
    names = measured.space.names
    figure = Figure(figsize=(3.0 + 0.5 * len(options), 1.5 + 0.28 * len(names)), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(np.maximum(values, 1e-4 * most), aspect="auto", norm=LogNorm(1e-4 * most, most), cmap="viridis")
    axis.set_xticks(range(len(options)), [f"W{option.weight}/A{option.activation}" for option in options], rotation=45)
    axis.set_yticks(range(len(names)), names)
    axis.set_title(f"{measured.task} on {measured.target}: {measured.table.method}")
    figure.colorbar(drawn, ax=axis, label=measured.table.unit)
    figure.savefig(out, dpi=150)
