"""MLflow shows a study; the journal owns it.

A thread of its own brings MLflow up to date with the journal: at every finished trial, and at the end. What is missing
there is uploaded whenever the server can be reached, so a server that is away costs a study nothing but the view.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mobo_mpq.export.policy_json import PolicyDocument
from mobo_mpq.journal import Journal
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import mean_bits, pareto_csv, pareto_document

PARETO_TAG = "mobo_mpq.pareto"
DENOISED_TAG = "mobo_mpq.denoised"
_BATCH = 100  # MLflow takes that many parameters or tags at a time
_STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAILED: "FAILED"}


def tracking_address(home: Home, uri: str | None) -> str:
    """Where runs are logged: what was asked for, else ``$MLFLOW_TRACKING_URI``, else a database in the home."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.path / 'mlflow.db'}"


_CLOSED = "closed"
"""Remembered like a run: the closing artifacts are there."""


def _key_of(address: str, home: Path) -> str:
    """How the journal names a server: a database inside the home stays the same one when the home is moved."""
    return address.replace(str(home), "HOME")


def is_uploaded(record: StudyRecord, address: str, home: Home) -> bool:
    """Whether a server has seen all of a study."""
    known = record.runs.get(_key_of(address, home.path), {})
    return _CLOSED in known and all(str(trial.number) in known for trial in record.finished)


