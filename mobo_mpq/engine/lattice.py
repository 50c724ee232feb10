"""Maximisation over policies: batches of neighbours, from several starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import rng as stream

STARTS = 4
MAX_ROUNDS = 2
PAIRED = 192
"""Random moves of two variables at once, one up and one down, around each start."""
CLOSE = 0.12
"""Share of the candidates that survive the screening."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Policies, each near one of a few base policies, from which what is known of them follows cheaply.

    Attributes:
        levels: ``c x d``.
        base: ``b x d``.
        of: c, index of each candidate's base.
    """

    levels: Levels
    base: Levels
    of: Levels

    @classmethod
    def join(cls, parts: list[Candidates]) -> Candidates:
        """All of them together."""
        offsets = np.cumsum([0, *(len(part.base) for part in parts[:-1])])
        return cls(
            np.concatenate([part.levels for part in parts]),
            np.concatenate([part.base for part in parts]),
            np.concatenate([part.of + offset for part, offset in zip(parts, offsets, strict=True)]),
        )

    @classmethod
    def alone(cls, levels: Levels) -> Candidates:  # c x d
        """Policies that are near nothing but themselves."""
        return cls(levels, levels, np.arange(len(levels)))

    def __getitem__(self, keep: NDArray[np.intp] | NDArray[np.bool_]) -> Candidates:
        return Candidates(self.levels[keep], self.base, self.of[keep])

    def __len__(self) -> int:
        return len(self.levels)


class Objective(Protocol):
    """What is maximised, and a cheap stand-in that decides what is looked at closely."""

    def screen(self, candidates: Candidates) -> Floats:
        """A stand-in for the value."""
        ...

    def value(self, chosen: NDArray[np.intp]) -> Floats:
        """Values of some of the candidates that were screened last."""
        ...


class Known:
    """A set of policies, as 64-bit hashes."""

    def __init__(self, levels: Levels) -> None:
        self._factors = stream(0, "hash").integers(2**62, size=levels.shape[1], dtype=np.uint64) * 2 + 1
        self._hashes = self._hash(levels)

    def _hash(self, levels: Levels) -> NDArray[np.uint64]:
        return np.asarray(((levels.astype(np.uint64) + 1) * self._factors).sum(-1))

    def add_new(self, levels: Levels) -> NDArray[np.intp]:
        """Indices of the policies that were not in the set, each once; now they are."""
        hashes, first = np.unique(self._hash(levels), return_index=True)
        new = ~np.isin(hashes, self._hashes)
        self._hashes = np.concatenate([self._hashes, hashes[new]])
        return np.sort(first[new])


def best_policy(
    problem: Problem, objective: Objective, pool: Candidates, taken: Levels, rng: np.random.Generator
) -> tuple[Levels, float] | None:  # d, its value
    """The policy of greatest value that best-improvement search finds, or None when it meets only taken ones.

    Args:
        problem: legality and budgets, which are exact filters.
        objective: what is maximised.
        pool: the first candidates; the best of them are where the search starts.
        taken: ``t x d``: never returned.
        rng: of the random moves.
    """
    known = Known(taken)
    levels: Levels = np.zeros((0, len(problem.space.sizes)), dtype=np.intp)
    values = np.zeros(0)
    for _ in range(1 + MAX_ROUNDS):
        pool = pool[known.add_new(pool.levels)]
        pool = pool[problem.affordable(pool.levels)]
        if not len(pool):
            break
        close = _best(objective.screen(pool), max(int(CLOSE * len(pool)), 4 * STARTS))
        found = len(levels)
        levels = np.concatenate([levels, pool.levels[close]])
        values = np.concatenate([values, objective.value(close)])
        top = _best(values, STARTS)
        if top.max() < found:
            break  # none of the best is new: their neighbours have been looked at
        pool = around(problem, levels[top[top >= found]], rng)
    if not len(levels):
        return None
    best = int(np.argmax(values))
    return levels[best], float(values[best])


def around(problem: Problem, base: Levels, rng: np.random.Generator) -> Candidates:  # b x d
    """All legal moves of one variable, and random ones of two: one a level up, another a level down."""
    space = problem.space
    moved, of = [], []
    for index, levels in enumerate(base):
        near = space.neighbour_levels(levels)
        if len(levels) > 1:
            near = np.concatenate([near, _paired(problem, levels, rng)])
        moved.append(near)
        of.append(np.full(len(near), index))
    return Candidates(np.concatenate(moved), base, np.concatenate(of))


def _paired(problem: Problem, levels: Levels, rng: np.random.Generator) -> Levels:
    up, down = rng.integers(0, len(levels), size=(2, PAIRED))
    inside = (up != down) & (levels[up] + 1 < problem.space.sizes[up]) & (levels[down] > 0)
    up, down = up[inside], down[inside]
    moved = np.repeat(levels[None], len(up), axis=0)
    moved[np.arange(len(up)), up] += 1
    moved[np.arange(len(up)), down] -= 1
    return moved[problem.space.is_legal(moved)]


def biased(problem: Problem, n: int, rng: np.random.Generator) -> Levels:  # n x d
    """Random policies, each with a mean number of bits of its own: they spread over the costs.

    Uniform ones would not: with many layers, all of them cost nearly the same.
    """
    sizes = problem.space.sizes
    share = rng.random((n, 1))
    levels = rng.binomial(sizes - 1, np.broadcast_to(share, (n, len(sizes))))
    return problem.space.repair_all(levels)


def _best(values: Floats, n: int) -> NDArray[np.intp]:
    """Indices of the n greatest values, the first of equal ones."""
    return np.argsort(-values, kind="stable")[:n]
