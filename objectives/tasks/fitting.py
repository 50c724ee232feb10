"""How the built-in tasks train their float networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def fit(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    learning_rate: float,
    weight_decay: float = 1e-4,
) -> None:
    """AdamW on a one-cycle schedule (Smith and Topin 2018), in place, for ``steps`` batches.

    Args:
        model: left in evaluation mode.
        batches: inputs and targets, ``steps`` of them or more.
        loss: of the network's output and the target.
        steps: length of the schedule.
        learning_rate: at the peak.
        weight_decay: decoupled.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for _, (inputs, target) in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss(model(inputs), target).backward()
        optimizer.step()
        schedule.step()
    model.eval()
