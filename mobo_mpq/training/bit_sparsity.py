"""Training bit planes under a group lasso, by proximal steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobo_mpq.quant.bsq import LARGEST_BIT, BitPlanes, plane_norms

MEMORY = 0.9
"""How much of the squared gradient's running mean is kept at each step."""

SMALLEST = 1e-30
"""Norms below it count as this much."""


@dataclass(frozen=True, eq=False)
class Group:
    """Weights of one decision, whose planes come and go together.

    Attributes:
        tied: usually one.
        saved: what a bit of it saves, as a share of what a bit of every group saves.
        spared: number of the highest planes that the lasso leaves alone.
    """

    tied: tuple[BitPlanes, ...]
    saved: float
    spared: int = 0

    @property
    def weight(self) -> float:
        """Of the group in the lasso: ``#Para #Bit / sum #Para`` (equation 6 of the paper), or likewise of a cost."""
        return self.saved * self.tied[0].bits

    @property
    def found_bits(self) -> int:
        """Bits that the group needs: those of the weight that needs most; 0 when all planes of all have vanished."""
        return max(one.found_bits for one in self.tied)

    def rates(self, highest: float) -> list[tuple[nn.Parameter, float]]:
        """Learning rates of all planes: in the proportion in which gradients reach them, which Adam would lose."""
        return [
            (plane, highest * 2.0 ** (bit + 1 - len(one.planes)))
            for one in self.tied
            for bit, plane in enumerate(one.planes)
        ]

    def squared_gradient(self) -> Tensor:
        """Squared norm of the gradient for the weights in units of their scales, read off the highest planes."""
        total = torch.zeros((), device=self.tied[0].scale.device)
        for one in self.tied:
            gradient = one.planes[-1].grad
            if gradient is not None:
                share = 2.0 ** (len(one.planes) - 1) / one.largest(len(one.planes))
                total = total + (gradient[0] / share).square().sum()
        return total


class Shrinkage:
    """What the lasso does to the planes after each step of the optimizer.

    It is the lasso's proximal step (Parikh and Boyd, "Proximal Algorithms", 2014, section 6.5.4): the norm of a plane
    falls by a fixed amount, and to 0 where it is smaller, so that no strength is too much. Adam divides the gradient of
    the loss by its root mean square; the lasso is divided by the same, over the plane.

    Args:
        groups: all of them.
        strength: ``alpha`` of the paper: what the lasso weighs beside the loss.
        rate: learning rate of the highest planes at its peak.
    """

    def __init__(self, groups: Sequence[Group], strength: float, rate: float) -> None:
        self.groups, self.strength, self.rate = groups, strength, rate
        self._mean_squares = torch.zeros(len(groups), dtype=torch.float64)
        self._steps = 0

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Shrink every plane, and keep bits between 0 and 2.

        Args:
            factor: of the schedule, on the rate.
        """
        self._steps += 1
        squares = torch.stack([group.squared_gradient() for group in self.groups]).double().cpu()
        self._mean_squares = MEMORY * self._mean_squares + (1.0 - MEMORY) * squares
        norms = (self._mean_squares / (1.0 - MEMORY**self._steps)).sqrt()
        for group, norm in zip(self.groups, norms.tolist(), strict=True):
            amount = factor * self.rate * self.strength * group.weight
            kept = shares_kept(group.tied, norm, amount)
            for one in group.tied:
                lasting = len(one.planes) - group.spared
                for bit, (plane, share) in enumerate(zip(one.planes, kept, strict=True)):
                    plane.mul_(share if bit < lasting else 1.0).clamp_(0.0, LARGEST_BIT)


def shares_kept(tied: Sequence[BitPlanes], gradient: float, amount: float) -> list[float]:
    """What is left of each plane.

    Args:
        tied: weights that have the same bits.
        gradient: norm of the loss's gradient for them, in units of their scales.
        amount: by which the norm of a plane shrinks, times the root mean square of its gradient.
    """
    planes, count = len(tied[0].planes), sum(one.planes[0][0].numel() for one in tied)
    kept = []
    for bit, norm in enumerate(plane_norms(tied).tolist()):
        rms = 2.0**bit / tied[0].largest(planes) * max(gradient, SMALLEST) / math.sqrt(count)
        kept.append(max(0.0, 1.0 - amount / rms / max(norm, SMALLEST)))
    return kept
