"""What a pass in half precision keeps books on: the scale of every gradient, zeros, and what became zero."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Carried:
    """The scale that the gradient of a tensor carries: known once its readers have been passed backwards."""

    scale: float = 1.0


@dataclass(slots=True)
class Tally:
    """Of the gradients that a layer has got and passed on.

    Attributes:
        received: elements of the gradient of its output.
        zeros: of these, those that are 0.
        passed: elements of the gradient of its input that are not 0 in float32 arithmetic.
        lost: of these, those that are 0 in the pass's own arithmetic.
        largest_scale: that any gradient which it passed on has carried.
    """

    received: int = 0
    zeros: int = 0
    passed: int = 0
    lost: int = 0
    largest_scale: float = 0.0

    def receive(self, gradient: Tensor) -> None:
        """Count the gradient of the output."""
        self.received += gradient.numel()
        self.zeros += gradient.numel() - int(torch.count_nonzero(gradient))

    def pass_on(self, gradient: Tensor, exact: Tensor, scale: float) -> None:
        """Count the gradient of the input, beside what it is in float32, and the scale that both carry."""
        self.largest_scale = max(self.largest_scale, scale)
        there = exact != 0
        self.passed += int(there.sum())
        self.lost += int((there & (gradient == 0)).sum())

    @property
    def zero_share(self) -> float:
        """Share of zeros in the gradient of the output; nan before anything was counted."""
        return self.zeros / self.received if self.received else math.nan

    @property
    def underflow_share(self) -> float:
        """Share of what should have been passed on, and became 0; 0 where there was nothing."""
        return self.lost / self.passed if self.passed else 0.0


@dataclass(slots=True, eq=False)
class Ledger:
    """One for each network that runs in half precision.

    Attributes:
        dtype: of the layers' operands and results, and of the gradients between them.
        adaptive: whether layers choose scales; otherwise they pass on the one they get.
        fresh: whether this backward pass chooses scales anew; otherwise the last ones serve again.
        counting: whether this backward pass is counted.
        loss_scale: what comes back from the loss is multiplied by it; a power of two.
        outlets: of what the loss hands over to this type.
        tallies: by the name of the layer.
    """

    dtype: torch.dtype = torch.float16
    adaptive: bool = False
    fresh: bool = True
    counting: bool = False
    loss_scale: float = 1.0
    outlets: Tally = field(default_factory=Tally)
    tallies: dict[str, Tally] = field(default_factory=dict)

    def total(self) -> Tally:
        """All layers together, and outlets."""
        tallies = [self.outlets, *self.tallies.values()]
        return Tally(
            received=sum(tally.received for tally in tallies),
            zeros=sum(tally.zeros for tally in tallies),
            passed=sum(tally.passed for tally in tallies),
            lost=sum(tally.lost for tally in tallies),
            largest_scale=max(tally.largest_scale for tally in tallies),
        )
