"""One search of one method within a budget of CPU time, and the scores of what the methods found on unseen data."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch

from mobo_mpq.config import StudyConfig
from mobo_mpq.front import hypervolume_share
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import derive
from mobo_mpq.strategies.registry import make_strategy, own_sensitivity, uses_sensitivity
from mobo_mpq.study import Study
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.evaluation import Evaluator
from mobo_mpq.workflows.preparation import Prepared, prepare, resolve
from mobo_mpq.workflows.runners import run_one
from mobo_mpq.workflows.sensitivities import find_sensitivities

UNIFORM = "uniform"
"""Not a search: every pair of the task's widths, the same for all layers."""

REWARDED_BY_PTQ = ("haq",)
"""Methods that need hundreds of episodes, which only evaluations without training allow in the budget."""


ROUNDED = 1 + 1e-9
"""Costs that differ by less are the same."""

SPACES: dict[str, dict[str, Any]] = {"ne16": {"weight_bits": range(2, 9)}}
"""Target -> where its search space is not the default: NE16 takes weights bit by bit."""


class Job(NamedTuple):
    """A search to run."""

    task: str
    target: str
    method: str
    seed: int
    budget_s: float


@cache
def prepared_task(task: str, target: str, recipe: str = "qat") -> Prepared:
    """Latency of the target against quality; the float network is trained and measured once per process."""
    words = {"task": task, "target": target, "recipe": recipe, **SPACES.get(target, {})}
    return prepare(resolve(StudyConfig.parse(words)))


def run(job: Job) -> dict[str, Any]:
    """Ask, evaluate and tell until the CPU time is spent; sensitivities and the strategy's own time count.

    Returns:
        The job's fields; ``cpu_s`` that were spent; ``trials`` that were evaluated, and how many ``failed``; ``front``:
        policies, each with what the method itself measured.
    """
    torch.set_num_threads(1)
    prepared = prepared_task(job.task, job.target, "ptq" if job.method in REWARDED_BY_PTQ else "qat")
    if job.method == UNIFORM:
        policies = [(policy, None) for policy in uniform(prepared.problem)]
        return {**job._asdict(), "cpu_s": 0.0, "trials": 0, "failed": 0, "front": listed(policies)}
    spent = 0.0
    if uses_sensitivity(job.method):
        kind = own_sensitivity(job.method)
        space, recipe = prepared.problem.space, prepared.work.recipe
        found = find_sensitivities(prepared.network, space, prepared.task, lambda line: None, kind, recipe)
        prepared, spent = prepared.knowing(found), found.table.cpu_s if found else 0.0
    start = time.thread_time()
    study = Study(prepared.problem, make_strategy(job.method, prepared.problem, job.seed))
    evaluator = Evaluator(replace(prepared.work, seed=job.seed), prepared.task)
    start, spent = time.thread_time(), spent + time.thread_time() - start
    while spent + time.thread_time() - start < job.budget_s:
        asked = study.ask(1)
        if not asked:
            break
        run_one(study, evaluator, asked[0])
    name = prepared.problem.quality.name
    front = [(trial.policy, trial.values[name].value) for trial in study.pareto() if trial.policy is not None]
    return {
        **job._asdict(),
        "cpu_s": round(spent + time.thread_time() - start, 1),
        "trials": study.evaluated,
        "failed": sum(trial.state is TrialState.FAILED for trial in study.trials),
        "front": listed(front),
    }


def uniform(problem: Problem) -> list[Policy]:
    """One policy for each pair of widths, as far as pins and ties allow it."""
    space = problem.space
    return list({space.uniform(w, a): None for w in space.weight_bits for a in space.activation_bits})


def listed(front: Sequence[tuple[Policy, float | None]]) -> list[dict[str, Any]]:
    """Policies as JSON holds them."""
    return [{"policy": policy.to_dict(), "quality": quality} for policy, quality in front]


def rescore(task: str, target: str, policies: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, float]]:
    """Fine-tune policies anew, all with the same recipe, and score them on data that no search has seen.

    Args:
        task: by name.
        target: by name.
        policies: as JSON holds them.
        seed: of the fine-tunes.
    """
    torch.set_num_threads(1)
    prepared = prepared_task(task, target)
    evaluator = Evaluator(prepared.work, prepared.task)
    scores = []
    for document in policies:
        start, policy = time.thread_time(), Policy.from_dict(dict(document))
        network = evaluator.build(policy, seed=derive(seed, "rescored"))
        measured = {split: getattr(prepared.task, split) for split in ("val", "test")}
        found = {split: prepared.task.measure(network, loader).value for split, loader in measured.items()}
        scores.append({**found, "cpu_s": round(time.thread_time() - start, 2)})
    return scores


class Scored(NamedTuple):
    """A front on unseen data.

    Attributes:
        points: (cost in seconds, quality) of each policy, the cheapest first.
        share: hypervolume between the reference and a free network of float quality.
    """

    points: list[tuple[float, float]]
    share: float


def scored(task: str, target: str, policies: Sequence[Mapping[str, Any]], qualities: Sequence[float]) -> Scored:
    """What policies are worth by the qualities that they were found to have on the test split."""
    prepared = prepared_task(task, target)
    problem, quality = prepared.problem, prepared.problem.quality
    trials = []
    for number, (document, value) in enumerate(zip(policies, qualities, strict=True)):
        policy = Policy.from_dict(dict(document))
        values = {quality.name: Measurement(value), **problem.cost_values(policy)}
        trials.append(Trial(number, TrialState.COMPLETE, policy, "rescored", values))
    ideal = prepared.baseline["test"][quality.name].value
    cost = problem.costs[0].info.name
    points = [(trial.values[cost].value, trial.values[quality.name].value) for trial in trials]
    return Scored(sorted(points), hypervolume_share(problem.infos, trials, ideal))


def lead(
    points: Sequence[tuple[float, float]],
    over: Sequence[tuple[float, float]],
    worst: float,
    unmatched: Collection[float] = (),
) -> float:
    """Mean over a front's members of how much better the best of ``points`` is that costs no more.

    Args:
        points: (cost, quality), quality maximised.
        over: what is compared with; dominated members do not count, nor those that are worse than ``worst``.
        worst: the worst quality of interest, which counts where nothing is as cheap.
        unmatched: costs of members that do not count.

    Returns:
        In the quality's unit.
    """
    front = [one for one in over if not any(c <= one[0] and q >= one[1] and (c, q) != one for c, q in over)]
    members = [(cost, quality) for cost, quality in front if quality > worst and cost not in unmatched]
    best = [max([worst, *(q for c, q in points if c <= cost * ROUNDED)]) for cost, _ in members]
    return sum(found - own for found, (_, own) in zip(best, members, strict=True)) / len(members)


def unmatched(problem: Problem) -> list[float]:
    """Costs of uniform policies that are cheaper than all that differ from them in one place.

    With the lowest bits on most devices there is nothing else as cheap, so that no search can be better there.
    """
    cost, space = problem.costs[0], problem.space
    around = {policy: space.neighbour_levels(space.to_levels([policy])[0]) for policy in uniform(problem)}
    return [cost(policy) for policy, levels in around.items() if cost.of_levels(levels).min() > cost(policy) * ROUNDED]
