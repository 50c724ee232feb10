"""GAP8: eight RISC-V cores that compute 8-bit dot products of four."""

from __future__ import annotations

from math import ceil

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.feature_map import output_map
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, register_latency
from mobo_mpq.policy import LayerBits


@register_latency("gap8")
class Gap8(CycleFormula):
    """The loops of 8-bit PULP-NN kernels: each core unrolls windows, and multiplies them with blocks of weights.

    The form of PLiNIO's model (eml-eda/plinio, ``cost/gap8_latency.py``), exactly. Kernels for 2 and 4 bits
    (PULP-NN-mixed, arXiv 2007.07759) unpack to 8, so that fewer bits save memory and no time. Extensions that the
    source does not have: the groups of a convolution run in turn, a one-dimensional one is a map of one row, and a
    linear layer is computed anew for each of its positions.

    Attributes:
        cores: which share the rows of the output.
        pixels: adjacent outputs of one row that a core computes together.
        block: output channels that it computes together.
        dot_products: multiply-accumulates of one instruction.
        unroll_cycles: per element of the unrolled windows.
        block_cycles: around the inner loop.
        step_cycles: of the inner loop.
        depthwise_cycles: per window element of a block of channels.
        linear_inputs: of a linear layer that are read together.
    """

    cores: Count
    pixels: Count
    block: Count
    dot_products: Count
    unroll_cycles: Count
    block_cycles: Count
    step_cycles: Count
    depthwise_cycles: Count
    linear_inputs: Count

    @property
    def coverage(self) -> str:
        """The covered bits, in words."""
        return "8 weight and 8 activation bits"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether both operands are of 8 bits."""
        return (bits[0], bits[1]) == (8, 8)

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        shape = Geometry.of(layer)
        if layer.kind is OpKind.DEPTHWISE:
            blocks = ceil(shape.groups * shape.out_channels / self.block)
            return float(batch * self.depthwise_cycles * blocks * shape.positions * shape.taps)
        blocks = ceil(shape.out_channels / self.block)
        if layer.kind is OpKind.LINEAR:
            return float(batch * shape.positions * ceil(shape.in_channels / self.linear_inputs) * blocks)
        height, width = output_map(layer)
        depth = shape.in_channels * shape.taps
        block = self.block_cycles + self.step_cycles * ceil(depth / self.dot_products)
        turns = shape.groups * ceil(width / self.pixels) * ceil(height / self.cores)
        return float(batch * turns * (self.unroll_cycles * depth + blocks * block))
