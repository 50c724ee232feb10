"""Which samples of a loader sensitivities are measured on, and how a network is called with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.training.data import Inputs, accepted_by, device_of, split_batch, to_device

SAMPLES = 128
"""Samples on which outputs are compared; docs/methods/sensitivities.md shows what more of them would change."""

PREDICTIONS, FEWEST_SAMPLES = 1024, 16
"""Where every sample holds several predictions, such as those of a text, so many are enough."""


def enough(batches: Sequence[Any]) -> int:
    """Samples to compare, by the number of predictions that the target of one holds."""
    target = split_batch(batches[0])[1] if batches else None
    if not isinstance(target, Tensor) or target.is_floating_point() or target.ndim < 2 or not target.numel():
        return SAMPLES
    return min(SAMPLES, max(FEWEST_SAMPLES, -(-PREDICTIONS * len(target) // target.numel())))


def check_samples(what: str, batches: Sequence[Any], samples: int) -> None:
    """Refuse to measure on nothing.

    Raises:
        InputError: when there is no batch, or no sample is asked for or there.
    """
    if not batches or samples < 1 or not any(map(size_of, batches)):
        raise InputError(
            f"{what}() got {len(batches)} batches of {sum(map(size_of, batches))} samples and samples={samples}; "
            "expected at least 1 of each"
        )


def size_of(batch: Any) -> int:
    """Samples of a batch: the length of its first tensor."""
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    return len(tensors[0]) if tensors else 0


def first(batches: Sequence[Any], samples: int) -> list[Any]:
    """The first samples of batches, in batches of the same structure."""
    taken: list[Any] = []
    for batch in batches:
        size = size_of(batch)
        taken.append(pytree.tree_map(partial(_rows, size=size, rows=slice(samples)), batch))
        samples -= size
        if samples <= 0:
            break
    return taken


def one_by_one(batch: Any) -> Iterator[Any]:
    """Batches of one sample each."""
    size = size_of(batch)
    for row in range(size):
        yield pytree.tree_map(partial(_rows, size=size, rows=slice(row, row + 1)), batch)


def joined(batches: Sequence[Any], least: int) -> list[Any]:
    """Consecutive batches joined until each holds ``least`` samples, as far as their shapes allow it."""
    result: list[Any] = []
    for batch in batches:
        both = _join(result[-1], batch) if result and size_of(result[-1]) < least else None
        if both is None:
            result.append(batch)
        else:
            result[-1] = both
    if len(result) > 1 and size_of(result[-1]) < least:  # a short rest goes to the batch before it
        both = _join(result[-2], result[-1])
        result[-2:] = result[-2:] if both is None else [both]
    return result


def inputs_of(network: Network, batches: Iterable[Any]) -> list[Inputs]:
    """What the network is called with, on its device."""
    names, device = set(network.example[1]), device_of(network)
    return [to_device(accepted_by(split_batch(batch)[0], names), device) for batch in batches]


def _rows(leaf: Any, *, size: int, rows: slice) -> Any:
    return leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size else leaf


def _join(left: Any, right: Any) -> Any | None:
    (ours, spec), (theirs, other) = pytree.tree_flatten(left), pytree.tree_flatten(right)
    pairs = list(zip(ours, theirs, strict=False))
    if spec != other or not all(_joinable(*pair) for pair in pairs):
        return None
    return pytree.tree_unflatten([torch.cat(pair) for pair in pairs], spec)


def _joinable(left: Any, right: Any) -> bool:
    both = isinstance(left, Tensor) and isinstance(right, Tensor)
    return both and left.ndim > 0 and left.shape[1:] == right.shape[1:] and left.dtype is right.dtype
