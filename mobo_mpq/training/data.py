"""Batches, whatever their shape, and loaders whose tensors can be shared between processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset
from torch.utils.data._utils.collate import default_collate

from mobo_mpq.errors import InputError
from mobo_mpq.graph import LABELS

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]
"""What a network is called with: ``model(x)``, ``model(*xs)`` or ``model(**xs)``; see :func:`mobo_mpq.graph.call`."""


def split_batch(batch: Any) -> tuple[Inputs, Any]:
    """Part one batch of a loader into the network's inputs and the target.

    ``(x, y)`` gives ``x, y``; ``(x1, x2, y)`` gives ``(x1, x2), y``; a mapping's target is its ``labels``, which stay
    among the inputs for networks that take them (see :func:`without_labels`); a bare tensor has no target.

    Raises:
        InputError: when the batch is none of these.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return dict(batch), batch.get(LABELS)
    if isinstance(batch, (tuple, list)) and batch:
        *inputs, target = batch
        if not inputs:
            return target, None
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), target
    raise InputError(
        f"a batch is a {type(batch).__name__}; expected (inputs, target), a mapping or a tensor: "
        "make the loader yield one of these"
    )


def logits_of(output: Any) -> Tensor:
    """The tensor of predictions in a network's output: itself, its ``logits``, or its first member.

    Raises:
        InputError: when there is no such tensor.
    """
    found = output
    if not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, Mapping):
            found = output.get("logits")
        if found is None and isinstance(output, (tuple, list)) and output:
            found = output[0]
    if not isinstance(found, Tensor):
        raise InputError(
            f"the network returns a {type(output).__name__} without logits; expected a tensor, an output with "
            "'logits' or a tuple that starts with a tensor: give the task a 'loss' of its own"
        )
    return found


def without_labels(inputs: Inputs) -> Inputs:
    """The inputs without ``labels``, so that a network captured with them needs none when it is used."""
    return {key: item for key, item in inputs.items() if key != LABELS} if isinstance(inputs, dict) else inputs


def accepted_by(inputs: Inputs, names: Container[str]) -> Inputs:
    """The inputs without the keywords that a captured network does not know, such as labels."""
    return {key: item for key, item in inputs.items() if key in names} if isinstance(inputs, dict) else inputs


def to_device(value: Any, device: torch.device) -> Any:
    """A copy of nested tuples, lists and mappings whose tensors lie on ``device``; the value itself if they do."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [to_device(item, device) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU when it has none."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@dataclass(frozen=True, eq=False)
class SharedLoader:
    """A loader over tensors, as arrays that an object store can hold.

    Attributes:
        arrays: one per tensor of the data set, samples first.
        batch_size: samples per batch.
        shuffle: whether each pass has an order of its own.
        drop_last: whether a short last batch is left out.
        seed: of the loader's own generator; ``None`` when it has none.
    """

    arrays: tuple[NDArray[Any], ...]
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int | None = None


def _plain(loader: object) -> tuple[DataLoader[Any], tuple[Tensor, ...]] | None:
    """A loader and its tensors, when these, its batch size and its order are all that it is."""
    if not isinstance(loader, DataLoader) or type(loader.dataset) is not TensorDataset or loader.batch_size is None:
        return None
    sampler, samples = loader.sampler, len(loader.dataset)
    ordinary = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == samples
    )
    if not ordinary or type(loader.batch_sampler) is not BatchSampler or loader.collate_fn is not default_collate:
        return None
    return loader, loader.dataset.tensors


def share(loader: Iterable[Any]) -> SharedLoader | None:
    """Take a loader over a ``TensorDataset`` apart; ``None`` for any other, which each worker loads for itself."""
    plain = _plain(loader)
    if plain is None or any(tensor.dtype is torch.bfloat16 for tensor in plain[1]):  # a type that NumPy lacks
        return None
    found, tensors = plain
    return SharedLoader(
        arrays=tuple(tensor.detach().cpu().numpy() for tensor in tensors),
        batch_size=int(found.batch_size or 1),
        shuffle=isinstance(found.sampler, RandomSampler),
        drop_last=bool(found.drop_last),
        seed=None if found.generator is None else found.generator.initial_seed(),
    )


def rebuild(shared: SharedLoader) -> DataLoader[tuple[Tensor, ...]]:
    """The loader that :func:`share` took apart.

    Arrays come back from an object store read-only, which torch cannot express: those are copied, so that a network
    that works in place never writes into what other processes read.
    """
    tensors = (torch.from_numpy(a if a.flags.writeable else np.array(a)) for a in shared.arrays)
    generator = None if shared.seed is None else torch.Generator().manual_seed(shared.seed)
    return DataLoader(
        TensorDataset(*tensors),
        batch_size=shared.batch_size,
        shuffle=shared.shuffle,
        drop_last=shared.drop_last,
        generator=generator,
    )


def batch_count(loader: Iterable[Any], fraction: float = 1.0) -> int:
    """Batches of one pass over ``fraction`` of the data, at least one.

    Raises:
        InputError: when the loader has no length, or is empty.
    """
    try:
        count = len(loader)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"the train loader, a {type(loader).__name__}, has no length; expected a DataLoader or a list of batches"
        ) from None
    if count < 1:
        raise InputError("the train loader is empty; expected at least one batch")
    return max(1, math.ceil(count * fraction))


def passes(loader: Iterable[Any], seed: int, fraction: float = 1.0) -> Iterator[Any]:
    """Batches without end: pass after pass over one fixed share of the data.

    Plain loaders over tensors are indexed directly, which spares the collation sample by sample. Of other loaders
    each pass takes the first share of its batches, and their own generator is seeded anew, so that what is seen
    depends on ``seed`` alone.
    """
    count = batch_count(loader, fraction)
    plain = _plain(loader)
    if plain is not None:
        yield from _tensor_passes(*plain, count, seed, fraction)  # never ends
    generator = getattr(loader, "generator", None)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    while True:
        for index, batch in enumerate(loader):
            if index == count:
                break
            yield batch


def _tensor_passes(
    loader: DataLoader[Any], tensors: tuple[Tensor, ...], count: int, seed: int, fraction: float
) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(seed)
    total, size = len(tensors[0]), int(loader.batch_size or 1)
    shuffle = isinstance(loader.sampler, RandomSampler)
    kept = max(1, math.ceil(total * fraction))
    chosen = torch.randperm(total, generator=generator)[:kept] if fraction < 1 else torch.arange(total)
    while True:
        order = chosen[torch.randperm(kept, generator=generator)] if shuffle else chosen.sort().values
        for rows in order.split(size)[:count]:
            yield tuple(tensor[rows] for tensor in tensors)


def first_inputs(loader: Iterable[Any], batches: int, seed: int) -> list[Inputs]:
    """Inputs of the first ``batches`` batches of a pass, for calibration."""
    stream: Iterator[Any] = passes(loader, seed)
    return [split_batch(next(stream))[0] for _ in range(min(batches, batch_count(loader)))]
