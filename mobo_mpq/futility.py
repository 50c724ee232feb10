"""When a trial may stop early: what the first quarter of its fine-tune must show.

A trial earns nothing when another one costs no more and is as good, or when it ends below the worst quality of
interest. The best of these is the envelope at its cost. What an early value says about the end is learned from the
trials that have gone all the way, by linear regression; the bar is the early value below which the end would be above
the envelope in less than :data:`CHANCE` of the cases.
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
"""Complete trials with an early value from which the end is first predicted."""

ROUNDING = 1e-12
"""Of the largest final value: no prediction is taken to be more exact, since sums of floats are not."""


def bar(problem: Problem, finished: Sequence[Trial], trial: Trial) -> float | None:
    """The early value from which a trial has a chance of :data:`CHANCE` to beat the envelope at its cost.

    Args:
        problem: quality and costs.
        finished: the trials so far.
        trial: about to run; the regression is over trials of the same recipe alone.

    Returns:
        In the quality's own direction and unit. ``None`` where nothing can be said: fewer than :data:`FEWEST` complete
        trials with an early value, early values that do not tell the end (:func:`lowest_early`), no policy yet, or
        further measured objectives, in which the trial may excel.
    """
    quality, done = problem.quality, complete(finished)
    pairs = [
        (quality.sign * one.early.value, quality.sign * one.values[quality.name].value)
        for one in done
        if one.early is not None and one.recipe == trial.recipe
    ]
    envelope = _envelope(problem, done, trial)
    if envelope is None or len(pairs) < FEWEST or len(problem.measured) > 1:
        return None
    early, final = zip(*pairs, strict=True)
    lowest = lowest_early(envelope, early, final)
    return None if lowest is None else quality.sign * lowest


def lowest_early(envelope: float, early: Sequence[float], final: Sequence[float]) -> float | None:
    """The early value whose final value is above ``envelope`` with probability :data:`CHANCE`.

    Of n trials let the early values have the mean x and the sum of squared deviations S, the final ones the mean f,
    the least-squares line the slope b and the residual variance s^2 = RSS / (n - 2). Where errors are normal, the final
    value at the early value x + d has the predictive distribution ``f + b d + s sqrt(1 + 1/n + d^2/S) t``, t of
    Student's distribution with n - 2 degrees of freedom. Its upper quantile is set equal to the envelope, and solved.

    Args:
        envelope: maximised.
        early: of three complete trials or more, maximised.
        final: of the same trials, maximised.

    Returns:
        ``None`` where that quantile does not rise with the early value everywhere, so that no value parts hope from
        none: where the slope is not above 0 with confidence 1 - :data:`CHANCE`, or all early values are equal.
    """
    n, x, f = len(early), np.asarray(early, dtype=np.float64), np.asarray(final, dtype=np.float64)
    deviations = x - x.mean()
    root = float(np.linalg.norm(deviations))  # sqrt(S)
    if root == 0.0:
        return None
    rise = float((deviations / root) @ (f - f.mean()))  # b sqrt(S)
    residuals = f - f.mean() - rise * deviations / root
    s = max(float(np.linalg.norm(residuals)) / math.sqrt(n - 2), ROUNDING * float(np.abs(f).max()))
    margin = float(stdtrit(n - 2, 1.0 - CHANCE)) * s
    if rise <= margin:
        return None
    # with u = d / sqrt(S): h - rise u = margin sqrt(k + u^2), a quadratic with one root left of h / rise
    h, k, a = envelope - float(f.mean()), 1.0 + 1.0 / n, (rise - margin) * (rise + margin)
    middle, half = h * rise, margin * math.sqrt(a * k + h * h)
    # both are the same root: each form where it subtracts no near-equals
    u = (h * h - margin * margin * k) / (middle + half) if h > 0 else (middle - half) / a
    return float(x.mean()) + root * u


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
        f"futile: {name} of {early:.6g} after a quarter of the fine-tune, {side} the {bar:.6g} that a chance of "
        f"{100 * CHANCE:g} % takes to end better than the worst quality of interest and every policy that costs no more"
    )


def _envelope(problem: Problem, done: Sequence[Trial], trial: Trial) -> float | None:
    """The best, maximised, of the worst quality of interest and of complete trials that exceed a trial in no cost."""
    if trial.policy is None:
        return None
    price = problem.cost_values(trial.policy)
    qualities = [
        problem.quality.sign * one.values[problem.quality.name].value
        for one in done
        if all(one.values[name].value <= limit.value for name, limit in price.items())
    ]
    return max([problem.quality.sign * problem.quality.reference, *qualities])
