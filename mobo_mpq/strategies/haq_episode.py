"""HAQ's episodes: what the agent sees of each layer, what its actions mean, and the way back to the budget."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.choices import Variable
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace

_SPATIAL = (OpKind.CONV, OpKind.DEPTHWISE)


def layer_features(layer: LayerSpec, index: int) -> tuple[float, ...]:
    """Depthwise or not, input and output channels, stride, kernel, weights, input positions, index."""
    if layer.kind in _SPATIAL:
        channels, positions, stride = layer.input_shape[0], layer.input_shape[1:], layer.stride
        kernel = layer.weight_shape[2] if len(layer.weight_shape) > 2 else 1
    else:
        channels, positions, stride, kernel = layer.input_shape[-1], layer.input_shape[:-1], 0, 1
    outputs = layer.weight_shape[0] if layer.weight_shape else layer.output_shape[-1]
    depthwise = layer.kind is OpKind.DEPTHWISE
    numbers = (depthwise, channels, outputs, stride, kernel, layer.num_weights, math.prod(positions), index)
    return tuple(map(float, numbers))


class Episode:
    """The steps of an episode: one for each free decision, in the order of the layers, weights before activations.

    A tied decision is made at the first layer that has it; a pinned one is not made at all.

    Args:
        problem: with layers, whose shapes may be unknown.
    """

    def __init__(self, problem: Problem) -> None:
        self.space = problem.space
        self.variables = self.space.variables
        table = np.array([layer_features(layer, i) for i, layer in enumerate(problem.layers)])
        spread = np.ptp(table, axis=0)
        table = (table - table.min(axis=0)) / np.where(spread > 0.0, spread, 1.0)
        rows = [self.space.names.index(variable.layers[0]) for variable in self.variables]
        flags = np.array([[float(variable.role == "weight")] for variable in self.variables]).reshape(-1, 1)
        self._fixed = np.hstack([table[rows], flags])  # d x 9
        width = max((len(variable.choices) for variable in self.variables), default=1)
        self._bits = np.zeros((len(self.variables), width))
        for row, variable in enumerate(self.variables):
            self._bits[row, : len(variable.choices)] = variable.choices
        self._bits /= self._bits.max(initial=1.0)

    @property
    def steps(self) -> int:
        """Number of decisions: d."""
        return len(self.variables)

    def state(self, step: int, before: Levels, goal: Floats) -> Floats:  # n, g -> n x (10 + g)
        """What the agent sees.

        Args:
            step: 0 to d - 1.
            before: levels that were chosen in the step before; of no meaning in the first.
            goal: further columns, the same for the whole episode.
        """
        bits = self._bits[step - 1, before] if step else np.ones(len(before))
        same = np.concatenate([self._fixed[step], goal])
        return np.column_stack([bits, np.broadcast_to(same, (len(before), len(same)))])

    def states(self, levels: Levels, goal: Floats) -> Floats:  # d, g -> d x (10 + g)
        """All states of an episode in which these levels were chosen."""
        return np.concatenate([self.state(t, levels[max(t - 1, 0)][None], goal) for t in range(self.steps)])

    def to_level(self, step: int, action: Floats) -> Levels:  # n -> n
        """The choices of the step's decision as bins of equal width over [0, 1].

        For whole numbers without a gap this is HAQ's ``round(lowest - 1/2 + action * (highest - lowest + 1))``.
        """
        size = self.space.sizes[step]
        return np.minimum((action * size).astype(np.intp), size - 1)

    def to_levels(self, actions: Floats) -> Levels:  # d -> d
        """:meth:`to_level` for every step."""
        return np.minimum((actions * self.space.sizes).astype(np.intp), self.space.sizes - 1)

    def to_actions(self, levels: Levels) -> Floats:  # d -> d
        """The middle of each level's bin."""
        return np.asarray((levels + 0.5) / self.space.sizes)


def back_off(space: SearchSpace, levels: Levels, within: Callable[[Levels], NDArray[np.bool_]]) -> Levels | None:
    """Lower bits until the budget holds: passes from the last layer to the first, activations before weights.

    Every visit takes one level off a decision that has one to give, and the first policy that is within the budget is
    the answer. Where the pair that is left is not supported, the other bits of the layer are lowered too.

    Args:
        space: of the levels.
        levels: legal ones, d of them.
        within: levels, n x d -> which of them keep the budget.

    Returns:
        Levels within the budget; None where even the lowest are not.
    """
    if within(levels[None])[0]:
        return levels
    order = _order(space)
    at = levels
    while path := _pass(space, at, order):
        kept = within(np.stack(path))
        if kept.any():
            return path[int(np.argmax(kept))]
        at = path[-1]
    return None


def _pass(space: SearchSpace, at: Levels, order: list[int]) -> list[Levels]:
    """The policies of one pass, in turn."""
    path: list[Levels] = []
    for variable in order:
        lower = at.copy()
        lower[variable] -= 1
        if lower[variable] < 0:
            continue
        if not space.is_legal(lower[None])[0]:
            lower = space.repair(lower, up=False)
        if (lower <= at).all() and (lower < at).any():
            at = lower
            path.append(at)
    return path


def _order(space: SearchSpace) -> list[int]:
    def visit(indexed: tuple[int, Variable]) -> tuple[int, bool]:
        return -space.names.index(indexed[1].layers[0]), indexed[1].role == "weight"

    return [index for index, _ in sorted(enumerate(space.variables), key=visit)]
