"""The front of an additive loss against exact costs: the least of ``loss + sum_j lambda_j cost_j``, for many lambda.

This is what sensitivities alone can do, without any evaluation; with what has been learned since put into the tables it
proposes candidates from the whole length of the front at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.problem import Problem

Levels = NDArray[np.intp]
Floats = NDArray[np.float64]

ROUNDS = 3


class Sweep:
    """Minimises weighted sums over one problem's space, for all weights at once.

    Blocks are minimised in turn, each exactly given the others: a layer's own weight and activation bits together, and
    every decision that layers share on its own. Where no decision is shared, the first round finds the optimum.

    Args:
        problem: space and costs.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        space = problem.space
        self.blocks = _blocks(problem)
        self.tables = [cost.table for cost in problem.costs]
        self.scales = [max(float(np.nanmax(t, 1).sum() - np.nanmin(t, 1).sum()), 1e-300) for t in self.tables]
        self._touched = [_layers_of(problem, block) for block in self.blocks]
        self._sizes = space.sizes

    def __call__(self, loss: Floats, weights: Floats) -> Levels:  # (k x) d x levels, k x q -> k x d
        """Policies of least loss plus weighted costs; a weight is per range of its cost."""
        at = np.repeat((self._sizes - 1)[None], len(weights), axis=0)
        for _ in range(ROUNDS):
            before = at.copy()
            for block, layers in zip(self.blocks, self._touched, strict=True):
                at = self._minimise(at, block, layers, loss, weights)
            if (at == before).all():
                break
        return at

    def _minimise(
        self, at: Levels, block: tuple[int, ...], layers: NDArray[np.intp], loss: Floats, weights: Floats
    ) -> Levels:
        choices = np.indices(tuple(self._sizes[list(block)])).reshape(len(block), -1).T  # options x block
        moved = np.repeat(at[:, None], len(choices), axis=1)  # k x options x d
        moved[:, :, list(block)] = choices
        columns = self.problem.space.option_indices(moved, layers)  # k x options x touched
        total = loss[..., list(block), choices].sum(-1) + np.zeros((len(at), 1))
        for j, (table, scale) in enumerate(zip(self.tables, self.scales, strict=True)):
            cost = table[layers, columns].sum(-1)  # NaN where a pair is not legal
            total = total + weights[:, j, None] * cost / scale
        best = np.argmin(np.where(np.isnan(total), np.inf, total), axis=1)
        return np.asarray(moved[np.arange(len(at)), best])


def sweep_weights(problem: Problem, k: int, span: float, rng: np.random.Generator) -> Floats:  # -> k x q
    """Weights over eight decades around ``span``, the loss that a cost's whole range is worth; directions by ``rng``."""
    strength = span * np.logspace(-4.5, 4.0, k)[:, None]
    if len(problem.costs) == 1:
        return np.asarray(strength)
    return np.asarray(strength * rng.dirichlet(np.full(len(problem.costs), 0.7), size=k))


def _blocks(problem: Problem) -> list[tuple[int, ...]]:
    space = problem.space
    alone = {v.layers[0]: [] for v in space.variables if len(v.layers) == 1}  # type: ignore[var-annotated]
    shared = []
    for index, variable in enumerate(space.variables):
        if len(variable.layers) == 1:
            alone[variable.layers[0]].append(index)
        else:
            shared.append((index,))
    return [*(tuple(members) for members in alone.values()), *shared]


def _layers_of(problem: Problem, block: tuple[int, ...]) -> NDArray[np.intp]:
    space = problem.space
    names = {name for index in block for name in space.variables[index].layers}
    return np.array([i for i, name in enumerate(space.names) if name in names], dtype=np.intp)
