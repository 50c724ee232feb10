"""Arithmetic of uniform fake quantization, bit for bit that of PyTorch's kernels.

Rounding is ``round(x * (1 / scale)) + zero_point``, half to even, then a clamp: dividing by the scale instead, or
rounding after the zero point is added, differs once in a million elements. On an accelerator PyTorch's fused kernels
do the work. On the CPU those are scalar loops, ten times slower than the same arithmetic as a few vectorised
operations, which is what runs there; tests hold the two equal, gradients included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mobo_mpq.errors import InputError

OFF_BITS = (16, 32)
"""Widths at which a tensor is left as it is."""


def check_bits(bits: int) -> int:
    """``bits`` when a quantizer exists for them.

    Raises:
        InputError: for anything but 2 to 8, 16 and 32.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not (2 <= bits <= 8 or bits in OFF_BITS):
        raise InputError(f"{bits!r} bits are not supported; expected 2 to 8, or 16 or 32 to leave the tensor in float")
    return bits


def grid(bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest integer: signed when symmetric, from 0 when affine.

    >>> grid(4, symmetric=True), grid(4, symmetric=False)
    ((-8, 7), (0, 15))
    """
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def expand(values: Tensor, axis: int | None, ndim: int) -> Tensor:
    """Reshape ``channels`` to broadcast along ``axis`` of an ``ndim``-dimensional tensor; scalars stay scalars."""
    if axis is None:
        return values.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None) -> Tensor:
    """The integers of ``x``, as a tensor of x's floating type.

    Args:
        x: any shape.
        scale: positive; one value, or one per channel along ``axis``.
        zero_point: whole numbers, of scale's shape.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        axis: channel axis, None for one scale per tensor.
    """
    inverse = expand(1.0 / scale, axis, x.ndim)
    offset = expand(zero_point, axis, x.ndim).to(x.dtype)
    return torch.clamp(torch.round(x * inverse) + offset, qmin, qmax)


def _vectorised(x: Tensor) -> bool:
    """Whether plain operations beat PyTorch's fused kernels where ``x`` lives."""
    return x.device.type == "cpu"


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None) -> Tensor:
    """``scale * (quantize(x) - zero_point)``; the gradient passes straight through where nothing was clamped.

    Args: as :func:`quantize`.
    """
    if _vectorised(x):
        if not torch.is_grad_enabled():
            return _round_and_clamp(x, scale, zero_point, qmin, qmax, axis)
        return _StraightThrough.apply(x, scale, zero_point, qmin, qmax, axis)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(
            x, scale.reshape(()), zero_point.reshape(()).to(torch.int32), qmin, qmax
        )
    return torch.fake_quantize_per_channel_affine(x, scale, zero_point.to(torch.int32), axis, qmin, qmax)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None, gradient_scale: float
) -> Tensor:
    """As :func:`fake_quantize`, with the gradient of the learned step size for ``scale``.

    LSQ (Esser et al., ICLR 2020, arXiv 1902.08153), equation 3, times ``gradient_scale``: ``round(v) - v`` inside the
    grid and the end of the grid outside, with ``v = x / scale`` and the zero point held fixed. As in PyTorch's kernels,
    "inside" is judged after rounding, half a step further out than in the paper.
    """
    if _vectorised(x):
        if not torch.is_grad_enabled():
            return _round_and_clamp(x, scale, zero_point, qmin, qmax, axis)
        return _LearnedStep.apply(x, scale, zero_point, qmin, qmax, axis, gradient_scale)
    offset = zero_point.to(x.dtype)
    if axis is None:
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, scale.reshape(1), offset.reshape(1), qmin, qmax, gradient_scale
        )
    return torch._fake_quantize_learnable_per_channel_affine(x, scale, offset, axis, qmin, qmax, gradient_scale)


def _bounds(zero_point: Tensor, qmin: int, qmax: int, axis: int | None, ndim: int) -> tuple[Any, Any]:
    """Ends of the grid as steps from zero: numbers where one zero point serves all, which clamps eight times faster."""
    if axis is None:
        point = int(zero_point)
        return qmin - point, qmax - point
    points = expand(zero_point, axis, ndim)
    return (qmin - points).to(torch.float32), (qmax - points).to(torch.float32)


def _round_and_clamp(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None) -> Tensor:
    low, high = _bounds(zero_point, qmin, qmax, axis, x.ndim)
    v = x * expand(1.0 / scale, axis, x.ndim)
    return v.round_().clamp_(low, high).mul_(expand(scale, axis, x.ndim))


class _StraightThrough(torch.autograd.Function):
    """Static scale: gradient for x alone. The backward pass starts again from x, which other operators keep anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.grid = (qmin, qmax, axis)
        return _round_and_clamp(x, scale, zero_point, qmin, qmax, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        x, scale, zero_point = ctx.saved_tensors
        qmin, qmax, axis = ctx.grid
        low, high = _bounds(zero_point, qmin, qmax, axis, x.ndim)
        rounded = (x * expand(1.0 / scale, axis, x.ndim)).round_()
        inside = torch.eq(torch.clamp(rounded, low, high), rounded, out=rounded)  # floats: see below
        return inside.mul_(gradient), None, None, None, None, None


class _LearnedStep(torch.autograd.Function):
    """Learned scale: gradients for x and for the scale."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        qmin: int,
        qmax: int,
        axis: int | None,
        gradient_scale: float,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.grid = (qmin, qmax, axis)
        ctx.gradient_scale = gradient_scale
        return _round_and_clamp(x, scale, zero_point, qmin, qmax, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        x, scale, zero_point = ctx.saved_tensors
        qmin, qmax, axis = ctx.grid
        low, high = _bounds(zero_point, qmin, qmax, axis, x.ndim)
        v = x * expand(1.0 / scale, axis, x.ndim)
        rounded = torch.round(v)
        clamped = torch.clamp(rounded, low, high)
        # 1 inside and 0 outside, as floats: products with Boolean tensors are not vectorised, and 30 times slower
        inside = torch.eq(clamped, rounded, out=rounded)
        slope = clamped.sub_(v.mul_(inside)).mul_(gradient)
        others = [d for d in range(x.ndim) if d != axis]
        total = slope.sum() if axis is None else slope.sum(others) if others else slope
        to_scale = (total * ctx.gradient_scale).reshape(scale.shape)
        return inside.mul_(gradient), to_scale, None, None, None, None, None
