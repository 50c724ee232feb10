"""Looking at a network in the middle of its fine-tune, without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training.isolation import isolated

SHARE = 0.25
"""Of a fine-tune's steps, after which it is probed."""

Probe = Callable[[QuantizedNetwork], None]
"""Looks at a network that is being trained, inside of :func:`undisturbed`; ends the training by raising."""


def probed_after(steps: int) -> int | None:
    """The number of steps after which a fine-tune of ``steps`` is probed; ``None`` where that would be its end."""
    early = max(1, round(SHARE * steps))
    return early if early < steps else None


@contextmanager
def undisturbed(network: nn.Module, seed: int, *sources: object) -> Iterator[None]:
    """Whatever a block does to score a network, training goes on afterwards as if it had not been there.

    Puts back the generators of torch, NumPy and Python, those of the loaders, and the network's modes and
    ``requires_grad``. The network's values are the block's own responsibility: a metric that changes them is wrong.

    Args:
        network: that is being trained.
        seed: of the global generators within the block.
        sources: loaders that the block reads; the ``generator`` of each is put back, where it has one.
    """
    modes = {module: module.training for module in network.modules()}
    trained = {parameter: parameter.requires_grad for parameter in network.parameters()}
    owned = [found for found in (getattr(one, "generator", None) for one in sources) if found is not None]
    states = [(found, found.get_state()) for found in owned if isinstance(found, torch.Generator)]
    with isolated(seed):
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)
            for module, mode in modes.items():
                module.training = mode
            for parameter, flag in trained.items():
                parameter.requires_grad_(flag)
