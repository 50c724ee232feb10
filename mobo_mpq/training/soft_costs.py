"""Exact costs as functions that can be differentiated: of bits that are no whole numbers, and of mixtures of bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobo_mpq.choices import ROLES
from mobo_mpq.errors import InfeasibleBudget
from mobo_mpq.problem import Problem


class SoftCost:
    """One cost of a problem, as a share of what the highest bits everywhere cost.

    On whole policies it is exact, and between them multilinear. A pair that the device does not support costs what the
    least pair above it does, as which it would be run.

    Args:
        problem: its tables are used.
        name: of the cost; the first one among the objectives when empty.
        device: where the bits lie.

    Raises:
        InputError: when the problem has no such cost.
    """

    def __init__(self, problem: Problem, name: str = "", device: torch.device | None = None) -> None:
        space = problem.space
        self.cost = problem.cost(name) if name else problem.costs[0]
        self.highest = self.cost(space.highest())
        self._least = self.cost(problem.cheapest(self.cost.info.name))
        self._beside = [budget for budget in problem.budgets if budget != self.cost.info.name]
        self._decisions, self._device = space.decisions, device
        self._bits = {"weight": space.weight_bits, "activation": space.activation_bits}
        shape = (len(space.names), len(space.weight_bits), len(space.activation_bits))
        shares = _filled(self.cost.table.reshape(shape)) / self.highest
        self._table = torch.tensor(shares, dtype=torch.float32, device=device)
        self._rows = [  # for each role: the decision of every layer
            [
                next(i for i, d in enumerate(space.decisions) if d.role == role and name in d.layers)
                for name in space.names
            ]
            for role in ROLES
        ]

    @property
    def least(self) -> float:
        """Share of the cheapest legal policy."""
        return self._least / self.highest

    def check_reachable(self, share: float) -> None:
        """Refuse a budget that no policy keeps.

        Raises:
            InfeasibleBudget: naming the cheapest possible cost.
        """
        if share < self.least * (1 - 1e-9):
            raise InfeasibleBudget(self.cost.info.name, self._least, share * self.highest, self._beside)

    def interpolated(self, bits: Tensor) -> Tensor:
        """Share of the cost at any bits.

        Args:
            bits: ``decisions``, in the order of ``space.decisions``; what lies outside of those that occur counts as
                the nearest one.

        Returns:
            A scalar, differentiable in ``bits``.
        """
        return self._total([self._hats(bits[rows], role) for rows, role in zip(self._rows, ROLES, strict=True)])

    def expected(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Expected share of the cost when every decision is drawn independently of the others.

        Args:
            probabilities: of its choices, for each of ``space.decisions``.

        Returns:
            A scalar, differentiable in all of them.
        """
        placed = []
        for decision, p in zip(self._decisions, probabilities, strict=True):
            grid = self._bits[decision.role]
            columns = torch.tensor([grid.index(bits) for bits in decision.choices], device=p.device)
            placed.append(p.new_zeros(len(grid)).index_put((columns,), p))
        return self._total([torch.stack([placed[row] for row in rows]) for rows in self._rows])

    def _hats(self, bits: Tensor, role: str) -> Tensor:  # layers -> layers x bits that occur
        """Weights of linear interpolation between the neighbours on the grid."""
        grid = torch.tensor(self._bits[role], dtype=bits.dtype, device=bits.device)
        if len(grid) == 1:
            return bits.new_ones(len(bits), 1)
        inside = bits.clamp(float(grid[0]), float(grid[-1]))
        upper = torch.searchsorted(grid, inside.detach()).clamp(1, len(grid) - 1)
        share = (inside - grid[upper - 1]) / (grid[upper] - grid[upper - 1])
        hats = bits.new_zeros(len(bits), len(grid))
        return hats.scatter(1, upper[:, None], share[:, None]).scatter(1, upper[:, None] - 1, 1 - share[:, None])

    def _total(self, weights: Sequence[Tensor]) -> Tensor:
        table = self._table.to(weights[0].dtype)
        return torch.einsum("lw,la,lwa->", weights[0], weights[1], table)


def _filled(table: NDArray[np.float64]) -> NDArray[np.float64]:  # layers x weight bits x activation bits
    """Costs of all pairs: an unsupported one costs the least of what is above it, or the most there is."""
    filled = table.copy()
    for layer, w, a in np.argwhere(np.isnan(table)):
        above = table[layer, w:, a:]
        filled[layer, w, a] = np.nanmax(table[layer]) if np.isnan(above).all() else np.nanmin(above)
    return filled
