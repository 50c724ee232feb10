"""Weights as sums of bit planes, each of which can be trained, and can vanish.

Yang, Duan, Chen and Li, "BSQ: Exploring Bit-Level Sparsity for Mixed-Precision Neural Network Quantization", ICLR 2021,
arXiv 2102.10462.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mobo_mpq.quant import functional
from mobo_mpq.quant.base import TensorQuantizer
from mobo_mpq.quant.observers import SMALLEST_SCALE, Observer

LARGEST_BIT = 2.0
"""Trained bits stay between 0 and this; above 1 they carry over into the next plane."""


class BitPlanes(TensorQuantizer):
    """A weight as ``scale / (2^n - 1) * sum_b 2^b (p_b - n_b)``: the sum is rounded, its bits are the parameters.

    It replaces the weight that it is calibrated on: afterwards the tensor that it is called with is of no effect. There
    are ``n`` planes for the magnitude, the sign comes on top: integers of ``bits = n + 1`` hold the weight.

    Rounding is to multiples of the lowest plane that has not vanished; when all have, the weight is 0. Sums above
    ``2^n - 1`` are kept, as :func:`requantize` gives them a plane more, until there are as many planes as there may be.

    Args:
        bits: at the start, and at most: 2 to 8.
        axis: channel axis for a scale per channel, None for one per tensor, as in the paper.

    Attributes:
        planes: ``2 x shape`` each, positive parts first; the lowest bit is the first plane.
        scale: of the largest integer of ``n`` bits; ``()`` or ``(channels,)``.
    """

    scale: Tensor

    def __init__(self, bits: int, axis: int | None = None) -> None:
        super().__init__(bits, axis)
        self.limit = bits - 1
        self.planes = nn.ParameterList()
        self.register_buffer("scale", torch.tensor(torch.nan))

    def calibrate(self, x: Tensor) -> None:
        """Take the bits of ``x``: the exact binary expansion of its nearest integers."""
        observer = Observer(self.axis)
        observer.observe(x)
        self.fit(observer)
        self.scale = self.scale.to(x)
        steps = x.detach() / functional.expand(self.scale, self.axis, x.ndim) * self.largest(self.limit)
        self.set_integers(steps.round(), self.limit)
        self.calibrated = True

    def fit(self, observer: Observer) -> None:
        """The scale: the largest absolute value."""
        low, high = observer.extremes()
        scale = torch.maximum(-low, high).clamp(min=SMALLEST_SCALE)
        self.scale = scale.reshape(()) if self.axis is None else scale

    @staticmethod
    def largest(planes: int) -> int:
        """The largest integer of so many planes."""
        return int(2**planes - 1)

    @property
    def step(self) -> Tensor:
        """What the lowest bit of the sum stands for, of scale's shape."""
        return self.scale / self.largest(len(self.planes))

    @property
    def found_bits(self) -> int:
        """Bits that the weight needs, its sign included; 0 when all planes have vanished."""
        return len(self.planes) + 1 if any(self.present()) else 0

    def present(self) -> list[bool]:
        """Of each plane, whether any of its bits still rounds to 1."""
        largest = torch.stack([plane.detach().amax() for plane in self.planes])
        return [bool(there) for there in largest >= 0.5]

    def set_integers(self, integers: Tensor, planes: int) -> None:
        """Let the bits be those of ``integers``, in ``planes`` planes that are made anew."""
        magnitude, positive = integers.abs().to(torch.int64), integers > 0
        self.planes = nn.ParameterList()
        for bit in range(planes):
            found = (magnitude >> bit & 1).to(integers.dtype)
            self.planes.append(nn.Parameter(torch.stack([found * positive, found * ~positive])))
        self.bits = planes + 1

    def sums(self) -> Tensor:
        """``sum_b 2^b (p_b - n_b)``, not rounded, in the weight's shape."""
        total = self.planes[0][0] - self.planes[0][1]
        for bit, plane in enumerate(list(self.planes)[1:], 1):
            total = total + 2.0**bit * (plane[0] - plane[1])
        if len(self.planes) < self.limit:
            return total
        return total.clamp(-self.largest(self.limit), self.largest(self.limit))

    def integers(self) -> Tensor:
        """The rounded sums, in the planes' type; the gradient passes straight through the rounding."""
        lowest = next((bit for bit, there in enumerate(self.present()) if there), len(self.planes))
        rounded: Tensor = _Rounded.apply(self.sums(), 2.0**lowest, self.largest(self.limit))
        return rounded

    def unrounded(self) -> Tensor:
        """The weight before its sums are rounded."""
        return functional.expand(self.step, self.axis, self.planes[0].ndim - 1) * self.sums()

    def quantize(self, x: Tensor) -> Tensor:
        """The weight that the planes describe, whatever ``x`` is."""
        return functional.expand(self.step, self.axis, x.ndim) * self.integers()


class _Rounded(torch.autograd.Function):
    """Round to multiples of a power of two; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, unit: float, largest: int) -> Tensor:
        top = largest // unit * unit  # rounding up must not leave the integers that there are
        return ((sums / unit).round() * unit).clamp(-top, top)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


@torch.no_grad()
def requantize(tied: Sequence[BitPlanes]) -> list[Tensor]:
    """Give weights the planes that they need, and no more; what they describe stays as it is.

    Sums that outgrew ``2^n - 1`` get a plane more, the highest and the lowest planes that are 0 everywhere go. The step
    between integers doubles with each of the lowest that goes, so that with ``n'`` planes left

        ``scale' = scale * 2^k (2^n' - 1) / (2^n - 1)``.

    One plane stays even when all is 0. Planes are made anew: optimizers have to be, too.

    Args:
        tied: weights that have the same bits.

    Returns:
        Each weight before its sums were rounded, wherever the new step rounds it to what the planes describe; what they
        describe elsewhere, as in planes that vanished from one of several weights alone.
    """
    unrounded = [weight.unrounded() for weight in tied]
    integers = [weight.integers() for weight in tied]
    magnitudes = [values.abs().to(torch.int64) for values in integers]
    used = 0
    for values in magnitudes:
        for bit in range(int(values.max()).bit_length()):
            used |= int((values >> bit & 1).any()) << bit
    gone = (used & -used).bit_length() - 1 if used else 0
    planes = max(1, used.bit_length() - gone)
    for weight, values in zip(tied, integers, strict=True):
        step = weight.step * 2**gone
        weight.set_integers(values / 2**gone, planes)
        weight.scale = step * weight.largest(planes)
    return [_rounding_alike(weight, values) for weight, values in zip(tied, unrounded, strict=True)]


def _rounding_alike(weight: BitPlanes, unrounded: Tensor) -> Tensor:
    step = functional.expand(weight.step, weight.axis, unrounded.ndim)
    integers = weight.integers()
    return torch.where((unrounded / step).round() == integers, unrounded, step * integers)


def plane_norms(tied: Sequence[BitPlanes]) -> Tensor:
    """Norm of each bit plane over weights that have the same bits, positive and negative parts together: ``n``."""
    squares = [torch.stack([plane.square().sum() for plane in weight.planes]) for weight in tied]
    return torch.stack(squares).sum(0).sqrt()


def group_lasso(tied: Sequence[BitPlanes]) -> Tensor:
    """The bit-level group lasso ``sum_b ||[p_b; n_b]||`` (equation 5 of the paper), a scalar."""
    return plane_norms(tied).sum()
