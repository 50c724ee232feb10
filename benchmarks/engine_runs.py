"""One search on a problem whose best hypervolume is known: how its front grew, and what the proposals cost."""

from __future__ import annotations

import gc
import re
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from baselines import make
from exhaustive import Table, load_table
from synthetic import BITS, Synthetic, make_synthetic

from mobo_mpq.errors import InputError
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import rng
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.registry import strategy_names, uses_sensitivity
from mobo_mpq.trial import Trial, TrialState

USE_SENSITIVITY = frozenset(name for name in strategy_names() if uses_sensitivity(name))
"""Strategies that look at sensitivities; to all others, the variants of a problem that differ in them are the same."""
START = 24
"""Evaluations after which proposals are timed: every strategy has left its initial design."""

_SYNTHETIC = re.compile(r"synthetic-L(\d+)-(good|bad|none)(-hard)?-noise(\d+(?:\.\d+)?)")
_PROXY_NOISE = {"good": 0.6, "bad": 1.2, "none": 0.6}


class Job(NamedTuple):
    """A search to run. A synthetic network is drawn from the seed; a table is always the same."""

    problem: str
    strategy: str
    seed: int
    batch: int
    trials: int


@dataclass(frozen=True)
class Case:
    """A problem, and how to judge a search of it.

    Attributes:
        problem: what the strategy sees.
        evaluate: policy and number of the trial -> the measured quality.
        hypervolume: of policies, as they truly are.
        best: the greatest hypervolume; takes seconds where it is searched for.
        sensitivity_evaluations: what the sensitivities of the problem cost, in evaluations.
    """

    problem: Problem
    evaluate: Callable[[Policy, int], Measurement]
    hypervolume: Callable[[Sequence[Policy]], float]
    best: Callable[[], float]
    sensitivity_evaluations: int = 0


# --- problems by name -----------------------------------------------------------------------------------------------


def stripped(problem: str, strategy: str) -> str:
    """The name of the problem as the strategy sees it: one that uses no sensitivities gets none."""
    if strategy in USE_SENSITIVITY or is_blind(problem):
        return problem
    return re.sub("-(good|bad)-", "-none-", problem) if is_synthetic(problem) else f"{problem}-none"


def is_synthetic(problem: str) -> bool:
    """Whether it is one in closed form."""
    return problem.startswith("synthetic-")


def is_blind(problem: str) -> bool:
    """Whether it comes without sensitivities."""
    return "-none-" in problem if is_synthetic(problem) else problem.endswith("-none")


def make_case(name: str, seed: int) -> Case:
    """A problem by name, ``synthetic-L50-bad-hard-noise0.1`` or that of a table, ``-none`` for no sensitivities.

    Raises:
        InputError: a synthetic problem of another form.
        UnknownName: a table that does not exist.
    """
    if not is_synthetic(name):
        table = _table(name.removesuffix("-none"))
        table = table.without_sensitivity() if is_blind(name) else table
        return Case(
            table.problem,
            lambda policy, number: table.evaluate(policy),
            table.hypervolume,
            lambda: table.best_hypervolume,
            table.sensitivity_evaluations,
        )
    match = _SYNTHETIC.fullmatch(name)
    if match is None:
        raise InputError(
            f"problem '{name}' does not exist; expected a name like synthetic-L50-good-noise0.3, with any number of "
            "layers, good, bad or none for the sensitivities, -hard before -noise for the non-additive variant"
        )
    layers, quality, hard, noise = match.groups()
    network = make_synthetic(
        int(layers), seed, noise=float(noise), proxy_noise=_PROXY_NOISE[quality], hard=hard is not None
    )
    return Case(
        network.problem(with_sensitivity=quality != "none"),
        lambda policy, number: network.evaluate(policy, rng(seed, "noise", number)),
        network.true_hypervolume,
        network.best_hypervolume,
    )


@cache
def _table(name: str) -> Table:
    return load_table(name)


# --- searches -------------------------------------------------------------------------------------------------------


