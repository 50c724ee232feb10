"""The trials of one study, run to their end; networks of the front are kept, and MLflow follows."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError

from mobo_mpq.errors import InputError, WorkError
from mobo_mpq.journal import Journal, measurement_to_list
from mobo_mpq.optimization import one_thread
from mobo_mpq.study import Study
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.checkpoints import Checkpoints
from mobo_mpq.workflows.evaluation import Evaluator
from mobo_mpq.workflows.home import Home, StudyFolder
from mobo_mpq.workflows.preparation import Prepared
from mobo_mpq.workflows.progress import Reporter
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import stderr
from mobo_mpq.workflows.runners import run_ray, run_serial
from mobo_mpq.workflows.tracking import MlflowLog, Tracker, tracking_address

RUNNERS = ("ray", "serial")
HOPELESS = 5
"""So many failures before the first success end a search: the fault is not in a policy."""


@dataclass(frozen=True)
class RunOptions:
    """How a study is run; none of it changes what a trial's result is.

    Attributes:
        runner: ``ray`` or ``serial``.
        address: of a Ray cluster; this machine when absent.
        tracking_uri: of an MLflow server; a database in the home when absent.
        concurrency: trials at a time, over what the study file says.
    """

    runner: str = "ray"
    address: str | None = None
    tracking_uri: str | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.runner not in RUNNERS:
            raise InputError(f"runner is '{self.runner}'; expected {' or '.join(RUNNERS)}")


def start_tracker(
    home: Home, folder: StudyFolder, journal: Journal, options: RunOptions, say: Callable[[str], None]
) -> Tracker:
    """What keeps MLflow up to date with a study."""
    address = tracking_address(home, options.tracking_uri)

    def read() -> StudyRecord:
        return StudyRecord.read(folder)

    return Tracker(lambda: MlflowLog(home, address, journal, read()), read, say)


class StudyRun:
    """One process's work on a study."""

    def __init__(
        self,
        home: Home,
        folder: StudyFolder,
        prepared: Prepared,
        study: Study,
        journal: Journal,
        options: RunOptions,
        total: int,
    ) -> None:
        self.home, self.folder, self.prepared, self.study = home, folder, prepared, study
        self.journal, self.options, self.total = journal, options, total
        self.checkpoints = Checkpoints(folder.checkpoints, prepared.config.checkpoint_megabytes * 1e6)
        self.reporter = Reporter(stderr, study, total, prepared.baseline["val"][prepared.task.metric_name].value)

    def go(self) -> StudyRecord:
        """Run what is missing, write down what was learned, score the front on the test split; MLflow follows."""
        tracker = start_tracker(self.home, self.folder, self.journal, self.options, self.reporter.say)
        try:
            with self.reporter.running(), _terminated_is_interrupted():
                try:
                    if self.study.evaluated < self.total:
                        self._run_trials(tracker.notify)
                finally:
                    self._write_surrogate()
                self._test_front()
            self.checkpoints.keep_only(StudyRecord.read(self.folder).members())
        finally:
            self.reporter.say("bringing MLflow up to date")
            tracker.close()
        return StudyRecord.read(self.folder)

    def _run_trials(self, notify: Callable[[], None]) -> None:
        def on_finished(trial: Trial, fetch: Callable[[], bytes | None]) -> None:
            state = fetch()  # also where it is not kept: the mailbox must not fill up
            front = {member.number for member in self.study.pareto()}
            if state and not self.checkpoints.save(trial.number, state) and trial.number in front:
                self.checkpoints.keep_only(front)  # makes room
                self.checkpoints.save(trial.number, state)
            self.reporter.finished(trial)
            notify()
            self._stop_if_hopeless()

        work, config = self.prepared.work, self.prepared.config
        if self.options.runner == "serial":
            run_serial(self.study, work, self.total, on_finished)
        else:
            at_once = self.options.concurrency or config.concurrency
            run_ray(self.study, work, self.total, on_finished, concurrency=at_once, address=self.options.address)
        self._stop_if_hopeless()
        if self.study.evaluated < self.total:
            self.reporter.say(
                f"every legal policy within the budgets has been tried: {self.study.evaluated} trials instead of "
                f"{self.total}"
            )
            self.journal.append("total", trials=self.study.evaluated, exhausted=True)

    def _stop_if_hopeless(self) -> None:
        finished = self.study.finished
        if any(trial.state is TrialState.COMPLETE for trial in finished):
            return
        failed = [trial for trial in finished if trial.state is TrialState.FAILED]
        if len(failed) >= min(HOPELESS, self.total):
            raise WorkError(
                f"the first {len(failed)} trials all failed, the last one with: {failed[-1].error}; try "
                "'--runner serial --trials 1' under another --name to see more"
            )

    def _write_surrogate(self) -> None:
        """What the strategy has learned by now, also where trials were interrupted, unless that is written already."""
        diagnosis, estimates = self.study.strategy.diagnosis(), self.study.strategy.estimates()
        if (not diagnosis and not estimates) or StudyRecord.read(self.folder).surrogate is not None:
            return
        self.journal.append(
            "surrogate",
            trials=len(self.study.finished),
            diagnosis=diagnosis,
            estimates={str(number): measurement_to_list(value) for number, value in estimates.items()},
        )

    def _test_front(self) -> None:
        """Score the front, raw and denoised, once on data that no search has seen."""
        task, record = self.prepared.task, StudyRecord.read(self.folder)
        missing = record.untested()
        if task.test is None or not missing:
            return
        which = "policies of the raw or the denoised front" if record.estimates else "Pareto policies"
        self.reporter.say(f"scoring {len(missing)} {which} on the test split")
        evaluator = Evaluator(self.prepared.work, task)
        for trial in missing:
            network = network_of(trial, evaluator, self.checkpoints)
            value = task.measure(network, task.test)
            self.journal.append("test", number=trial.number, values={task.metric_name: measurement_to_list(value)})


def network_of(trial: Trial, evaluator: Evaluator, checkpoints: Checkpoints) -> Any:
    """A trial's quantized network: as it was kept, else made again, which gives the same one."""
    assert trial.policy is not None, "a complete trial has a policy"
    state = checkpoints.load(trial.number)
    if state is not None:
        with contextlib.suppress(SafetensorError, RuntimeError):  # torn by a crash, or of another version
            return evaluator.restore(trial.policy, state, recipe=trial.recipe)
    with one_thread():  # as in a worker: more threads would sum in another order
        return evaluator.build(trial.policy, seed=trial.seed, recipe=trial.recipe)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """A polite kill leaves as tidily as ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, as in a notebook's worker
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
