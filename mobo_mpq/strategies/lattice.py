"""Maximisation over policies: batches of neighbours, from several starts at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.problem import Problem

Levels = NDArray[np.intp]

STARTS = 4
MAX_ROUNDS = 4
POOL = 768
"""Neighbours that are looked at in the first round; each further one looks at half as many."""


def best_policy(
    problem: Problem,
    value: Callable[[Levels], NDArray[np.float64]],
    starts: Levels,
    taken: Levels,
    rng: np.random.Generator,
) -> Levels | None:  # d
    """The policy of greatest value that best-improvement search finds, or None when it meets only taken ones.

    Args:
        problem: legality and budgets, which are exact filters.
        value: ``n x d`` levels -> n.
        starts: ``s x d``: their neighbours are the first candidates, beside random policies.
        taken: ``t x d``: never returned.
        rng: of the random policies, and of those that are left out where neighbours are too many.
    """
    known = {row.tobytes() for row in taken}
    pool = np.concatenate([_around(problem, starts, POOL, rng), biased(problem, 64, rng)])
    levels: Levels = np.zeros((0, len(problem.space.sizes)), dtype=np.intp)
    values = np.zeros(0)
    for _ in range(1 + MAX_ROUNDS):
        pool = _new(problem, pool, known)
        if not len(pool):
            break
        known.update(row.tobytes() for row in pool)
        levels, values = np.concatenate([levels, pool]), np.concatenate([values, value(pool)])
        top = np.argsort(-values, kind="stable")[:STARTS]
        if top.max() < len(levels) - len(pool):
            break  # none of the best is new: their neighbours have been looked at
        pool = _around(problem, levels[top], POOL // 2, rng)
    return levels[int(np.argmax(values))] if len(levels) else None


def biased(problem: Problem, n: int, rng: np.random.Generator) -> Levels:  # n x d
    """Random policies, each with a mean number of bits of its own: they spread over the costs.

    Uniform ones would not: with many layers, all of them cost nearly the same.
    """
    sizes = problem.space.sizes
    share = rng.random((n, 1))
    levels = rng.binomial(sizes - 1, np.broadcast_to(share, (n, len(sizes))))
    return problem.space.repair_all(levels)


def _new(problem: Problem, pool: Levels, known: set[bytes]) -> Levels:
    """Each policy once, without those that are known or break a budget."""
    distinct = {row.tobytes(): i for i, row in reversed(list(enumerate(pool)))}
    keep = sorted(i for key, i in distinct.items() if key not in known)
    pool = pool[keep]
    affordable: Levels = pool[problem.affordable(pool)]
    return affordable


def _around(problem: Problem, starts: Levels, limit: int, rng: np.random.Generator) -> Levels:
    """Neighbours of all starts, as many of each, about ``limit`` where there are more."""
    share = -(-limit // max(len(starts), 1))
    neighbours = [problem.space.neighbour_levels(row) for row in starts]
    return np.concatenate([_thin(some, share, rng) for some in neighbours])


def _thin(pool: Levels, limit: int, rng: np.random.Generator) -> Levels:
    return pool if len(pool) <= limit else pool[np.sort(rng.permutation(len(pool))[:limit])]
