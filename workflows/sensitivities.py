"""Sensitivities for a search: measured once for a network, its data and its space, and kept between studies."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.objectives.tasks import LoadedTask
from mobo_mpq.objectives.tasks.cache import cache_dir
from mobo_mpq.seeding import derive
from mobo_mpq.sensitivity import Given, Provenance, SensitivityTable, measure, provenance_of
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import batch_count, passes
from mobo_mpq.training.isolation import isolated
from mobo_mpq.trial import Recipe
from mobo_mpq.workflows.evaluation import CALIBRATION_BATCHES

Say = Callable[[str], None]
SEED = derive(0, "sensitivity")


@dataclass(frozen=True)
class Sensitivities:
    """What a study knows before its first trial.

    Attributes:
        table: the values, and what they cost when they were measured.
        cached: whether an earlier study paid for them.
    """

    table: SensitivityTable
    cached: bool

    def to_dict(self) -> dict[str, Any]:
        """As the journal's first line holds it."""
        return {**self.table.to_dict(), "cached": self.cached}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], space: SearchSpace) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputError: when the document is no table, or one of another space.
        """
        table = SensitivityTable.from_dict(document)
        expected = (len(space.names), len(space.options))
        if table.values.shape != expected:
            raise InputError(
                f"the table of sensitivities has shape {table.values.shape}; expected {expected}, layers x options: "
                "restore the study's journal from a copy"
            )
        return cls(table, bool(document.get("cached", False)))


def find_sensitivities(
    network: Network, space: SearchSpace, task: LoadedTask, say: Say, kind: str, recipe: Recipe
) -> Sensitivities | None:
    """As :func:`sensitivities_of`, but ``None`` where they cannot be measured: a search is told why, and goes on."""
    try:
        return sensitivities_of(network, space, task, say, kind, recipe)
    except InputError as error:
        say(f"searching without sensitivities: {error}")
        return None


def sensitivities_of(
    network: Network, space: SearchSpace, task: LoadedTask, say: Say, kind: str, recipe: Recipe
) -> Sensitivities:
    """Take the table from the cache, or measure it on :func:`sample_batches`, on one thread.

    Args:
        network: in float.
        space: of its policies.
        task: whose training data and loss are used.
        say: told what was done, and at which cost.
        kind: of sensitivity.
        recipe: of the trials. Biases count as corrected unless it says otherwise: a fine-tune learns them, too.

    Raises:
        UnknownName: when there is no such kind.
        InputError: when it cannot be measured.
    """
    batches = sample_batches(task)
    given = Given(task.loss, biases=recipe.options.get("biases") != "off")
    with isolated(SEED, threads=1):
        file = _file(digests := provenance_of(kind, network, space, batches, given))
        table = _read(file, digests)
        if table is not None:
            say(f"sensitivities from the cache, where they had cost {_cost(table)}")
            return Sensitivities(table, cached=True)
        table = measure(kind, network, space, batches, given)
    say(f"sensitivities measured: {_cost(table)}")
    try:
        _write(file, table)
    except OSError as error:
        say(f"the sensitivities are not kept for other studies: cannot write to {file.parent} ({error.strerror})")
    return Sensitivities(table, cached=False)


def sample_batches(task: LoadedTask) -> list[Any]:
    """The training batches that sensitivities are measured on.

    They do not depend on a study's seed, so that all studies of a network on a space share one table.
    """
    count = min(CALIBRATION_BATCHES, batch_count(task.train))
    with isolated(SEED):  # a loader may shuffle and augment by global generators
        return list(itertools.islice(passes(task.train, SEED), count))


def _cost(table: SensitivityTable) -> str:
    passes = "1 pass" if table.evaluations == 1 else f"{table.evaluations} passes"
    return f"{passes} over some training samples, {table.cpu_s:.2f} s CPU"


def _file(digests: Provenance) -> Path:
    key = hashlib.sha256(f"{digests.model} {digests.data} {digests.options}".encode()).hexdigest()
    return cache_dir() / f"sensitivity-{key[:16]}.json"


def _read(file: Path, digests: Provenance) -> SensitivityTable | None:
    """A table that was kept, if the file is whole and of the same network, data and options."""
    try:
        table = SensitivityTable.from_dict(json.loads(file.read_text()))
    except (OSError, ValueError, AttributeError, InputError):  # absent, torn, or something else: measure again
        return None
    return table if table.provenance == digests else None


def _write(file: Path, table: SensitivityTable) -> None:
    """Studies that measure at the same time each write a file of their own and rename it: none reads half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=file.name, suffix=".partial", dir=file.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(table.to_dict(), stream, allow_nan=False)
        os.replace(partial, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
