"""Modules that emit the ONNX nodes of a quantizer; they exist while a network is exported, and compute nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobo_mpq.quant.base import QParams

UNSIGNED = (0, 255)
SAFE_BITS = 7
"""Weights of fewer bits are spread over so many: two products with unsigned 8 bits still fit into the 16-bit sums of
processors without a dot-product instruction."""


class ActivationCarrier(nn.Module):
    """``QuantizeLinear`` and ``DequantizeLinear`` on unsigned 8-bit integers.

    QuantizeLinear saturates at the ends of its carrier, of which a grid of fewer bits takes the lower part; a ``Min``
    in front makes the grid's upper end. It is no ``Clip`` because ONNX Runtime looks through that one: it would round
    the bias of the operator before it to integers, which at few bits changes one prediction in thirty, and win nothing.

    Args:
        grid: one scale for the whole tensor.
    """

    high: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: QParams) -> None:
        super().__init__()
        scale, zero_point = grid.scale.detach().reshape(()), int(grid.zero_point)
        shift = UNSIGNED[0] - grid.qmin
        self.narrow = grid.qmax + shift < UNSIGNED[1]
        self.register_buffer("high", (grid.qmax - zero_point) * scale)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", torch.tensor(zero_point + shift, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """The nodes, for a tensor of any shape."""
        if self.narrow:
            x = torch.minimum(self.high, x)
        integers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, self.scale, self.zero_point), dtype=torch.uint8, shape=x.shape
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (integers, self.scale, self.zero_point), dtype=x.dtype, shape=x.shape
        )


class WeightCarrier(nn.Module):
    """Signed 8-bit integers, kept as such in the file, and ``DequantizeLinear``.

    Integer kernels round a bias to multiples of the scale of the input times that of the weight, which is coarse when
    the weight has few bits. So integers of fewer than 7 bits are multiplied by a power of two, and their scale is
    divided by it: the weight stays the same bit for bit, and the bias is rounded as finely as next to 7 bits.

    Args:
        grid: one scale for the whole tensor, or one per channel.
        weight: the float weight.
    """

    scale: Tensor
    zero_point: Tensor
    integers: Tensor

    def __init__(self, grid: QParams, weight: Tensor) -> None:
        super().__init__()
        bits = (grid.qmax - grid.qmin).bit_length()
        middle = (grid.qmin + grid.qmax + 1) // 2
        spread = 2 ** max(SAFE_BITS - bits, 0)
        self.axis = grid.axis
        shape = () if grid.axis is None else (-1,)
        self.register_buffer("integers", ((grid.quantize(weight.detach()) - middle) * spread).to(torch.int8))
        self.register_buffer("scale", grid.scale.detach().reshape(shape) / spread)
        self.register_buffer("zero_point", ((grid.zero_point - middle) * spread).reshape(shape).to(torch.int8))

    def forward(self, weight: Tensor) -> Tensor:
        """The nodes, in place of the float ``weight``."""
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.integers, self.scale, self.zero_point),
            None if self.axis is None else {"axis": self.axis % weight.ndim},
            dtype=weight.dtype,
            shape=weight.shape,
        )
