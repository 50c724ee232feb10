"""Begin a study, or take one up again: what ``mobo-mpq search`` and ``resume`` do, as functions.

Run as a script it is ``mobo-mpq search`` on the cluster it finds itself on:
``ray submit workflows/cluster/local.yaml workflows/search.py -- --trials 16``.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError, WorkError
from mobo_mpq.journal import Journal, measurement_to_list
from mobo_mpq.optimization import one_thread
from mobo_mpq.strategies.registry import make_strategy, own_sensitivity, uses_sensitivity
from mobo_mpq.study import Study
from mobo_mpq.training.recipes import trains
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.checkpoints import Checkpoints
from mobo_mpq.workflows.evaluation import Evaluator
from mobo_mpq.workflows.home import Home, StudyFolder
from mobo_mpq.workflows.preparation import Prepared, prepare, resolve
from mobo_mpq.workflows.progress import Reporter
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import stderr
from mobo_mpq.workflows.runners import run_ray, run_serial
from mobo_mpq.workflows.sensitivities import find_sensitivities
from mobo_mpq.workflows.tracking import MlflowLog, Tracker, is_uploaded, tracking_address

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


def search(
    *,
    home: str | Path | None = None,
    runner: str = "ray",
    address: str | None = None,
    tracking_uri: str | None = None,
    **settings: Any,
) -> StudyRecord:
    """Begin a study and run it to its end.

    Args:
        home: folder of the studies; ``$MOBO_MPQ_HOME`` or ``./mobo-mpq-home`` when absent.
        runner: ``ray``, or ``serial`` for one trial after the other in this process.
        address: of a Ray cluster; this machine when absent.
        tracking_uri: of an MLflow server; a database in the home when absent.
        **settings: fields of :class:`~mobo_mpq.config.StudyConfig`: ``task="digits", target="mpic", trials=48``.

    Returns:
        The finished study.

    Raises:
        InputError: anything that the user can mend; nothing has been trained then.
        WorkError: trial after trial failed.
    """
    options = RunOptions(runner, address, tracking_uri)
    environment.prepare(address)
    config = resolve(StudyConfig.parse(settings))
    place = Home.of(home)
    place.new(config.name)  # what exists is refused before anything is loaded
    _say(f"preparing task '{config.task}' for target '{config.target}'")
    return begin(place, prepare(config), options)


def begin(place: Home, prepared: Prepared, options: RunOptions) -> StudyRecord:
    """Begin a study that is prepared, and run it to its end.

    Args:
        place: home of the studies.
        prepared: without sensitivities; they are found here, where the strategy uses them.
        options: how it is run.

    Raises:
        InputError: the study exists, the home cannot be written, or the strategy cannot search the problem.
        WorkError: trial after trial failed.
    """
    config = prepared.config
    folder = place.new(config.name)
    for line in prepared.network.unquantized:
        _say(f"left in float: {line}")
    if config.futility and not trains(prepared.work.recipe):
        _say(f"--futility has no effect: recipe '{config.recipe}' trains nothing that could be stopped")
    if prepared.work.recipe.options.get("precision") == "fp16" and not config.gpus_per_trial:
        _say(
            "fp16 on the CPU: numbers are torch's float16, layers multiply them by the kernels of float32; "
            "this is slower than fp32, on a GPU (--gpus-per-trial) it is native"
        )
    if config.sensitivity and uses_sensitivity(config.strategy):
        space = prepared.problem.space
        kind = config.sensitivity_kind or own_sensitivity(config.strategy)
        found = find_sensitivities(prepared.network, space, prepared.task, _say, kind, prepared.work.recipe)
        prepared = prepared.knowing(found)
    start = time.thread_time()
    strategy = make_strategy(config.strategy, prepared.problem, config.seed, config.strategy_options)
    thought_s = time.thread_time() - start
    place.make(folder)
    with Journal(folder.journal) as journal:
        folder.refuse_if_begun()  # by another process, while this one prepared
        journal.clear()
        folder.config_file.write_text(config.to_toml())
        created = datetime.now(UTC).isoformat()
        journal.append("study", name=config.name, created=created, **prepared.header())
        study = Study(prepared.problem, strategy, journal, thought_s=thought_s)
        return _Run(place, folder, prepared, study, journal, options, config.trials).go()


def resume(
    name: str | None = None,
    *,
    trials: int | None = None,
    home: str | Path | None = None,
    runner: str = "ray",
    address: str | None = None,
    tracking_uri: str | None = None,
    concurrency: int | None = None,
) -> StudyRecord:
    """Go on with a study after a crash, an interrupt, or for more trials.

    Args:
        name: of the study; the newest when absent.
        trials: a new total.
        home: as for :func:`search`, like all that follow.
        runner: ``ray`` or ``serial``.
        address: of a Ray cluster.
        tracking_uri: of an MLflow server.
        concurrency: trials at a time.

    Returns:
        The finished study; at once, when it was finished before and ``trials`` asks for no more.

    Raises:
        InputError: there is no such study, its journal is broken, or its model has changed.
        WorkError: trial after trial failed.
    """
    options = RunOptions(runner, address, tracking_uri, concurrency)
    environment.prepare(address)
    place = Home.of(home)
    folder = place.existing(name)
    record = StudyRecord.read(folder)
    total = record.total if trials is None else trials
    if total < record.evaluated:
        raise InputError(
            f"study '{folder.name}' has {record.evaluated} trials already; --trials {total} would take some away"
        )
    if record.is_finished and total == record.total and record.is_tested and record.is_described:
        _upload_missing(place, record, options)
        return record
    config = _config_of(record)
    prepared = prepare(config, known=record.header)
    with Journal(folder.journal) as journal:
        if total != record.total:
            journal.append("total", trials=total)
        strategy = make_strategy(config.strategy, prepared.problem, config.seed, config.strategy_options)
        study = Study.resume(prepared.problem, strategy, journal)
        return _Run(place, folder, prepared, study, journal, options, total).go()


def _config_of(record: StudyRecord) -> StudyConfig:
    """The study file, if it is the journal's."""
    config = record.folder.config()
    if config.name != record.header["name"]:
        raise InputError(
            f"{record.folder.config_file} is of a study '{config.name}', the journal beside it of "
            f"'{record.header['name']}'; restore the file from a copy, or from the parent run in MLflow"
        )
    return config


def _upload_missing(home: Home, record: StudyRecord, options: RunOptions) -> None:
    """Bring MLflow up to date with a finished study, where it was away while the study ran."""
    if is_uploaded(record, tracking_address(home, options.tracking_uri), home):
        return
    with Journal(record.folder.journal) as journal:
        _start_tracker(home, record.folder, journal, options, _say).close()


def _start_tracker(
    home: Home, folder: StudyFolder, journal: Journal, options: RunOptions, say: Callable[[str], None]
) -> Tracker:
    address = tracking_address(home, options.tracking_uri)

    def read() -> StudyRecord:
        return StudyRecord.read(folder)

    return Tracker(lambda: MlflowLog(home, address, journal, read()), read, say)


def _say(sentence: str) -> None:
    stderr.print(sentence, markup=False, soft_wrap=True)


class _Run:
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
        tracker = _start_tracker(self.home, self.folder, self.journal, self.options, self.reporter.say)
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


if __name__ == "__main__":
    from mobo_mpq.workflows.cli import main

    sys.exit(main(["search", "--address", "auto", *sys.argv[1:]]))
