"""Arithmetic of uniform fake quantization, bit for bit that of PyTorch's kernels.

Rounding is ``round(x * (1 / scale)) + zero_point``, half to even, then a clamp: dividing by the scale instead, or
rounding after the zero point is added, differs once in a million elements.
"""

from __future__ import annotations

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


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None) -> Tensor:
    """``scale * (quantize(x) - zero_point)``; the gradient passes straight through where nothing was clamped.

    Args: as :func:`quantize`.
    """
    points = zero_point.to(torch.int32)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale.reshape(()), points.reshape(()), qmin, qmax)
    return torch.fake_quantize_per_channel_affine(x, scale, points, axis, qmin, qmax)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None, gradient_scale: float
) -> Tensor:
    """As :func:`fake_quantize`, with the gradient of the learned step size for ``scale``.

    LSQ (Esser et al., ICLR 2020, arXiv 1902.08153), equation 3, times ``gradient_scale``: ``round(v) - v`` inside the
    grid and the end of the grid outside, with ``v = x / scale`` and the zero point held fixed. In PyTorch's kernels
    "inside" is judged after rounding, half a step further out than in the paper.
    """
    if not torch.is_grad_enabled():  # the learnable kernels prepare for a backward pass that will not come
        return fake_quantize(x, scale, zero_point, qmin, qmax, axis)
    points = zero_point.to(x.dtype)
    if axis is None:
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, scale.reshape(1), points.reshape(1), qmin, qmax, gradient_scale
        )
    return torch._fake_quantize_learnable_per_channel_affine(x, scale, points, axis, qmin, qmax, gradient_scale)
