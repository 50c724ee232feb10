"""Allocation with terms for pairs of layers, exactly: each product of two choices is a choice of its own.

A pair takes one of ``options x options`` combinations, and each of its two layers takes the option that the
combination says. That is the linear form of a quadratic programme in binary variables (Adams and Sherali, Management
Science, 1986), so no convexity is needed. Its size is that of all combinations of all pairs: it is made for two dozen
layers where all pairs count, and for hundreds where each layer is in a few.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.binary_programme import Budget, Link

Ends = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PairwiseSum:
    """A sum over layers, and over pairs of them.

    Attributes:
        layers: ``layers x options``; NaN where an option is not legal.
        pairs: two different layers -> ``options of the first x options of the second``.
    """

    layers: NDArray[np.float64]
    pairs: Mapping[Ends, NDArray[np.float64]] = field(default_factory=dict)

    def __call__(self, chosen: NDArray[np.intp]) -> float:
        """The sum for one option of each layer."""
        single = self.layers[np.arange(len(self.layers)), chosen].sum()
        return float(single + sum(table[chosen[i], chosen[j]] for (i, j), table in self.pairs.items()))


def linear(
    objective: PairwiseSum, budgets: Sequence[tuple[PairwiseSum, float]], links: Sequence[Link]
) -> tuple[NDArray[np.float64], list[Budget], list[Link]]:
    """The same programme without pairs, for :mod:`mobo_mpq.allocation`.

    Rows are the layers, which come first, then the pairs; columns are the combinations ``(i, j)`` of two options. A
    layer takes combinations of an option with itself alone.

    Args:
        objective: minimised.
        budgets: sums, and the largest values allowed.
        links: between layers.
    """
    options = objective.layers.shape[1]
    sums = [objective, *(total for total, _ in budgets)]
    ends = list(dict.fromkeys(pair for total in sums for pair in total.pairs))
    legal = np.isfinite(objective.layers)
    tables = [_table(total, ends, legal) for total in sums]
    both = list(itertools.product(range(options), repeat=2))
    wide: list[Link] = [(members, [labels[i] for i, _ in both]) for members, labels in links]
    for row, pair in enumerate(ends, start=len(legal)):
        wide += [((layer, row), [combination[end] for combination in both]) for end, layer in enumerate(pair)]
    return tables[0], [(table, limit) for table, (_, limit) in zip(tables[1:], budgets, strict=True)], wide


def _table(total: PairwiseSum, ends: Sequence[Ends], legal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rows of layers, then of pairs, by combination; NaN where there is none."""
    layers, options = legal.shape
    table = np.full((layers + len(ends), options, options), np.nan)
    diagonal = np.arange(options)
    table[:layers, diagonal, diagonal] = np.where(legal, total.layers, np.nan)
    for row, (i, j) in enumerate(ends, start=layers):
        values = total.pairs.get((i, j), np.zeros((options, options)))
        table[row] = np.where(legal[i][:, None] & legal[j][None, :], values, np.nan)
    return table.reshape(len(table), -1)
