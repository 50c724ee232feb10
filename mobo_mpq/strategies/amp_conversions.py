"""AMP's phase 3: fewer conversions between activations of different widths, for some of the cost that was saved.

Pandey et al., "A Practical Mixed Precision Algorithm for Post-Training Quantization", arXiv 2302.05397; the programme
is that of the public code in AIMET. ``docs/methods/amp.md`` says what is done differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.allocation import least_pairwise
from mobo_mpq.arrays import Levels
from mobo_mpq.layers import LayerSpec, readers
from mobo_mpq.pairwise import Ends, PairwiseSum
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.amp_curve import groups

SHARES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
"""Of the conversions of phase 2 that are allowed."""

PRICES = ("count", "elements")
"""What a conversion costs: 1, or the elements of the tensor that is converted."""


def conversions(problem: Problem, levels: Levels, price: str = "count") -> float:
    """What a policy's conversions cost: of each layer's output, where its reader has other activation bits.

    Args:
        problem: its layers say who reads whose output.
        levels: ``d``, of the policy.
        price: one of :data:`PRICES`.
    """
    bits = _activation_bits(problem, levels)
    return sum(cost for (layer, reader), cost in _edges(problem, price).items() if bits[layer] != bits[reader])


@dataclass(frozen=True, eq=False)
class Phase3:
    """The programme of one point: each group of quantizers stays as it is, or goes back to the highest bits.

    Attributes:
        problem: its first cost is minimised, within its budgets.
        levels: ``d``, of a point of phase 2, within the budgets.
        price: of a conversion, one of :data:`PRICES`.
    """

    problem: Problem
    levels: Levels
    price: str = "count"

    def solve(self, share: float) -> Levels:
        """The policy of least cost whose conversions cost no more than a share of what can be saved of them.

        Args:
            share: 1 allows all the conversions of the point, 0 as few as there can be.
        """
        if not self._groups:
            return self.levels
        most = self._converted(np.zeros(len(self._groups), dtype=np.intp))
        limit = self._least + share * (most - self._least)
        chosen = least_pairwise(self._cost, [(self._converted, limit), *self._budgets])
        assert chosen is not None, "what converts least is within the budgets"
        better = self._cost(chosen) < self._cost(np.zeros_like(chosen))
        return self.levels if share >= 1.0 and not better else self._levels_of(chosen)

    @cached_property
    def _least(self) -> float:
        chosen = least_pairwise(self._converted_or_illegal, self._budgets)
        assert chosen is not None, "the point itself is within the budgets"
        return self._converted(chosen)

    @cached_property
    def _groups(self) -> list[tuple[NDArray[np.intp], list[int]]]:
        """Layers and variables of each group."""
        return [(np.array(group.layers), list(group.variables)) for group in groups(self.problem)]

    @cached_property
    def _choices(self) -> tuple[Levels, Levels]:
        """Levels of all variables where every group stays, and where every group is raised."""
        return self.levels, np.array(self.problem.space.sizes - 1, dtype=np.intp)

    def _levels_of(self, chosen: NDArray[np.intp]) -> Levels:
        levels = self.levels.copy()
        for (_, variables), choice in zip(self._groups, chosen, strict=True):
            levels[variables] = self._choices[choice][variables]
        return levels

    def _summed(self, table: NDArray[np.float64]) -> PairwiseSum:
        """What groups cost by a table of ``layers x options``; raising what is at its highest already is no choice."""
        options = [self.problem.space.option_indices(levels) for levels in self._choices]
        values = np.array([[table[rows, of[rows]].sum() for of in options] for rows, _ in self._groups])
        values = values.reshape(len(self._groups), 2)
        same = [all(self._choices[0][own] == self._choices[1][own]) for _, own in self._groups]
        values[np.array(same, dtype=np.bool_), 1] = np.nan
        return PairwiseSum(values)

    @cached_property
    def _cost(self) -> PairwiseSum:
        return self._summed(self.problem.costs[0].table)

    @cached_property
    def _budgets(self) -> list[tuple[PairwiseSum, float]]:
        """The problem's; pinned layers are in no group, so what they cost is taken off."""
        rest = np.setdiff1d(np.arange(len(self.problem.layers)), [row for rows, _ in self._groups for row in rows])
        options = self.problem.space.option_indices(self.levels)[rest]
        tables = {name: self.problem.cost(name).table for name in self.problem.budgets}
        return [
            (self._summed(table), self.problem.budgets[name] - float(table[rest, options].sum()))
            for name, table in tables.items()
        ]

    @cached_property
    def _converted(self) -> PairwiseSum:
        """What conversions cost, but those between layers that no choice reaches."""
        group_of = {int(row): group for group, (rows, _) in enumerate(self._groups) for row in rows}
        bits = [_activation_bits(self.problem, levels) for levels in self._choices]
        single, pairs = np.zeros((len(self._groups), 2)), dict[Ends, NDArray[np.float64]]()
        for (layer, reader), cost in _edges(self.problem, self.price).items():
            ends = group_of.get(layer), group_of.get(reader)
            table = np.array([[cost * (one[layer] != other[reader]) for other in bits] for one in bits])
            if ends[0] is None or ends[1] is None or ends[0] == ends[1]:
                for group in {end for end in ends if end is not None}:
                    single[group] += np.diagonal(table)
            else:
                pair = (min(ends[0], ends[1]), max(ends[0], ends[1]))
                pairs[pair] = pairs.get(pair, np.zeros((2, 2))) + (table if ends == pair else table.T)
        return PairwiseSum(single, pairs)

    @cached_property
    def _converted_or_illegal(self) -> PairwiseSum:
        return PairwiseSum(np.where(np.isnan(self._cost.layers), np.nan, self._converted.layers), self._converted.pairs)


def _activation_bits(problem: Problem, levels: Levels) -> list[int]:
    """Of each layer's input."""
    return [problem.space.options[option].activation for option in problem.space.option_indices(levels)]


def _edges(problem: Problem, price: str) -> Mapping[Ends, float]:
    """What a conversion between a layer and the one that reads its output costs, by their indices."""
    index = {name: i for i, name in enumerate(problem.space.names)}
    found = zip(problem.layers, readers(problem.layers), strict=True)
    return {(index[layer.name], index[reader]): _price(layer, price) for layer, reader in found if reader in index}


def _price(layer: LayerSpec, price: str) -> float:
    return 1.0 if price == PRICES[0] else float(math.prod(layer.output_shape))
