"""Bit-composable systolic arrays: one unit multiplies 8 by 8 bits, or several pairs of fewer bits."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from math import ceil, isinf
from typing import Self

from pydantic import model_validator

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, Positive, register_latency
from mobo_mpq.objectives.tiling import Buffers, Windows, least_traffic
from mobo_mpq.policy import LayerBits

_HALVES = 2
"""Of each buffer: one is computed from while the other is filled."""


@lru_cache(maxsize=4096)
def _windows(layer: LayerSpec, batch: int, unrolled: bool, columns: int) -> Windows:
    windows = Windows.of(layer, batch, unrolled=unrolled)
    return replace(windows, out_channels=max(windows.out_channels, columns)) if layer.groups == 1 else windows


@register_latency("bit_composable")
class BitComposable(CycleFormula):
    """The slower of computing and moving data to and from DRAM, which overlap.

    Bit Fusion (Sharma et al., ISCA 2018). The compute cycles are those of its published simulator, exactly. Its
    DRAM traffic comes from a search over tiles and orders of the loops, and so does ours
    (:func:`mobo_mpq.objectives.tiling.least_traffic`): against 43 totals of ResNet-18, on arrays of 32 to 256
    columns with the buffers that go with each, by 0.004 % at the median and by 0.3 % at worst. Half of each buffer
    holds a tile while the other half is filled. Without buffers every tensor is moved once, so that a layer whose
    tiles do not fit is priced low, on the same rows by 0.01 % at the median, and by 48 % at worst. Groups of a
    convolution run one after the other, since the columns of the array share their inputs; the source has no
    grouped layers.

    Attributes:
        rows: fusion units along input channels.
        columns: fusion units along output channels; a layer of fewer channels moves the sums of all columns.
        dram_bits_per_cycle: width of the memory interface.
        partial_sum_bits: of an output on its way to and from DRAM.
        unit_bits: operands of one fusion unit that multiplies a single pair.
        brick_bits: the narrowest operand; fewer bits cost the same compute.
        im2col_channels: an input of at most so many channels (an image) is unrolled, its window laid along
            the rows.
        weight_buffer_bytes: on the chip; given for all three operands, or for none.
        input_buffer_bytes: likewise.
        output_buffer_bytes: likewise.
    """

    rows: Count
    columns: Count
    dram_bits_per_cycle: Positive
    partial_sum_bits: Count
    unit_bits: Count
    brick_bits: Count
    im2col_channels: Count
    weight_buffer_bytes: Count | None = None
    input_buffer_bytes: Count | None = None
    output_buffer_bytes: Count | None = None

    @model_validator(mode="after")
    def _all_buffers(self) -> Self:
        given = [self.weight_buffer_bytes, self.input_buffer_bytes, self.output_buffer_bytes]
        if None in given and given != [None, None, None]:
            raise ValueError(
                "weight_buffer_bytes, input_buffer_bytes and output_buffer_bytes belong together: give all or none"
            )
        return self

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

    def dram_bits(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Bits read and written for ``batch`` inferences: the fewest of any tiling that the buffers allow."""
        if self._buffers is not None:
            return self._traffic(layer, bits, batch)
        shape = Geometry.of(layer)
        inputs = shape.positions * shape.in_channels * shape.taps if self._unrolled(shape) else shape.inputs
        outputs = shape.groups * shape.out_channels * shape.positions
        sums = 2 * self.partial_sum_bits * outputs
        return batch * (inputs * bits[1] + sums) + layer.num_weights * bits[0]

    def refusal(self, layer: LayerSpec, bits: LayerBits) -> str | None:
        """Bits that do not fit into a unit, and windows that do not fit into a buffer."""
        refusal = super().refusal(layer, bits)
        if refusal is None and self._buffers is not None and isinf(self._traffic(layer, bits, 1)):
            return "its buffers cannot hold one window of the layer's input or weight at those bits"
        return refusal

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        memory = self.dram_bits(layer, bits, batch) / self.dram_bits_per_cycle
        return max(self.compute_cycles(layer, bits, batch), memory)

    @cached_property
    def _buffers(self) -> Buffers | None:
        if self.weight_buffer_bytes is None or self.input_buffer_bytes is None or self.output_buffer_bytes is None:
            return None
        return Buffers(
            weight=self.weight_buffer_bytes * 8 / _HALVES,
            activation=self.input_buffer_bytes * 8 / _HALVES,
            sum=self.output_buffer_bytes * 8 / _HALVES,
            sum_bits=self.partial_sum_bits,
            columns=self.columns,
        )

    def _traffic(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        assert self._buffers is not None
        tiled = _windows(layer, batch, self._unrolled(Geometry.of(layer)), self.columns)
        return layer.groups * float(least_traffic(tiled, self._buffers, self.unit_bits)[bits[0] - 1, bits[1] - 1])

    def _unrolled(self, shape: Geometry) -> bool:
        return shape.groups == 1 and shape.taps > 1 and shape.in_channels <= self.im2col_channels
