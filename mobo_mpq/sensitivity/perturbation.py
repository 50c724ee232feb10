"""Perturb one tensor at a time: how far the outputs move when its bits alone are lowered.

The float network is quantized and calibrated once; statistics are kept, so that every width of every tensor is fitted
from the same pass, and what a change cannot reach is not computed again.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from mobo_mpq.digests import add_values
from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network, model_digest
from mobo_mpq.quant.base import Role, Scheme, scheme_to_dict
from mobo_mpq.quant.transform import ACTIVATION, WEIGHT
from mobo_mpq.sensitivity.bench import Bench, Setting
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import Inputs, accepted_by, device_of, split_batch, to_device
from mobo_mpq.training.divergence import Divergence

METHOD = "perturbation"
VERSION = 1
"""Raised whenever the same inputs give other values, so that tables that were kept are measured again."""

SAMPLES = 128
"""Samples on which outputs are compared; docs/methods/sensitivities.md shows what more of them would change."""

PREDICTIONS, FEWEST_SAMPLES = 1024, 16
"""Where every sample holds several predictions, such as those of a text, so many are enough."""


def provenance(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    weight: Scheme = WEIGHT,
    activation: Scheme = ACTIVATION,
    samples: int | None = None,
) -> Provenance:
    """Digests of what :func:`perturb` would measure, without measuring; arguments as there."""
    batches = list(batches)
    model = hashlib.sha256(f"{model_digest(network)} {network.code}".encode())
    data = hashlib.sha256()
    add_values(data, pytree.tree_leaves(batches))
    options = {
        "method": [METHOD, VERSION],
        "names": space.names,
        "options": space.options,
        "decisions": [[v.role, v.choices, v.layers] for v in space.decisions],
        "schemes": [scheme_to_dict(weight), scheme_to_dict(activation)],
        "samples": _enough(batches) if samples is None else samples,
    }
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    return Provenance(model.hexdigest(), data.hexdigest(), digest.hexdigest())


def perturb(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    weight: Scheme = WEIGHT,
    activation: Scheme = ACTIVATION,
    samples: int | None = None,
) -> SensitivityTable:
    """Measure how far the outputs move when each variable of a space, alone, takes each of its choices.

    For a classifier the distance is the mean Kullback-Leibler divergence from the float network in nats, else a
    relative squared error (:class:`~mobo_mpq.training.divergence.Divergence`); a sensitivity is what it grows by over
    the network of the highest bits, at least 0. A variable's sensitivity is split evenly among its layers, and a
    layer's entry is the sum of its weight's share and its input's; so a policy's sum counts every variable once. Bits
    that a layer cannot take have the value of its next higher choice. A divergence that is not finite counts as the
    largest finite one. The ranges of activations are those of the network of the highest bits throughout.

    Args:
        network: in float; left as it is.
        space: of its policies; one pass over the samples for each variable and each choice but the highest.
        batches: as loaders yield them, ``(inputs, target)`` or mappings: targets tell where the classes lie. All of
            them calibrate.
        weight: scheme of the weights.
        activation: scheme of the activations.
        samples: the first of them, on which outputs are compared; when absent 128, or as many as hold 1024 predictions,
            at least 16.

    Raises:
        InputError: when there is no batch, no sample, or no output that is finite.
        PolicyError: when the space is of another network.
    """
    start = time.process_time()
    batches = list(batches)
    samples = _enough(batches) if samples is None else samples
    if not batches or samples < 1:
        raise InputError(f"perturb() got {len(batches)} batches and samples={samples}; expected at least 1 of each")
    digests = provenance(network, space, batches, weight=weight, activation=activation, samples=samples)
    with torch.no_grad():
        compared = _first(batches, samples)
        divergence = Divergence(network, compared)
        bench = Bench(network, space, {Role.WEIGHT: weight, Role.ACTIVATION: activation})
        bench.calibrate(_inputs(network, batches))
        measured = bench.measure(divergence, _inputs(network, compared))
    return SensitivityTable(
        values=_table(space, _growth(measured)),
        method=METHOD,
        unit="relative squared error" if divergence.axis is None else "nat",
        provenance=digests,
        evaluations=len(measured) + 2,  # the float network, and the calibration
        cpu_s=time.process_time() - start,
    )


def _enough(batches: Sequence[Any]) -> int:
    """Samples to compare, by the number of predictions that the target of one holds."""
    target = split_batch(batches[0])[1] if batches else None
    if not isinstance(target, Tensor) or target.is_floating_point() or target.ndim < 2 or not target.numel():
        return SAMPLES
    return min(SAMPLES, max(FEWEST_SAMPLES, -(-PREDICTIONS * len(target) // target.numel())))


def _first(batches: Sequence[Any], samples: int) -> list[Any]:
    """The first samples of batches, in batches of the same structure."""
    taken: list[Any] = []
    for batch in batches:
        tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
        size = len(tensors[0]) if tensors else 0
        taken.append(pytree.tree_map(partial(_rows, size=size, count=samples), batch))
        samples -= size
        if samples <= 0:
            break
    return taken


def _rows(leaf: Any, *, size: int, count: int) -> Any:
    return leaf[:count] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size else leaf


def _inputs(network: Network, batches: Iterable[Any]) -> list[Inputs]:
    """What the network is called with, on its device."""
    names, device = set(network.example[1]), device_of(network)
    return [to_device(accepted_by(split_batch(batch)[0], names), device) for batch in batches]


def _growth(measured: Mapping[Setting | None, float]) -> dict[Setting, float]:
    """What the divergence of each setting is above that of the highest bits."""
    least = measured[None]
    growth = {key: max(value - least, 0.0) for key, value in measured.items() if key is not None}
    finite = [value for value in growth.values() if math.isfinite(value)]
    if not math.isfinite(least) or (growth and not finite):
        variable = next(iter(growth))[0] if growth else None
        where = f"with '{variable.layers[0]}' at lower bits" if variable and math.isfinite(least) else "at all"
        raise InputError(
            f"the outputs of the quantized network cannot be compared with the float network's {where}: they hold NaN "
            "or infinity; check the model and its input, or search with --no-sensitivity"
        )
    return {key: min(value, max(finite)) for key, value in growth.items()}


def _table(space: SearchSpace, growth: Mapping[Setting, float]) -> NDArray[np.float64]:  # layers x options
    """Each variable's share in each of its layers; bits that are no choice count as the next one above."""
    values = np.zeros((len(space.names), len(space.options)))
    for variable in space.variables:
        losses = np.array([growth.get((variable, bits), 0.0) for bits in variable.choices])
        bits = [getattr(option, variable.role) for option in space.options]
        level = np.searchsorted(variable.choices, bits).clip(max=len(variable.choices) - 1)
        rows = [space.names.index(name) for name in variable.layers]
        values[rows] += losses[level] / len(variable.layers)
    return values
