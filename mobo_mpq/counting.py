"""How many legal policies a space holds, exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.choices import Pairs, Variable, merge

Owners = Mapping[str, NDArray[np.intp]]
"""Role -> index of each layer's decision."""


def count(names: Sequence[str], pairs: Sequence[Pairs], decisions: Sequence[Variable], owners: Owners) -> int:
    """Number of legal policies: the product over groups of layers that share no decision."""
    return math.prod(_count(group, pairs, decisions, owners) for group in _components(names, owners))


def _components(names: Sequence[str], owners: Owners) -> list[list[int]]:
    """Layers, grouped such that no decision spans two groups."""
    keys = merge(
        [f"w{decision}" for decision in owners["weight"]],
        names,
        [
            tuple(names[i] for i in np.flatnonzero(owners["activation"] == decision).tolist())
            for decision in dict.fromkeys(owners["activation"].tolist())
        ],
    )
    return [[i for i, key in enumerate(keys) if key == one] for one in dict.fromkeys(keys)]


def _count(group: Sequence[int], pairs: Sequence[Pairs], decisions: Sequence[Variable], owners: Owners) -> int:
    """With the activations fixed, the weights are independent of one another."""
    activations = sorted({int(owners["activation"][i]) for i in group})
    weights = sorted({int(owners["weight"][i]) for i in group})
    total = 0
    for bits in itertools.product(*(decisions[a].choices for a in activations)):
        chosen = dict(zip(activations, bits, strict=True))
        total += math.prod(
            sum(
                all(
                    (choice, chosen[int(owners["activation"][i])]) in pairs[i]
                    for i in group
                    if owners["weight"][i] == w
                )
                for choice in decisions[w].choices
            )
            for w in weights
        )
    return total
