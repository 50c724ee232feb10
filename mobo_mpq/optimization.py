"""Search any black box, serially: no Ray, no network, no disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from mobo_mpq.errors import InputError
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.registry import learns, make_strategy
from mobo_mpq.study import Study

Result = float | tuple[float, float] | Measurement
"""Of one objective: a value, (value, standard error), or both and the divergence."""

Evaluate = Callable[[Policy], Result | Mapping[str, Result]]


def optimize(
    problem: Problem,
    evaluate: Evaluate,
    *,
    strategy: str = "mobo",
    trials: int = 64,
    batch: int = 1,
    seed: int = 0,
    strategy_options: Mapping[str, float | str] | None = None,
) -> Study:
    """Spend exactly ``trials`` evaluations, fewer only when the space is used up.

    Args:
        problem: what is searched.
        evaluate: policy -> the quality, as a number, as (number, standard error) or as a
            :class:`~mobo_mpq.objective.Measurement`. Where several objectives are measured, a mapping from the name of
            each to one of these. A value that is not finite is a failed trial.
        strategy: name of a registered strategy.
        trials: evaluations in all.
        batch: proposals that are made before the first of them is evaluated.
        seed: of everything random in the search.
        strategy_options: what else the strategy takes.

    Returns:
        The study: its trials, its Pareto set, its hypervolume.

    Raises:
        InputError: ``trials`` or ``batch`` below 1, an unknown strategy or option, one that finds policies by training,
            or an ``evaluate`` that returns no number, or other names than those of the measured objectives.
    """
    for name, number in (("trials", trials), ("batch", batch)):
        if not isinstance(number, int) or number < 1:
            raise InputError(f"{name} is {number}; expected a whole number of at least 1")
    if learns(strategy):
        raise InputError(
            f"strategy '{strategy}' finds policies by training a network, which optimize has not; use mobo_mpq.search"
        )
    study = Study(problem, make_strategy(strategy, problem, seed, strategy_options))
    with one_thread():
        while study.evaluated < trials:
            running = study.ask(min(batch, trials - study.evaluated))
            if not running:
                break
            for trial in running:
                assert trial.policy is not None, "strategies that learn were refused"
                start = time.perf_counter()
                measured = _measurements(problem, evaluate(trial.policy))
                study.tell(trial.number, measured, seconds=time.perf_counter() - start)
    return study


def _measurements(problem: Problem, result: Result | Mapping[str, Result]) -> dict[str, Measurement]:
    names = [info.name for info in problem.measured]
    if isinstance(result, Mapping):
        if set(result) != set(names):
            raise InputError(
                f"evaluate returned values of {', '.join(map(str, result)) or 'nothing'}; expected {', '.join(names)}"
            )
        return {name: _measurement(name, result[name]) for name in names}
    if len(names) > 1:
        raise InputError(
            f"evaluate returned {result!r}; the problem measures {', '.join(names)}: return a mapping from each of "
            f"these names to its value"
        )
    return {names[0]: _measurement(names[0], result)}


def _measurement(name: str, result: Result) -> Measurement:
    try:
        if isinstance(result, Measurement):
            found = replace(result, value=float(result.value))
        elif isinstance(result, tuple):
            value, stderr = result
            found = Measurement(float(value), float(stderr))
        else:
            found = Measurement(float(result))
        if not all(extra is None or 0 <= extra < math.inf for extra in (found.stderr, found.divergence)):
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(
            f"evaluate returned {result!r}; expected the {name} as a number, (number, standard error of 0 or more) or "
            f"a Measurement"
        ) from None
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Small matrices: more threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
