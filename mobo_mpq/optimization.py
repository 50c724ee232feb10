"""Search any black box, serially: no Ray, no network, no disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mobo_mpq.errors import InputError
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.study import Study

Evaluate = Callable[[Policy], float | tuple[float, float]]


def optimize(
    problem: Problem,
    evaluate: Evaluate,
    *,
    strategy: str = "mobo",
    trials: int = 64,
    batch: int = 1,
    seed: int = 0,
) -> Study:
    """Spend exactly ``trials`` evaluations, fewer only when the space is used up.

    Args:
        problem: what is searched.
        evaluate: policy -> quality, or (quality, standard error). A value that is not finite is a failed trial.
        strategy: name of a registered strategy.
        trials: evaluations in all.
        batch: proposals that are made before the first of them is evaluated.
        seed: of everything random in the search.

    Returns:
        The study: its trials, its Pareto set, its hypervolume.

    Raises:
        InputError: ``trials`` or ``batch`` below 1, an unknown strategy, or an ``evaluate`` that returns no number.
    """
    for name, number in (("trials", trials), ("batch", batch)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{name} is {number}; expected a whole number of at least 1")
    study = Study(problem, make_strategy(strategy, problem, seed=seed))
    with one_thread():
        while study.evaluated < trials:
            running = study.ask(min(batch, trials - study.evaluated))
            if not running:
                break
            for trial in running:
                assert trial.policy is not None, "optimize has no recipe that could find a policy"
                start = time.perf_counter()
                measured = _measurement(evaluate(trial.policy))
                study.tell(trial.number, {problem.quality.name: measured}, seconds=time.perf_counter() - start)
    return study


def _measurement(result: float | tuple[float, float]) -> Measurement:
    try:
        if isinstance(result, tuple):
            value, stderr = result
            if not 0 <= float(stderr) < math.inf:
                raise ValueError
            return Measurement(float(value), float(stderr))
        return Measurement(float(result))
    except (TypeError, ValueError):
        raise InputError(
            f"evaluate returned {result!r}; expected the quality as a number, or (quality, standard error of 0 or more)"
        ) from None


@contextmanager
def one_thread() -> Iterator[None]:
    """Small matrices: more threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
