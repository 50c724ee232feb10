"""How much of each layer's gradient is zero, and becomes zero: looked at without training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mobo_mpq.graph import call
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training.data import accepted_by, device_of, split_batch, to_device
from mobo_mpq.training.half.ledger import Tally
from mobo_mpq.training.half.scaling import Half, HalfSettings
from mobo_mpq.training.losses import Loss


def gradient_tallies(
    network: QuantizedNetwork,
    batches: Iterable[Any],
    loss: Loss,
    settings: HalfSettings,
    dtype: torch.dtype = torch.float16,
) -> Mapping[str, Tally]:
    """Go forwards and backwards over batches, and count zeros layer by layer.

    Args:
        network: calibrated; left as it is.
        batches: as a loader yields them.
        loss: of the network's output and the target.
        settings: loss scaling, and its options; ``dynamic`` finds its scale on the way.
        dtype: of layers and gradients; float32 shows what is zero in any arithmetic.

    Returns:
        Layer -> counts.
    """
    network = copy.deepcopy(network).requires_grad_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    arithmetic = Half(network, settings, dtype, count_interval=1)
    names, device = set(network.example[1]), device_of(network)
    for batch in batches:
        inputs, target = split_batch(to_device(batch, device))
        optimizer.zero_grad()
        arithmetic.backward(loss(call(arithmetic.network, accepted_by(inputs, names)), target), optimizer)
    return arithmetic.tallies
