"""A share of the training data, for searches that shall be cheap: a proxy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from mobo_mpq.seeding import derive
from mobo_mpq.training.data import batch_count, passes, rebuild, share
from mobo_mpq.training.isolation import isolated


def subset(loader: Iterable[Any], fraction: float, seed: int) -> Iterable[Any]:
    """One fixed share of a loader's data, of at least one sample.

    Of a plain loader over tensors samples are drawn, from each class alike where the last tensor holds class indices.
    Of any other loader the first share of the batches of one pass is kept, as they come.

    Args:
        loader: with a length; itself when ``fraction`` is 1.
        fraction: of the samples, more than 0.
        seed: of what is drawn.

    Returns:
        A loader that shuffles as the given one does, or a list of batches.
    """
    if fraction >= 1.0:
        return loader
    seed = derive(seed, "subset")
    shared = share(loader)
    if shared is None:
        with isolated(seed):  # a loader may shuffle and augment by global generators
            return list(itertools.islice(passes(loader, seed), math.ceil(fraction * batch_count(loader))))
    full = rebuild(shared)
    assert isinstance(full.dataset, TensorDataset), "made so"
    tensors = full.dataset.tensors
    rows = _spread(tensors[-1], math.ceil(fraction * len(tensors[0]) - 1e-9), seed)
    return DataLoader(
        TensorDataset(*(tensor[rows] for tensor in tensors)),
        batch_size=min(shared.batch_size, len(rows)),
        shuffle=isinstance(full.sampler, RandomSampler),
        drop_last=shared.drop_last,
        generator=None if shared.seed is None else torch.Generator().manual_seed(shared.seed),
    )


def _spread(target: Tensor, count: int, seed: int) -> Tensor:
    """Rows drawn so that every class has its share of them, to one sample; in their old order."""
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    if target.ndim == 1 and not target.is_floating_point():
        order = order[target[order].sort(stable=True).indices]
    places = ((torch.arange(count, dtype=torch.float64) + 0.5) * (len(target) / count)).long()
    return order[places].sort().values
