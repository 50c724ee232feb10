"""Bit-serial matrix engines: time grows with the product of the two bit-widths."""

from __future__ import annotations

from math import ceil

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, register_latency
from mobo_mpq.policy import LayerBits

WINDOW = 16
"""Bits of a dot-product word that one channel of a depthwise layer takes: a 3x3 window and its padding."""


@register_latency("bit_serial")
class BitSerial(CycleFormula):
    """The slowest of computing, streaming activations, and streaming weights, in cycles.

    BISMO (Umuroglu et al., FPL 2018): ``rows x columns`` dot-product units, each taking ``dot_bits`` bits of
    one bit plane per cycle. The three terms were decoded from the lookup table of HAQ (Wang et al., CVPR
    2019), which has no formula. Weights are fetched again for each image of a batch; in a linear layer of one
    position the batch fills the rows instead. A depthwise layer packs the windows of several channels into
    one word; windows of more than 16 taps take several places of 16, which the table does not contain.

    Attributes:
        rows: dot-product units along output positions.
        columns: dot-product units along output channels.
        dot_bits: width of one dot product.
        max_bits: of either operand.
    """

    rows: Count
    columns: Count
    dot_bits: Count
    max_bits: Count

    @property
    def coverage(self) -> str:
        """The covered bits, in words."""
        return f"1 to {self.max_bits} bits"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether both operands are of 1 to ``max_bits`` bits."""
        return all(1 <= width <= self.max_bits for width in bits)

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        shape = Geometry.of(layer)
        if layer.kind is OpKind.DEPTHWISE:
            return float(self._depthwise(shape, bits, batch))
        if layer.kind is OpKind.LINEAR and shape.positions == 1:
            return float(self._product(shape, bits, rows=batch, repeats=1))
        return float(shape.groups * self._product(shape, bits, rows=shape.positions, repeats=batch))

    def _product(self, shape: Geometry, bits: LayerBits, *, rows: int, repeats: int) -> int:
        words = ceil(shape.in_channels * shape.taps / self.dot_bits)
        tiles = ceil(rows / self.rows) * ceil(shape.out_channels / self.columns)
        compute = tiles * words * bits.weight * bits.activation
        return repeats * max(compute, rows * words * bits.activation, shape.out_channels * words * bits.weight)

    def _depthwise(self, shape: Geometry, bits: LayerBits, batch: int) -> int:
        channels = shape.groups * shape.out_channels
        places = channels * ceil(shape.taps / WINDOW)
        words = ceil(places / max(1, self.dot_bits // WINDOW))
        tiles = ceil(shape.positions / self.rows) * ceil(places / self.columns)
        compute = tiles * bits.weight * bits.activation
        return batch * max(compute, shape.positions * words * bits.activation, places * bits.weight)
