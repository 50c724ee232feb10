"""Uniform quantization with a fixed scale: what post-training quantization uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.quant import functional
from mobo_mpq.quant.base import QParams, Quantizer, Scheme, register_scheme
from mobo_mpq.quant.observers import Observer, ObserverKind, choose


@register_scheme("uniform")
@dataclass(frozen=True)
class UniformScheme(Scheme):
    """Evenly spaced levels.

    Attributes:
        symmetric: signed integers and zero point 0; otherwise integers from 0 and a zero point.
        per_channel: one scale per output channel of a weight.
        observer: how ranges are chosen: ``minmax``, ``percentile`` or ``mse``.
        percentile: share of the values covered by ``percentile``, in percent.

    Raises:
        InputError: for an unknown observer, or a percentile outside (50, 100].
    """

    symmetric: bool = True
    per_channel: bool = True
    observer: str = "mse"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.observer not in tuple(ObserverKind):
            raise UnknownName("observer", str(self.observer), tuple(ObserverKind))
        if not 50.0 < self.percentile <= 100.0:
            raise InputError(f"percentile {self.percentile!r} is out of range; expected more than 50, at most 100")

    def build(self, bits: int, shape: Sequence[int], axis: int | None) -> Quantizer:
        """See :func:`mobo_mpq.quant.base.build_quantizer`."""
        return UniformQuantizer(self, bits, *channels_of(self, shape, axis))


def channels_of(scheme: UniformScheme, shape: Sequence[int], axis: int | None) -> tuple[tuple[int, ...], int | None]:
    """Shape of the scale, and the axis along which it runs.

    Raises:
        InputError: when the scheme is per channel and the tensor has no channel axis.
    """
    if not scheme.per_channel:
        return (), None
    if axis is None:
        raise InputError(
            f"scheme '{scheme.name}' with a scale per channel does not fit an activation; set per_channel=False for it"
        )
    return (int(shape[axis]),), axis


class UniformQuantizer(Quantizer):
    """Fixed scale and zero point; the gradient passes straight through to values inside the range.

    Args:
        scheme: symmetric or affine, observer.
        bits: 2 to 8.
        shape: of the scale, ``()`` or ``(channels,)``.
        axis: along which the scale runs.
    """

    learned: ClassVar[bool] = False
    """Whether the scale is a parameter."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scheme: UniformScheme, bits: int, shape: tuple[int, ...], axis: int | None) -> None:
        super().__init__(bits, axis)
        self.scheme = scheme
        self.qmin, self.qmax = functional.grid(bits, scheme.symmetric)
        scale = torch.full(shape, torch.nan)
        if self.learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))

    def qparams(self) -> QParams:
        """The grid as it is now."""
        return QParams(self.scale, self.zero_point, self.qmin, self.qmax, self.axis)

    def quantize(self, x: Tensor) -> Tensor:
        """The quantized ``x``."""
        return functional.fake_quantize(x, self.scale, self.zero_point, self.qmin, self.qmax, self.axis)

    def fit(self, observer: Observer) -> None:
        """Choose scale and zero point."""
        options = self.scheme
        scale, zero_point = choose(
            observer, options.observer, self.qmin, self.qmax, options.symmetric, options.percentile
        )
        with torch.no_grad():
            self.scale.copy_(scale.reshape(self.scale.shape))
            self.zero_point.copy_(zero_point.reshape(self.zero_point.shape))
