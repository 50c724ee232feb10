"""Begin a study, or take one up again: what ``mobo-mpq search`` and ``resume`` do, as functions.

Run as a script it is ``mobo-mpq search`` on the cluster it finds itself on:
``ray submit workflows/cluster/local.yaml workflows/search.py -- --trials 16``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError
from mobo_mpq.journal import Journal
from mobo_mpq.strategies.listed import Listed
from mobo_mpq.strategies.registry import make_strategy, own_sensitivity, uses_sensitivity
from mobo_mpq.study import Study
from mobo_mpq.training.recipes import trains
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.home import Home, StudyFolder
from mobo_mpq.workflows.preparation import Prepared, prepare, resolve
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import stderr
from mobo_mpq.workflows.sensitivities import find_sensitivities
from mobo_mpq.workflows.study_run import RunOptions, StudyRun, start_tracker
from mobo_mpq.workflows.tracking import is_uploaded, tracking_address


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
    place.new(prepared.config.name)
    if prepared.proxy is None or not prepared.transfers:
        return _begin(place, prepared, options)
    place.new(prepared.proxy.config.name)
    _begin(place, prepared.proxy, options, waiting=prepared)
    return _transfer(place, prepared, options)


def _begin(place: Home, prepared: Prepared, options: RunOptions, waiting: Prepared | None = None) -> StudyRecord:
    """Make the strategy, then the journal, and run.

    Args:
        place: home of the studies.
        prepared: the study, without a proxy that comes before.
        options: how it is run.
        waiting: the study that this one is the proxy of; it has begun as soon as this one has, and nobody else may
            write to it while this one runs.
    """
    _tell_what_is_special(prepared)
    config, prepared = prepared.config, _with_sensitivities(prepared)
    start = time.thread_time()
    strategy = make_strategy(config.strategy, prepared.problem, config.seed, config.strategy_options)
    thought_s = time.thread_time() - start
    folder = place.study(config.name)
    with ExitStack() as opened:
        journal = opened.enter_context(_new_journal(place, folder, prepared))
        if waiting is not None:  # locked, for its name is free until the first trial on the proxy has begun
            opened.enter_context(_new_journal(place, place.study(waiting.config.name), waiting))
        study = Study(prepared.problem, strategy, journal, thought_s=thought_s)
        return StudyRun(place, folder, prepared, study, journal, options, config.trials).go()


def _tell_what_is_special(prepared: Prepared) -> None:
    config = prepared.config
    for line in prepared.network.unquantized:
        _say(f"left in float: {line}")
    if config.futility and not trains(prepared.work.recipe):
        _say(f"--futility has no effect: recipe '{config.recipe}' trains nothing that could be stopped")
    if prepared.work.recipe.options.get("precision") == "fp16" and not config.gpus_per_trial:
        _say(
            "fp16 on the CPU: numbers are torch's float16, layers multiply them by the kernels of float32; "
            "this is slower than fp32, on a GPU (--gpus-per-trial) it is native"
        )


def _with_sensitivities(prepared: Prepared) -> Prepared:
    """The same with those of its layers, on the data of its trials, where the strategy uses them."""
    config, space, recipe = prepared.config, prepared.problem.space, prepared.work.recipe
    if not config.sensitivity or not uses_sensitivity(config.strategy):
        return prepared
    kind = config.sensitivity_kind or own_sensitivity(config.strategy)
    return prepared.knowing(find_sensitivities(prepared.network, space, prepared.searched_on, _say, kind, recipe))


@contextmanager
def _new_journal(place: Home, folder: StudyFolder, prepared: Prepared) -> Iterator[Journal]:
    """The journal of a study that begins, with its first line, beside its study file."""
    place.make(folder)
    with Journal(folder.journal) as journal:
        folder.refuse_if_begun()  # by another process, while this one prepared
        journal.clear()
        folder.config_file.write_text(prepared.config.to_toml())
        created = datetime.now(UTC).isoformat()
        journal.append("study", name=prepared.config.name, created=created, **prepared.header())
        yield journal


def _transfer(place: Home, prepared: Prepared, options: RunOptions, trials: int | None = None) -> StudyRecord:
    """Search on the proxy, or go on with that; then evaluate the policies of its front.

    Args:
        place: home of the studies; the study has begun there.
        prepared: the study, and its proxy.
        options: how both are run.
        trials: a new total of those on the proxy.
    """
    found = _found_on_proxy(place, prepared, options, trials)
    members = found.members()
    policies = [trial.policy for trial in found.finished if trial.number in members and trial.policy is not None]
    folder = place.study(prepared.config.name)
    _say(f"evaluating {len(policies)} policies that were found on the proxy, as study '{folder.name}'")
    with Journal(folder.journal) as journal:
        strategy = Listed(prepared.problem, seed=prepared.config.seed, policies=policies)
        study = Study.resume(prepared.problem, strategy, journal)
        total = sum(one.was_evaluated or not one.is_final for one in study.trials) + len(strategy.left())
        if total != StudyRecord.read(folder).total:
            journal.append("total", trials=total)
        return StudyRun(place, folder, prepared, study, journal, options, total).go()


def _found_on_proxy(place: Home, prepared: Prepared, options: RunOptions, trials: int | None) -> StudyRecord:
    """The finished search on the proxy.

    Raises:
        InputError: the study of that name is no proxy of this one.
    """
    proxy = prepared.proxy
    assert proxy is not None, "it transfers"
    folder = place.study(proxy.config.name)
    if not folder.exists:
        asked = {} if trials is None else {"trials": trials}
        _say(f"searching on the proxy, as study '{folder.name}'")
        return begin(place, replace(proxy, config=proxy.config.model_copy(update=asked)), options)
    record = StudyRecord.read(folder)
    if record.header.get("proxy_of") != prepared.config.name:
        raise InputError(
            f"study '{folder.name}' is not the proxy of study '{prepared.config.name}', another search has taken that "
            f"name; move {folder.path} elsewhere, and the next resume searches on the proxy anew"
        )
    total = _checked_total(record, trials)
    if total == record.total and _is_done(record):
        return record
    return _go_on(place, record, proxy.taken_up(record.header), options, total)


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
    record = StudyRecord.read(place.existing(name))
    if "proxy_of" in record.header:  # the two are one search
        record = StudyRecord.read(place.existing(record.header["proxy_of"]))
    transfers = "proxy_study" in record.header
    total = record.total if transfers else _checked_total(record, trials)
    if total == record.total and _is_done(record) and not (transfers and trials):
        _upload_missing(place, record, options)
        return record
    prepared = prepare(_config_of(record), known=record.header)
    if transfers:
        return _transfer(place, prepared, options, trials)
    return _go_on(place, record, prepared, options, total)


def _checked_total(record: StudyRecord, trials: int | None) -> int:
    """The number of trials that a study shall have."""
    total = record.total if trials is None else trials
    if total < record.evaluated:
        raise InputError(
            f"study '{record.name}' has {record.evaluated} trials already; --trials {total} would take some away"
        )
    return total


def _is_done(record: StudyRecord) -> bool:
    return record.is_finished and record.is_tested and record.is_described


def _go_on(place: Home, record: StudyRecord, prepared: Prepared, options: RunOptions, total: int) -> StudyRecord:
    """Take up a study where its journal ends."""
    config = prepared.config
    with Journal(record.folder.journal) as journal:
        if total != record.total:
            journal.append("total", trials=total)
        strategy = make_strategy(config.strategy, prepared.problem, config.seed, config.strategy_options)
        study = Study.resume(prepared.problem, strategy, journal)
        return StudyRun(place, record.folder, prepared, study, journal, options, total).go()


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
        start_tracker(home, record.folder, journal, options, _say).close()


def _say(sentence: str) -> None:
    stderr.print(sentence, markup=False, soft_wrap=True)


if __name__ == "__main__":
    from mobo_mpq.workflows.cli import main

    sys.exit(main(["search", "--address", "auto", *sys.argv[1:]]))