class MlflowLog:
    """Writes one study to one MLflow server. Not safe to use from several threads at once.

    Args:
        home: gives the folder of the artifacts of a local database.
        address: of the server or database.
        journal: remembers which run is which trial.
        record: the study as it stands.
    """

    def __init__(self, home: Home, address: str, journal: Journal, record: StudyRecord) -> None:
        environment.prepare()
        from mlflow.tracking import MlflowClient

        for chatty in ("alembic", "mlflow", "mlflow.store.db.utils"):  # after the import, which sets them anew
            logging.getLogger(chatty).setLevel(logging.ERROR)
        self.client = MlflowClient(tracking_uri=address)
        self.address, self.journal, self.name = address, journal, record.name
        self.key = _key_of(address, home.path)
        self.runs: dict[str, str] = dict(record.runs.get(self.key, {}))
        self.experiment = self._experiment(home)
        self._tags: dict[int, bool] = {}
        self._logged_volumes = 0
        if "parent" not in self.runs:
            self._begin(record)

    def _experiment(self, home: Home) -> str:
        found = self.client.get_experiment_by_name(self.name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = (home.path / "artifacts" / self.name).as_uri() if self.address.startswith("sqlite") else None
        return str(self.client.create_experiment(self.name, artifact_location=artifacts))

    def _remember(self, of: str, run_id: str) -> None:
        self.journal.append("tracking", uri=self.key, of=of, run_id=run_id)
        self.runs[of] = run_id

    def _begin(self, record: StudyRecord) -> None:
        """The parent run: what the study is."""
        run = self.client.create_run(self.experiment, run_name=record.name, tags={"mobo_mpq.kind": "study"})
        self._remember("parent", run.info.run_id)
        for key in ("task", "target", "model_digest", "version"):
            self.client.log_param(run.info.run_id, key, record.header[key])
        for split, values in record.header["float"].items():
            for name, (value, _) in values.items():
                self.client.log_metric(run.info.run_id, _key(f"float_{split}_{name}"), value)
        self.client.log_text(run.info.run_id, record.folder.config_file.read_text(), "study.toml")

    def update(self, record: StudyRecord) -> None:
        """Upload whatever finished since, and bring the front's tags up to date."""
        front = {trial.number for trial in record.pareto()}
        for trial in record.finished:
            if str(trial.number) not in self.runs:
                self._log_trial(record, trial, trial.number in front)
            elif self._tags.get(trial.number) != (trial.number in front):
                self._tag(trial.number, trial.number in front)
        for count in range(self._logged_volumes + 1, len(record.finished) + 1):
            self.client.log_metric(self.runs["parent"], "hypervolume", record.hypervolume(count), step=count)
        self._logged_volumes = len(record.finished)

    def finish(self, record: StudyRecord) -> None:
        """What is known at the end: Pareto table, plots, test values, denoised values."""
        self.update(record)
        parent = self.runs["parent"]
        self.client.log_metric(parent, "pareto_size", len(record.pareto()))
        for number, values in record.tested.items():
            for name, value in values.items():
                if str(number) in self.runs:
                    self.client.log_metric(self.runs[str(number)], _key(f"test_{name}"), value.value)
        self._log_estimates(record)
        self.client.log_text(parent, json.dumps(pareto_document(record), indent=2), "pareto.json")
        self.client.log_text(parent, pareto_csv(record), "pareto.csv")
        if record.pareto():
            self._log_plots(parent, record)
        self.client.set_terminated(parent, "FINISHED" if record.is_finished else "KILLED")
        if record.is_finished:
            self._remember(_CLOSED, parent)

    def _log_estimates(self, record: StudyRecord) -> None:
        from mlflow.entities import Metric, RunTag

        members, now = {trial.number for trial in record.denoised()}, int(time.time() * 1000)
        for number, estimate in record.estimates.items():
            if str(number) in self.runs:
                metric = Metric(_key(f"{record.quality.name}_denoised"), estimate.value, now, 0)
                tag = RunTag(DENOISED_TAG, str(number in members).lower())
                self.client.log_batch(self.runs[str(number)], metrics=[metric], tags=[tag])

    def _log_plots(self, run_id: str, record: StudyRecord) -> None:
        from mobo_mpq.workflows.plotting import plot

        with tempfile.TemporaryDirectory() as folder:
            for name in ("front.html", "front.png"):
                plot(record, Path(folder) / name)
                self.client.log_artifact(run_id, str(Path(folder) / name))

    def _log_trial(self, record: StudyRecord, trial: Trial, on_front: bool) -> None:
        from mlflow.entities import Metric, Param, RunTag

        tags = {
            "mlflow.parentRunId": self.runs["parent"],
            PARETO_TAG: str(on_front).lower(),
            "mobo_mpq.number": str(trial.number),
            "mobo_mpq.state": str(trial.state),
        }
        run = self.client.create_run(
            self.experiment, run_name=f"trial-{trial.number}", tags=tags, start_time=_milliseconds(trial.started)
        )
        run_id, now = run.info.run_id, int(time.time() * 1000)
        metrics = {name: value.value for name, value in trial.values.items()}
        metrics |= {f"{name}_stderr": value.stderr for name, value in trial.values.items() if value.stderr}
        if trial.seconds is not None:
            metrics["seconds"] = trial.seconds
        metrics |= {f"details.{name}": value for name, value in trial.details.items()}
        params = {"origin": trial.origin, "seed": str(trial.seed)}
        if trial.learner is not None:
            params |= {"learner": trial.learner.kind, "learner.epochs": str(trial.learner.epochs)}
            params |= {f"learner.{name}": str(value) for name, value in trial.learner.options.items()}
        if trial.policy is not None:
            metrics["mean_weight_bits"], metrics["mean_activation_bits"] = mean_bits(trial.policy)
            for name, bits in trial.policy.items():
                params[f"bits.{name}"] = f"{bits.weight}/{bits.activation}"
        if trial.error:
            tags_error = [RunTag("mobo_mpq.error", trial.error[:5000])]
            self.client.log_batch(run_id, tags=tags_error)
        entities = [Param(_key(key), value) for key, value in params.items()]
        self.client.log_batch(
            run_id, metrics=[Metric(_key(k), v, now, 0) for k, v in metrics.items()], params=entities[:_BATCH]
        )
        for start in range(_BATCH, len(entities), _BATCH):
            self.client.log_batch(run_id, params=entities[start : start + _BATCH])
        if trial.policy is not None:
            self.client.log_text(run_id, self._policy_file(record, trial), "policy.json")
        self.client.set_terminated(run_id, _STATUS[trial.state], _milliseconds(trial.finished))
        self._tags[trial.number] = on_front
        self._remember(str(trial.number), run_id)

    def _policy_file(self, record: StudyRecord, trial: Trial) -> str:
        assert trial.policy is not None, "only trials with a policy have a file"
        return PolicyDocument(trial.policy, record.header["model_digest"], record.header["target"]).to_json()

    def _tag(self, number: int, on_front: bool) -> None:
        self.client.set_tag(self.runs[str(number)], PARETO_TAG, str(on_front).lower())
        self._tags[number] = on_front


def _key(name: str) -> str:
    """MLflow takes letters, digits, and ``_-. /:``."""
    return "".join(letter if letter.isalnum() or letter in "_-. /:" else "_" for letter in name)


def _milliseconds(moment: Any) -> int | None:
    return int(moment.timestamp() * 1000) if moment is not None else None


class Tracker:
    """Runs a :class:`MlflowLog` on a thread of its own, so that no search waits for a server.

    Args:
        open_log: makes the log; called on the thread, since it may take seconds.
        read: gives the study as it stands.
        say: tells the user, once, that the server is away.
    """

    def __init__(
        self, open_log: Callable[[], MlflowLog], read: Callable[[], StudyRecord], say: Callable[[str], None]
    ) -> None:
        self._open, self._read, self._say = open_log, read, say
        self._wake, self._closing, self._told = threading.Event(), False, False
        self._log: MlflowLog | None = None
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Something has changed; returns at once."""
        self._wake.set()

    def close(self, timeout_s: float = 60.0) -> None:
        """Upload the rest; give up after ``timeout_s``."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._say("MLflow is slow, and not up to date yet; 'mobo-mpq resume' uploads what is missing")

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing
            if closing or time.monotonic() >= self._retry_at:
                self._upload(closing)
            if closing:
                return

    def _upload(self, closing: bool) -> None:
        try:
            self._log = self._log or self._open()
            record = self._read()
            if closing:
                self._log.finish(record)
            else:
                self._log.update(record)
        except Exception as error:  # whatever a server or its client does, the study goes on
            self._retry_at = time.monotonic() + 30.0
            if not self._told:
                self._told = True
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                self._say(
                    f"MLflow cannot be written to ({first[:200]}); the study goes on, and 'mobo-mpq resume' uploads "
                    "what is missing"
                )
