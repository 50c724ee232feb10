"""One policy, evaluated: the same code in a worker, in a serial run, and at export."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from mobo_mpq.errors import TaskError
from mobo_mpq.futility import verdict
from mobo_mpq.graph import Network, load_program
from mobo_mpq.objective import Measurement
from mobo_mpq.objectives.tasks import LoadedTask, load_task
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.seeding import derive
from mobo_mpq.training.data import SharedLoader, first_inputs, rebuild
from mobo_mpq.training.divergence import Divergence
from mobo_mpq.training.isolation import isolated
from mobo_mpq.training.learning import learn
from mobo_mpq.training.probe import Probe, undisturbed
from mobo_mpq.training.recipes import TrainingContext, apply_uncalibrated, run_recipe
from mobo_mpq.training.subsets import subset
from mobo_mpq.trial import Recipe

CALIBRATION_BATCHES = 4


@dataclass(frozen=True)
class Work:
    """What a worker needs, as plain data: put into the object store once, read by all.

    Attributes:
        task: address; the worker loads it for its metric and loss.
        program: the traced float network, serialised.
        recipe: of the study.
        train: the training data, when it is tensors; else the worker takes the task's own loader.
        val: likewise for validation.
        seed: of the study.
        gpus: share of a GPU that each trial reserves; 0 runs on the CPU.
        futility: whether networks are measured early in their fine-tune, and hopeless ones given up.
        problem: legal policies and costs, for learners.
        train_fraction: share of the training data that is used; the same one by all workers.
        proxy: what learners learn on, where that is something else.
    """

    task: str
    program: bytes
    recipe: Recipe
    train: SharedLoader | None
    val: SharedLoader | None
    seed: int
    gpus: float = 0.0
    futility: bool = False
    problem: Problem | None = None
    train_fraction: float = 1.0
    proxy: Work | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one evaluation.

    Attributes:
        measurement: on the validation split; ``None`` when it failed or was given up.
        state: the quantized network's parameters and buffers, as safetensors.
        seconds: wall time.
        cpu_s: CPU time of this thread, which does all of it on one: loaders with workers of their own count less.
        error: why it failed, or was given up.
        early: measured after a quarter of the fine-tune, where that was asked for.
        pruned: it was given up, on purpose.
        policy: what was evaluated; ``None`` where a learner failed before it found one.
        details: what recipe and learner tell about their training.
    """

    measurement: Measurement | None
    state: bytes
    seconds: float
    cpu_s: float
    error: str | None = None
    early: Measurement | None = None
    pruned: bool = False
    policy: Policy | None = None
    details: Mapping[str, float] = field(default_factory=dict)


class _Hopeless(Exception):
    """Ends a trial that is given up."""


class _EarlyLook:
    """A probe: measures a network as at the end, and gives up one that is on the wrong side of the bar.

    Attributes:
        measurement: what was found; ``None`` before, and where the metric fails: the end will tell why.
    """

    def __init__(self, evaluator: Evaluator, seed: int, bar: float | None) -> None:
        self.evaluator, self.seed, self.bar = evaluator, seed, bar
        self.measurement: Measurement | None = None

    def __call__(self, network: QuantizedNetwork) -> None:
        task = self.evaluator.task
        with undisturbed(network, self.seed, self.evaluator.val), suppress(TaskError):
            self.measurement = self.evaluator.score(network)
        if self.measurement is not None:
            why = verdict(task.metric_name, task.direction, self.measurement.value, self.bar)
            if why is not None:
                raise _Hopeless(why)


