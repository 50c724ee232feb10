"""LSQ: the step size is a parameter (Esser et al., ICLR 2020, arXiv 1902.08153)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mobo_mpq.quant import functional
from mobo_mpq.quant.base import QParams, Quantizer, register_scheme
from mobo_mpq.quant.observers import SMALLEST_SCALE
from mobo_mpq.quant.uniform import UniformQuantizer, UniformScheme, channels_of


@register_scheme("lsq")
@dataclass(frozen=True)
class LsqScheme(UniformScheme):
    """Evenly spaced levels whose step size is learned; the observer chooses where it starts.

    Departs from the paper: the start is the observer's instead of ``2 mean|x| / sqrt(qmax)``, weights may have one step
    size per channel, and activations of both signs keep a zero point, fixed after calibration.
    """

    def build(self, bits: int, shape: Sequence[int], axis: int | None) -> Quantizer:
        """See :func:`mobo_mpq.quant.base.build_quantizer`."""
        return LsqQuantizer(self, bits, *channels_of(self, shape, axis))


class LsqQuantizer(UniformQuantizer):
    """Learned scale, fixed zero point.

    The gradient of the scale is multiplied by ``1 / sqrt(count * qmax)``; count is the number of weights that share the
    scale, or the number of features of one sample of an activation (section 2.2 of the paper).

    Args:
        scheme: symmetric or affine, observer.
        bits: 2 to 8.
        shape: of the scale, ``()`` or ``(channels,)``.
        axis: along which the scale runs.
    """

    learned = True

    def qparams(self) -> QParams:
        """The grid as it is now."""
        scale = self.scale.detach().clamp(min=SMALLEST_SCALE)
        return QParams(scale, self.zero_point, self.qmin, self.qmax, self.axis)

    def gradient_scale(self, x: Tensor) -> float:
        """The factor on the gradient of the scale."""
        return gradient_scale(x, self.scale, self.qmax, self.site is None or self.site.axis is not None)

    def quantize(self, x: Tensor) -> Tensor:
        """The quantized ``x``."""
        scale = positive(self.scale)  # kernels take a scale below 0 without a word
        return functional.fake_quantize_learned(
            x, scale, self.zero_point, self.qmin, self.qmax, self.axis, self.gradient_scale(x)
        )


def gradient_scale(x: Tensor, scale: Tensor, qmax: int, weight: bool) -> float:
    """The factor on the gradient of a learned scale.

    Args:
        x: what is quantized; samples come first if it is an activation.
        scale: one value, or one per channel.
        qmax: largest integer.
        weight: whether it is a weight.
    """
    count = x.numel() // scale.numel() if weight else x.numel() // max(x.shape[0], 1)
    return 1.0 / math.sqrt(max(count, 1) * qmax)


def positive(scale: Tensor) -> Tensor:
    """At least the smallest scale; the gradient passes, so that a step that overshot can come back."""
    clamped: Tensor = _Positive.apply(scale)
    return clamped


class _Positive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor) -> Tensor:
        return scale.clamp(min=SMALLEST_SCALE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient
