"""The front of an additive loss against exact costs: the least of ``loss + sum_j lambda_j cost_j``, for many lambda.

This is what sensitivities alone can do, without any evaluation; with what has been learned since put into the tables it
proposes candidates from the whole length of the front at once.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse.csgraph import connected_components

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.problem import Problem

ROUNDS = 3
"""Over blocks that depend on each other."""

LARGEST_BLOCK = 256
"""Combinations of decisions that are minimised together."""


class Sweep:
    """Minimises weighted sums over one problem's space, for all weights at once.

    Decisions fall into blocks, each minimised exactly. Those that meet in some layer make one block, such as a layer's
    own weight and activation bits. Where ties make that too large, every layer's own decisions and every shared one
    are blocks, minimised in turn, each given the rest, until nothing changes: that may end beside the optimum.

    Args:
        problem: space and costs.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._sizes = problem.space.sizes
        tables = [cost.table for cost in problem.costs]
        spans = (float((np.nanmax(table, axis=1) - np.nanmin(table, axis=1)).sum()) for table in tables)
        self._tables = [table / max(span, np.finfo(np.float64).tiny) for table, span in zip(tables, spans, strict=True)]
        blocks = _blocks(problem)
        touched = [_layers_of(problem, block) for block in blocks]
        counts = np.bincount(np.concatenate([*touched, np.zeros(0, np.intp)]), minlength=len(problem.space.names))
        alone = [bool((counts[layers] == 1).all()) for layers in touched]
        self._open = [(b, t) for b, t, closed in zip(blocks, touched, alone, strict=True) if not closed]
        closed = [(b, t) for b, t, single in zip(blocks, touched, alone, strict=True) if single]
        self._closed = [block for block, _ in closed]
        self._choices = [self._choices_of(block) for block in self._closed]
        highest = (self._sizes - 1)[None, None]
        self._costs = [self._costs_of(np.array(highest), b, t)[0] for b, t in closed]  # q x options each

    def __call__(self, loss: Floats, weights: Floats) -> Levels:  # (k x) d x levels, k x q -> k x d
        """Policies of least loss plus weighted costs; a weight is per range of its cost."""
        at = np.repeat((self._sizes - 1)[None], len(weights), axis=0)
        for block, choices, costs in zip(self._closed, self._choices, self._costs, strict=True):
            at[:, block] = choices[self._least(loss, weights, block, choices, costs)]
        for _ in range(ROUNDS):
            before = at.copy()
            for block, layers in self._open:
                costs = self._costs_of(at[:, None], block, layers)
                choices = self._choices_of(block)
                at[:, block] = choices[self._least(loss, weights, block, choices, costs)]
            if (at == before).all():
                break
        return at

    def _choices_of(self, block: list[int]) -> Levels:  # options x block
        return np.indices(tuple(self._sizes[block])).reshape(len(block), -1).T

    def _costs_of(self, at: Levels, block: list[int], layers: Levels) -> Floats:  # k x 1 x d -> k x q x options
        """What each choice of a block costs in the layers that it touches; infinite where a pair is not legal."""
        choices = self._choices_of(block)
        moved = np.repeat(at, len(choices), axis=1)
        moved[:, :, block] = choices
        columns = self.problem.space.option_indices(moved, layers)  # k x options x touched
        costs = np.stack([table[layers, columns].sum(-1) for table in self._tables], axis=1)
        return np.where(np.isnan(costs), np.inf, costs)

    @staticmethod
    def _least(loss: Floats, weights: Floats, block: list[int], choices: Levels, costs: Floats) -> Levels:  # -> k
        total = loss[..., block, choices].sum(-1)  # (k x) options
        return np.asarray(np.argmin(total + (weights[:, :, None] * costs).sum(1), axis=1))


def sweep_weights(problem: Problem, k: int, span: float, rng: np.random.Generator) -> Floats:  # -> k x q
    """Weights over eight decades around ``span``, the loss that a cost's range is worth; directions by ``rng``."""
    strength = span * np.logspace(-4.5, 4.0, k)[:, None]
    if len(problem.costs) == 1:
        return np.asarray(strength)
    return np.asarray(strength * rng.dirichlet(np.full(len(problem.costs), 0.7), size=k))


def _blocks(problem: Problem) -> list[list[int]]:
    space = problem.space
    if not space.variables:
        return []
    touches = np.array([[name in variable.layers for name in space.names] for variable in space.variables])
    count, component = connected_components(touches @ touches.T)
    blocks = []
    for index in range(count):
        block = np.flatnonzero(component == index).tolist()
        blocks += [block] if math.prod(space.sizes[block].tolist()) <= LARGEST_BLOCK else _split(problem, block)
    return blocks


def _split(problem: Problem, block: list[int]) -> list[list[int]]:
    """The decisions that layers have for themselves, by layer, and every shared one on its own."""
    own: dict[str, list[int]] = {}
    shared = []
    for index in block:
        layers = problem.space.variables[index].layers
        if len(layers) == 1:
            own.setdefault(layers[0], []).append(index)
        else:
            shared.append([index])
    return [*own.values(), *shared]


def _layers_of(problem: Problem, block: list[int]) -> Levels:
    space = problem.space
    names = {name for index in block for name in space.variables[index].layers}
    return np.array([i for i, name in enumerate(space.names) if name in names], dtype=np.intp)
