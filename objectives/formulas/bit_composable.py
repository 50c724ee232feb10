"""Bit-composable systolic arrays: one unit multiplies 8 by 8 bits, or several pairs of fewer bits."""

from __future__ import annotations

from math import ceil

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, Positive, register_latency
from mobo_mpq.policy import LayerBits


@register_latency("bit_composable")
class BitComposable(CycleFormula):
    """The slower of computing and moving data to and from DRAM, which overlap.

    Bit Fusion (Sharma et al., ISCA 2018). The compute cycles are those of its published simulator, exactly. Its
    DRAM traffic comes from a search over loop orders and tiles, which is not repeated here: weights and inputs
    are read once, 32-bit partial sums read once and written once. So a layer whose tiles do not fit into the
    buffers is priced low: against 43 totals of ResNet-18 by 0.01 % at the median, by 17 % at worst on the
    built-in array, and by 48 % at worst on an array 8 times as wide. Groups of a convolution run one after the
    other, since the columns of the array share their inputs; the source has no grouped layers.

    Attributes:
        rows: fusion units along input channels.
        columns: fusion units along output channels.
        dram_bits_per_cycle: width of the memory interface.
        partial_sum_bits: of an output on its way to and from DRAM.
        unit_bits: operands of one fusion unit that multiplies a single pair.
        brick_bits: the narrowest operand; fewer bits cost the same compute.
        im2col_channels: an input of at most so many channels (an image) is unrolled, its window laid along
            the rows.
    """

    rows: Count
    columns: Count
    dram_bits_per_cycle: Positive
    partial_sum_bits: Count
    unit_bits: Count
    brick_bits: Count
    im2col_channels: Count

    @property
    def coverage(self) -> str:
        """The covered bits, in words."""
        return f"1 to {self.unit_bits} bits"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether both operands fit into a fusion unit."""
        return all(1 <= width <= self.unit_bits for width in bits)

    def pairs_per_unit(self, bits: LayerBits) -> int:
        """Products per fusion unit and cycle: 1 at 8x8, 4 at 4x4, 16 at 2x2 bits."""
        per_operand = [self.unit_bits // max(width, self.brick_bits) for width in bits]
        return per_operand[0] * per_operand[1]

    def compute_cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> int:
        """Cycles of the array for ``batch`` inferences, waiting for no data."""
        shape = Geometry.of(layer)
        depth = self.rows * self.pairs_per_unit(bits)
        if self._unrolled(shape):
            steps = ceil(shape.in_channels * shape.taps / depth)
        else:
            steps = shape.taps * ceil(shape.in_channels / depth)
        return batch * shape.groups * ceil(shape.out_channels / self.columns) * shape.positions * steps

    def dram_bits(self, layer: LayerSpec, bits: LayerBits, batch: int) -> int:
        """Bits read and written for ``batch`` inferences when every tensor is moved once."""
        shape = Geometry.of(layer)
        inputs = shape.positions * shape.in_channels * shape.taps if self._unrolled(shape) else shape.inputs
        outputs = shape.groups * shape.out_channels * shape.positions
        sums = 2 * self.partial_sum_bits * outputs
        return batch * (inputs * bits.activation + sums) + layer.num_weights * bits.weight

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        memory = self.dram_bits(layer, bits, batch) / self.dram_bits_per_cycle
        return max(self.compute_cycles(layer, bits, batch), memory)

    def _unrolled(self, shape: Geometry) -> bool:
        return shape.groups == 1 and shape.taps > 1 and shape.in_channels <= self.im2col_channels