def run(job: Job) -> dict[str, Any]:
    """Search, in a process of its own if memory is to mean anything.

    Returns:
        The job's fields; ``curve``, the share of the best hypervolume after each trial; ``sensitivity_evaluations``;
        ``cpu_s``, per proposal after the first 24, what the strategy does with results included; ``memory_bytes``, the
        peak above what was held before the first proposal.
    """
    torch.set_num_threads(1)
    case = make_case(job.problem, job.seed)
    strategy = make(job.strategy, case.problem, job.seed)
    before = _resident_bytes()
    policies, seconds, proposals = play(case, strategy, job)
    memory = max(0, _peak_bytes() - before)  # before the best hypervolume is searched for
    best = case.best()
    curve = [case.hypervolume(policies[: n + 1]) / best for n in range(len(policies))]
    return {
        **job._asdict(),
        "curve": [round(share, 5) for share in curve],
        "sensitivity_evaluations": case.sensitivity_evaluations if job.strategy in USE_SENSITIVITY else 0,
        "cpu_s": seconds / proposals if proposals else None,
        "memory_bytes": memory,
    }


def play(case: Case, strategy: Strategy, job: Job) -> tuple[list[Policy], float, int]:
    """Ask, evaluate and tell.

    Returns:
        The policies in the order of their numbers; CPU seconds after the start, and the proposals that they made.
    """
    policies: list[Policy] = []
    seconds, proposals = 0.0, 0
    while len(policies) < job.trials:
        number, before = len(policies), time.process_time()
        batch = [one for one in strategy.ask(min(job.batch, job.trials - number)) if one.policy is not None]
        asked = time.process_time() - before
        if not batch:
            break
        told = [complete(case, number + i, one.policy) for i, one in enumerate(batch) if one.policy is not None]
        before = time.process_time()
        strategy.tell(told)
        if number >= START:
            seconds += asked + time.process_time() - before
            proposals += len(batch)
        policies += [trial.policy for trial in told if trial.policy is not None]
    return policies, seconds, proposals


def complete(case: Case, number: int, policy: Policy) -> Trial:
    """An evaluated trial."""
    values = {case.problem.quality.name: case.evaluate(policy, number), **case.problem.cost_values(policy)}
    return Trial(number, TrialState.COMPLETE, policy, "benchmark", values)


# --- growth ---------------------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """A proposal to time."""

    strategy: str
    layers: int
    trials: int
    batch: int


def measure_growth(size: Size) -> dict[str, Any]:
    """CPU seconds per proposal, fit included and shared over the batch, after so many trials; and peak memory.

    Half of the trials are random, half are near the front of the sensitivities. The first batch, which has no fit to
    start from, is reported apart; the seconds are the mean of the next ones.
    """
    torch.set_num_threads(1)
    case = make_case(f"synthetic-L{size.layers}-good-noise0.3", 0)
    strategy = make(size.strategy, case.problem, 0)
    policies = _plausible(case.problem, make_synthetic(size.layers, 0), size.trials)
    strategy.restore([complete(case, number, policy) for number, policy in enumerate(policies)])
    before = _resident_bytes()
    seconds = []
    for _ in range(3 if size.batch > 1 else 6):
        start = time.process_time()
        number, batch = strategy.number, strategy.ask(size.batch)
        seconds.append((time.process_time() - start) / max(1, len(batch)))
        strategy.tell([complete(case, number + i, one.policy) for i, one in enumerate(batch) if one.policy is not None])
    return {
        **size._asdict(),
        "first_cpu_s": seconds[0],
        "cpu_s": float(np.mean(seconds[1:])),
        "memory_bytes": max(0, _peak_bytes() - before),
    }


def _plausible(problem: Problem, network: Synthetic, n: int) -> list[Policy]:
    """Distinct policies, the highest bits first."""
    draw = rng(0, "growth", n)
    random = draw.integers(0, problem.space.sizes, size=(n, len(problem.space.sizes)))
    front = network.proxy_front(50) - BITS[0]
    moved = front[draw.integers(0, len(front), n)] + draw.integers(-1, 2, random.shape) * (
        draw.random(random.shape) < 0.1
    )
    levels = np.stack([np.clip(moved, 0, problem.space.sizes - 1), random], axis=1).reshape(2 * n, -1)
    distinct = dict.fromkeys([problem.space.highest(), *problem.space.to_policies(levels)])
    return list(distinct)[:n]


def _resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
