"""One append-only JSON-lines file per study: the study's only state.

Each line is ``{"event": ..., ...}``, flushed and fsynced before anybody acts on it. A process that dies while it writes
leaves a torn last line, which the next one cuts off. A line that is broken anywhere else means that somebody else
changed the file: that is an error, not a guess.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from mobo_mpq.errors import JournalError
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.trial import Recipe, Trial, TrialState

SCHEMA = 1


class Journal:
    """The events of one study, on disk.

    Args:
        path: of the file; its folder must exist.

    Use :meth:`open` to write: only one process at a time may. :func:`read_events` needs no lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._lock = threading.Lock()  # the tracking thread writes run ids while trials finish

    def open(self) -> Self:
        """Lock the file for writing and cut off a torn last line.

        Raises:
            JournalError: when another process writes to it, or it cannot be written.
        """
        try:
            self._file = self.path.open("ab")
        except OSError as error:
            raise JournalError(
                f"cannot write the journal {self.path}: {error.strerror}; choose another --home or mend it"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise JournalError(
                f"another process is working on {self.path}; wait until it has finished, or end it"
            ) from None
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        return self

    def close(self) -> None:
        """Let other processes write."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self if self._file is not None else self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def clear(self) -> None:
        """Forget what is there; for a study that never had a trial."""
        self._file.truncate(0)

    def append(self, event: str, **fields: Any) -> None:
        """Write one line, durably."""
        line = json.dumps({"event": event, **fields}, allow_nan=False, separators=(",", ":"))
        with self._lock:
            if self._file is None:
                raise JournalError(f"the journal {self.path} is not open for writing; open it first")
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def append_trial(self, trial: Trial) -> None:
        """Write down a trial, in whatever state it is."""
        self.append("trial", **trial_to_dict(trial))


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal, in order.

    Raises:
        JournalError: when there is no such file, a line is broken, or the schema is another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JournalError(f"cannot read the journal {path}: {error.strerror}") from None
    events = list(_parse(path, content))
    if events and (events[0]["event"] != "study" or events[0].get("schema") != SCHEMA):
        raise JournalError(
            f"{path} does not begin with a study of schema {SCHEMA}; another version wrote it, or it is no journal"
        )
    return events


def _parse(path: Path, content: bytes) -> Iterator[dict[str, Any]]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or nothing
        try:
            event = json.loads(line)
            if not isinstance(event["event"], str):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise JournalError(
                f"line {number} of {path} is broken: {line[:60].decode(errors='replace')!r}; restore the file from a "
                f"copy, or cut it before that line to go on from there"
            ) from None
        yield event


def read_trials(path: Path, events: Iterable[Mapping[str, Any]] | None = None) -> list[Trial]:
    """The trials of a journal: finished ones in the order in which they finished, then those still running.

    Args:
        path: of the journal.
        events: what :func:`read_events` gave, where it has been read already.

    Raises:
        JournalError: when a line is broken, or a trial ends twice.
    """
    finished: dict[int, Trial] = {}
    running: dict[int, Trial] = {}
    for event in read_events(path) if events is None else events:
        if event["event"] != "trial":
            continue
        try:
            trial = trial_from_dict(event)
        except (KeyError, TypeError, ValueError) as error:
            raise JournalError(
                f"a trial in {path} cannot be read ({type(error).__name__}: {error}); restore the file from a copy"
            ) from None
        if trial.number in finished:
            raise JournalError(f"trial {trial.number} in {path} goes on after its end; restore the file from a copy")
        if trial.is_final:
            running.pop(trial.number, None)
            finished[trial.number] = trial
        else:
            running[trial.number] = trial
    return [*finished.values(), *running.values()]


def trial_to_dict(trial: Trial) -> dict[str, Any]:
    """A trial as JSON holds it; what is empty is left out."""
    document: dict[str, Any] = {
        "number": trial.number,
        "state": str(trial.state),
        "origin": trial.origin,
        "seed": trial.seed,
        "policy": trial.policy.to_dict() if trial.policy is not None else None,
        "values": {name: measurement_to_list(value) for name, value in trial.values.items()},
        "early": measurement_to_list(trial.early) if trial.early else None,
        "error": trial.error,
        "seconds": trial.seconds,
        "cpu_s": trial.cpu_s,
        "proposal_cpu_s": trial.proposal_cpu_s,
        "started": trial.started.isoformat() if trial.started else None,
        "finished": trial.finished.isoformat() if trial.finished else None,
        "recipe": recipe_to_dict(trial.recipe) if trial.recipe else None,
        "learner": recipe_to_dict(trial.learner) if trial.learner else None,
        "details": dict(trial.details),
    }
    return {key: value for key, value in document.items() if value not in (None, {})}


def trial_from_dict(document: Mapping[str, Any]) -> Trial:
    """The inverse of :func:`trial_to_dict`."""

    def time(key: str) -> datetime | None:
        return datetime.fromisoformat(document[key]) if key in document else None

    return Trial(
        number=int(document["number"]),
        state=TrialState(document["state"]),
        policy=Policy.from_dict(document["policy"]) if "policy" in document else None,
        origin=document["origin"],
        values={name: measurement_from_list(pair) for name, pair in document.get("values", {}).items()},
        seed=int(document["seed"]),
        error=document.get("error"),
        seconds=document.get("seconds"),
        cpu_s=document.get("cpu_s"),
        proposal_cpu_s=document.get("proposal_cpu_s"),
        started=time("started"),
        finished=time("finished"),
        recipe=Recipe(**document["recipe"]) if "recipe" in document else None,
        learner=Recipe(**document["learner"]) if "learner" in document else None,
        details={name: float(value) for name, value in document.get("details", {}).items()},
        early=measurement_from_list(document["early"]) if "early" in document else None,
    )


def measurement_to_list(measurement: Measurement) -> list[float | None]:
    """``[value, standard error]``, the error ``None`` when it is not known; then the divergence where there is one."""
    pair = [measurement.value, measurement.stderr]
    return pair if measurement.divergence is None else [*pair, measurement.divergence]


def measurement_from_list(pair: list[float | None]) -> Measurement:
    """The inverse of :func:`measurement_to_list`."""
    value, stderr, *divergence = pair
    if value is None or not math.isfinite(value):
        raise ValueError(f"a measurement is {value}")
    return Measurement(float(value), stderr, *divergence)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON holds it; ``Recipe(**document)`` is the inverse."""
    return {
        "kind": recipe.kind,
        "epochs": recipe.epochs,
        "train_fraction": recipe.train_fraction,
        "options": dict(recipe.options),
    }