class Evaluator:
    """Evaluates policies of one study. Cheap to call again: data and network stay."""

    def __init__(self, work: Work, task: LoadedTask | None = None) -> None:
        self.work = work
        self.task = task or load_task(work.task)
        self.device = torch.device("cuda" if work.gpus else "cpu")
        network = Network.from_program(load_program(work.program)).to(self.device)
        train: Iterable[Any] = rebuild(work.train) if work.train else self.task.train
        self.val: Iterable[Any] = rebuild(work.val) if work.val else self.task.val
        seed = derive(work.seed, "calibration")
        with isolated(seed):  # a loader may shuffle and augment by global generators
            self.train = subset(train, work.train_fraction, work.seed)
            calibration = first_inputs(self.train, CALIBRATION_BATCHES, seed)
            self.divergence = Divergence(network, self.val)
        self.context = TrainingContext(network, self.train, self.task.loss, calibration)
        self.proxy = Evaluator(work.proxy) if work.proxy else self

    def run(
        self,
        policy: Policy | None,
        *,
        seed: int,
        recipe: Recipe | None = None,
        learner: Recipe | None = None,
        bar: float | None = None,
    ) -> Outcome:
        """Quantize, fine-tune, score. Whatever goes wrong, in a user's loss as well as here, is an outcome.

        Args:
            policy: bits of every layer; ``None`` where a learner has to find them first.
            seed: of the trial.
            recipe: the trial's own, over the study's.
            learner: finds the policy.
            bar: quality after a quarter of the fine-tune from which the trial goes on; see :mod:`mobo_mpq.futility`.
        """
        start, cpu_start = time.perf_counter(), time.thread_time()

        def spent() -> tuple[float, float]:
            return time.perf_counter() - start, time.thread_time() - cpu_start

        drawn = derive(seed, "evaluation")  # the early look draws the same numbers as the last one
        look, details = _EarlyLook(self, drawn, bar), dict[str, float]()
        try:
            with isolated(drawn):
                if policy is None:
                    assert learner is not None, "the study asked for a policy or a learner"
                    policy = self.learned_policy(learner, seed, details)
                probe = look if self.work.futility else None
                network = self.build(policy, seed=seed, recipe=recipe, probe=probe, details=details)
                measurement = self.score(network)
        except Exception as error:
            first_line = str(error).split("\n", 1)[0]
            hopeless = isinstance(error, _Hopeless)
            why = first_line if hopeless else f"{type(error).__name__}: {first_line}"
            return Outcome(None, b"", *spent(), why, look.measurement, hopeless, policy, details)
        state = dump_state(network)
        return Outcome(measurement, state, *spent(), early=look.measurement, policy=policy, details=details)

    def learned_policy(self, learner: Recipe, seed: int, details: dict[str, float]) -> Policy:
        """The policy that a learner finds; what it learned beside the bits is scored, too.

        Args:
            learner: and its options.
            seed: of the trial.
            details: gets the learner's own numbers, its CPU time, and the quality of its network.
        """
        start, problem = time.thread_time(), self.work.problem
        assert problem is not None, "studies hand their problem to workers"
        found = learn(learner, self.proxy.context, problem, seed=seed)
        details |= {**found.details, "learning_cpu_s": time.thread_time() - start}
        if found.network is not None:
            details["learned_quality"] = self.proxy.task.measure(found.network, self.proxy.val).value
        if (broken := problem.broken_budget(found.policy)) is not None:
            raise _Hopeless(str(broken))
        return found.policy

    def score(self, network: QuantizedNetwork) -> Measurement:
        """The task's metric on the validation split, and the divergence from the float network in the same pass."""
        with self.divergence.recorded(network) as tally:
            measurement = self.task.measure(network, self.val)
        return replace(measurement, divergence=tally.mean)

    def build(
        self,
        policy: Policy,
        *,
        seed: int,
        recipe: Recipe | None = None,
        probe: Probe | None = None,
        details: dict[str, float] | None = None,
    ) -> QuantizedNetwork:
        """The quantized network of a policy; a probe changes nothing about it."""
        recipe = recipe or self.work.recipe
        return run_recipe(recipe, self.context, policy, seed=seed, probe=probe, details=details)

    def restore(self, policy: Policy, state: bytes, *, recipe: Recipe | None = None) -> QuantizedNetwork:
        """The network that was saved with :func:`dump_state`."""
        network = apply_uncalibrated(self.context, policy, recipe or self.work.recipe)
        network.load_state_dict(load(state))
        return network.requires_grad_(False)


def dump_state(network: nn.Module) -> bytes:
    """Parameters and buffers as safetensors."""
    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()})
