"""How the trials of a study are run: in parallel by Ray Tune, or one after the other in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from mobo_mpq import futility
from mobo_mpq.errors import InputError
from mobo_mpq.optimization import one_thread
from mobo_mpq.study import Study
from mobo_mpq.trial import Trial
from mobo_mpq.workflows.evaluation import Evaluator, Work

OnFinished = Callable[[Trial, Callable[[], bytes | None]], None]
"""Called with each finished trial and a function that fetches its network."""


def run_serial(study: Study, work: Work, total: int, on_finished: OnFinished) -> None:
    """One trial after the other, here: for debugging, and for machines without Ray."""
    if work.gpus and not torch.cuda.is_available():
        raise InputError("--gpus-per-trial asks for a GPU, and torch finds none here; leave the flag out")
    with one_thread():
        evaluator = Evaluator(work)
        while study.evaluated < total:
            trials = study.ask(1)
            if not trials:
                return
            for trial in trials:
                done, state = run_one(study, evaluator, trial)
                on_finished(done, lambda state=state: state)  # type: ignore[misc]


def run_one(study: Study, evaluator: Evaluator, trial: Trial) -> tuple[Trial, bytes]:
    """Evaluate one trial here, and hand in what came of it; returns the finished trial, and its network."""
    bar = bar_of(study, evaluator.work, trial)
    outcome = evaluator.run(trial.policy, seed=trial.seed, recipe=trial.recipe, learner=trial.learner, bar=bar)
    done = study.tell(
        trial.number,
        {study.problem.quality.name: outcome.measurement} if outcome.measurement else None,
        error=outcome.error,
        pruned=outcome.pruned,
        early=outcome.early,
        policy=outcome.policy,
        details=outcome.details,
        seconds=outcome.seconds,
        cpu_s=outcome.cpu_s,
    )
    return done, outcome.state


def bar_of(study: Study, work: Work, trial: Trial) -> float | None:
    """The early quality from which a trial goes on, as things stand; ``None`` lets it."""
    return futility.bar(study.problem, study.finished, trial) if work.futility else None


def run_ray(
    study: Study, work: Work, total: int, on_finished: OnFinished, *, concurrency: int | None, address: str | None
) -> None:
    """As many trials at a time as there are cores (or as ``concurrency`` says), on this machine or a cluster.

    Raises:
        InputError: the cluster cannot be reached.
    """
    with ray_session(address, concurrency) as ray:
        from ray import tune

        from mobo_mpq.workflows.searcher import StudySearcher
        from mobo_mpq.workflows.trainable import Mailbox, PolicyTrainable

        at_once = concurrency or _room(ray.cluster_resources(), work)
        if work.gpus > ray.cluster_resources().get("GPU", 0.0):
            raise InputError(f"--gpus-per-trial is {work.gpus:g}, more than the cluster has; lower it, or leave it out")
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)  # all workers start together, not one by one
        mailbox = ray.remote(num_cpus=0)(Mailbox).remote()

        def finished(trial: Trial) -> None:
            on_finished(trial, lambda: ray.get(mailbox.take.remote(trial.number)))

        searcher = StudySearcher(study, total, at_once, finished, lambda trial: bar_of(study, work, trial))
        trainable = tune.with_resources(
            tune.with_parameters(PolicyTrainable, work=work, mailbox=mailbox), _resources(work)
        )
        storage = tempfile.mkdtemp(prefix="mobo-mpq-tune-")
        try:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,  # the searcher says when it is enough
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
                ),
                run_config=tune.RunConfig(
                    name="study",
                    storage_path=storage,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            tuner.fit()
            if searcher.failure is not None:
                raise searcher.failure
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _room(cluster: Mapping[str, float], work: Work) -> int:
    """Trials that fit on a cluster at a time."""
    fits = [cluster.get(kind, 0.0) / share for kind, share in _resources(work).items()]
    return max(1, int(min(fits)))


def _resources(work: Work) -> dict[str, float]:
    return {"CPU": 1.0, "GPU": work.gpus} if work.gpus else {"CPU": 1.0}


@contextlib.contextmanager
def ray_session(address: str | None, concurrency: int | None) -> Iterator[Any]:
    """Connect to a cluster, or start Ray on this machine; a connection that was there before is left as it was."""
    import ray

    if ray.is_initialized():
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": True,
    }
    if where == "local":
        cores = concurrency or os.cpu_count() or 1
        quiet |= {"num_cpus": cores, "include_dashboard": False}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=where, **quiet)
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, on_terminate)  # Ray puts in its own, which dies with a stack trace
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).split("\n", 1)[0]
        raise InputError(
            f"cannot reach a Ray cluster at '{where}': {first}; check --address and RAY_ADDRESS, and that this user "
            "has the cluster's token in ~/.ray/auth_token"
        ) from None
    try:
        yield ray
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()
