"""Orthogonality of layers: what a layer's outputs share with those of other layers, it need not keep exactly.

Ma et al., "OMPQ: Orthogonal Mixed Precision Quantization", AAAI 2023, arXiv 2109.07865.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mobo_mpq.errors import InputError, PolicyError
from mobo_mpq.graph import Network
from mobo_mpq.posttraining.walk import Walk
from mobo_mpq.sensitivity.assembly import by_layer, digests
from mobo_mpq.sensitivity.samples import SAMPLES, check_samples, first, inputs_of, size_of
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable
from mobo_mpq.space import SearchSpace

METHOD, VERSION = "orthogonality", 1
_COLUMNS = 65_536  # of features, taken to double precision at a time


def provenance(
    network: Network, space: SearchSpace, batches: Iterable[Any], *, samples: int = SAMPLES, beta: float = 1.0
) -> Provenance:
    """Digests of what :func:`orthogonality` would measure, without measuring; arguments as there."""
    return digests((METHOD, VERSION), network, space, batches, (), {"samples": samples, "beta": beta})


def orthogonality(
    network: Network, space: SearchSpace, batches: Iterable[Any], *, samples: int = SAMPLES, beta: float = 1.0
) -> SensitivityTable:
    """The importance of each layer times the bits that its weight and its input lack of their highest.

    Args:
        network: in float; left as it is.
        space: of its policies.
        batches: as loaders yield them; targets are not looked at.
        samples: the first of them, whose outputs are compared.
        beta: how much orthogonality counts; see :func:`importance`.

    Raises:
        InputError: when there are fewer than 2 samples, or outputs that are not finite.
        PolicyError: when the space is of another network.
    """
    start = time.process_time()
    batches = list(batches)
    check_samples("orthogonality", batches, samples)
    names = tuple(layer.name for layer in network.layers)
    if names != space.names:
        raise PolicyError(f"the space is of another model: it has {len(space.names)} layers, this one {len(names)}")
    similar = similarities(layer_outputs(network, first(batches, samples)), names)
    worth = dict(zip(names, importance(similar, beta).tolist(), strict=True))
    losses = {
        (variable, bits): sum(worth[name] for name in variable.layers) * (variable.choices[-1] - bits)
        for variable in space.variables
        for bits in variable.choices
    }
    return SensitivityTable(
        values=by_layer(space, losses),
        method=METHOD,
        unit="importance times bits",
        provenance=provenance(network, space, batches, samples=samples, beta=beta),
        evaluations=1,
        cpu_s=time.process_time() - start,
    )


def layer_outputs(network: Network, batches: Sequence[Any]) -> list[NDArray[np.float64]]:
    """Gram matrix of the centred outputs of each layer, ``samples x samples``, in one pass.

    Args:
        network: in float.
        batches: as loaders yield them.
    """
    sizes = [size_of(batch) for batch in batches]
    index = {operator.node: row for row, operator in enumerate(network.trace.operators)}
    grams: list[NDArray[np.float64]] = [np.zeros((0, 0))] * len(index)
    walk = Walk(network, inputs_of(network, batches))
    for node in walk:
        if node.name in index:
            rows = [value.reshape(size, -1) for value, size in zip(walk.values(node), sizes, strict=True)]
            grams[index[node.name]] = gram(torch.cat(rows))
    return grams


def gram(features: Tensor) -> NDArray[np.float64]:  # samples x p -> samples x samples
    """Products of the samples' features, from which the mean over samples has been taken: doubly centred."""
    total = torch.zeros(len(features), len(features), dtype=torch.float64)
    for part in features.detach().split(_COLUMNS, dim=1):
        centred = part.double() - part.double().mean(0)
        total += (centred @ centred.T).cpu()
    return np.asarray(total.numpy())


def similarities(
    grams: Sequence[NDArray[np.float64]], names: Sequence[str] | None = None
) -> NDArray[np.float64]:  # L x L
    """The matrix ORM: ``<K_i, K_j> / (|K_i| |K_j|)`` of doubly centred Gram matrices, 1 for equal outputs.

    This is linear centred kernel alignment. A layer of constant outputs is similar to none but itself.

    Args:
        grams: of each layer.
        names: of the layers, for the message.

    Raises:
        InputError: when there are fewer than 2 samples, or outputs that are not finite.
    """
    names = [str(i) for i in range(len(grams))] if names is None else names
    if grams and len(grams[0]) < 2:
        raise InputError(
            f"the orthogonality of layers is measured on {len(grams[0])} sample; expected at least 2: give more data"
        )
    for name, one in zip(names, grams, strict=True):
        if not np.isfinite(one).all():
            raise InputError(f"the outputs of layer '{name}' hold NaN or infinity; check the model and its input")
    flat = np.stack([one.ravel() for one in grams])
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, norms, out=np.zeros_like(flat), where=norms > 0)
    similar = unit @ unit.T
    np.fill_diagonal(similar, 1.0)
    return np.asarray(similar)


def importance(similar: NDArray[np.float64], beta: float = 1.0) -> NDArray[np.float64]:  # L x L -> L
    """``exp(-beta * gamma)`` with ``gamma_i`` the sum of a layer's similarities to all others.

    Args:
        similar: see :func:`similarities`.
        beta: 0 makes all layers alike.
    """
    gamma = similar.sum(axis=1) - similar.diagonal()
    return np.asarray(np.exp(-beta * gamma))
