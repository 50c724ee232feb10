"""When a trial may stop early: what the first quarter of its fine-tune must show.

A trial earns nothing when another one costs no more and is as good. The best such quality is the envelope at its cost.
How much a fine-tune gains after its first quarter is learned from the trials that have gone all the way; the bar is the
early value below which the end would be above the envelope in less than :data:`CHANCE` of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from mobo_mpq.front import complete
from mobo_mpq.objective import Direction
from mobo_mpq.problem import Problem
from mobo_mpq.trial import Trial

CHANCE = 0.02
"""A trial goes on while its chance to beat the envelope is at least this."""

FEWEST = 8
"""Complete trials with an early value from which the gain is first inferred."""


def bar(problem: Problem, finished: Sequence[Trial], trial: Trial) -> float | None:
    """The early value from which a trial has a chance of :data:`CHANCE` to beat the envelope at its cost.

    Args:
        problem: quality and costs.
        finished: the trials so far.
        trial: about to run; gains are taken from trials of the same recipe alone.

    Returns:
        In the quality's own direction and unit. ``None`` where nothing can be said: fewer than :data:`FEWEST` gains, no
        complete trial that costs no more, no policy yet, or further measured objectives, in which it may excel.
    """
    quality, done = problem.quality, complete(finished)
    envelope = _envelope(problem, done, trial)
    gains = [
        quality.sign * (one.values[quality.name].value - one.early.value)
        for one in done
        if one.early is not None and one.recipe == trial.recipe
    ]
    if envelope is None or len(gains) < FEWEST or len(problem.measured) > 1:
        return None
    return quality.sign * lowest_early(envelope, gains)


def lowest_early(envelope: float, gains: Sequence[float]) -> float:
    """The early value whose final value is above ``envelope`` with probability :data:`CHANCE`.

    A normal gain of unknown mean and variance, inferred from n values with the mean g and the standard deviation s, has
    the predictive distribution ``g + s sqrt(1 + 1/n) t`` with t of Student's distribution, n - 1 degrees of freedom.

    Args:
        envelope: maximised.
        gains: of two complete trials or more, from the early to the final value, maximised.
    """
    n = len(gains)
    spread = float(np.std(gains, ddof=1)) * math.sqrt(1.0 + 1.0 / n)
    return envelope - float(np.mean(gains)) - float(stdtrit(n - 1, 1.0 - CHANCE)) * spread


def verdict(name: str, direction: Direction, early: float, bar: float | None) -> str | None:
    """Why a trial stops after its first quarter, in one sentence; ``None`` when it goes on.

    Args:
        name: of the quality.
        direction: which way it is better.
        early: its value after the first quarter.
        bar: what :func:`bar` gave.
    """
    if bar is None or not (early < bar if direction is Direction.MAXIMIZE else early > bar):
        return None
    side = "below" if direction is Direction.MAXIMIZE else "above"
    return (
        f"futile: {name} of {early:.6g} after a quarter of the fine-tune, {side} the {bar:.6g} that a chance "
        f"of {100 * CHANCE:g} % takes to end better than every policy that costs no more"
    )


def _envelope(problem: Problem, done: Sequence[Trial], trial: Trial) -> float | None:
    """The best quality, maximised, among complete trials that exceed a trial in no cost."""
    if trial.policy is None:
        return None
    price = problem.cost_values(trial.policy)
    qualities = [
        problem.quality.sign * one.values[problem.quality.name].value
        for one in done
        if all(one.values[name].value <= limit.value for name, limit in price.items())
    ]
    return max(qualities, default=None)
