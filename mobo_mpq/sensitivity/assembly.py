"""From what single tensors cost to a table by layer and option, and the digests that go with it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from mobo_mpq.choices import Variable
from mobo_mpq.digests import add_values
from mobo_mpq.graph import Network, model_digest
from mobo_mpq.quant.base import Scheme, scheme_to_dict
from mobo_mpq.sensitivity.table import Provenance
from mobo_mpq.space import SearchSpace

Setting = tuple[Variable, int]
"""A variable, and the bits that it has while all others have their highest."""


def digests(
    method: tuple[str, int],
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    schemes: Iterable[Scheme],
    options: Mapping[str, Any],
) -> Provenance:
    """Of all that a table depends on.

    Args:
        method: name and version.
        network: in float.
        space: of its policies.
        batches: the samples.
        schemes: of weights and activations.
        options: whatever else changes the values; plain values.
    """
    model = hashlib.sha256(f"{model_digest(network)} {network.code}".encode())
    data = hashlib.sha256()
    add_values(data, pytree.tree_leaves(list(batches)))
    document = {
        "method": method,
        "names": space.names,
        "options": space.options,
        "decisions": [[v.role, v.choices, v.layers] for v in space.decisions],
        "schemes": [scheme_to_dict(scheme) for scheme in schemes],
        **options,
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    return Provenance(model.hexdigest(), data.hexdigest(), digest.hexdigest())


def by_layer(space: SearchSpace, losses: Mapping[Setting, float]) -> NDArray[np.float64]:  # layers x options
    """Each variable's share in each of its layers; bits that are no choice count as the next one above.

    Args:
        space: whose free variables the losses are of.
        losses: above that of the highest bits; those of the highest bits themselves may be left out.
    """
    values = np.zeros((len(space.names), len(space.options)))
    for variable in space.variables:
        known = np.array([losses.get((variable, bits), 0.0) for bits in variable.choices])
        bits = [getattr(option, variable.role) for option in space.options]
        level = np.searchsorted(variable.choices, bits).clip(max=len(variable.choices) - 1)
        rows = [space.names.index(name) for name in variable.layers]
        values[rows] += known[level] / len(variable.layers)
    return values


def above_highest(totals: Mapping[Setting, float]) -> dict[Setting, float]:
    """What each setting costs above its variable's highest bits, at least 0."""
    highest = {variable: totals[variable, variable.choices[-1]] for variable, _ in totals}
    return {key: max(value - highest[key[0]], 0.0) for key, value in totals.items()}


def all_finite(values: Iterable[float]) -> bool:
    """Whether every value is a number."""
    return all(map(math.isfinite, values))
