"""NE16, the accelerator for convolutions in GAP9."""

from __future__ import annotations

from math import ceil

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.feature_map import output_map, window
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, register_latency
from mobo_mpq.policy import LayerBits


@register_latency("ne16")
class Ne16(CycleFormula):
    """Iterations over tiles of the output, each of which loads, multiplies bit plane by bit plane, scales and stores.

    The closed form of PLiNIO's model (eml-eda/plinio, ``cost/ne16_latency.py``) of the hardware in pulp-platform/ne16,
    exactly. With ``k`` output channels of an iteration and ``w`` weight bits, an iteration takes:

    - 3x3: ``inputs * (load_3x3 + 2 fifo + k w + update) + scale + k + store``
    - 1x1 and linear: ``inputs * (load_1x1 + 2 fifo + k + update) + scale + k + store``: all bit planes at once, so
      that weight bits do nothing
    - depthwise 3x3: ``load_3x3 + 2 fifo + k + k w + update + scale + k + store``

    where ``inputs`` counts the tiles of input channels. Extensions that the source does not have: the groups of a
    convolution run in turn, and the positions of a linear layer are one row of a map.

    Attributes:
        input_channels: of a tile; in depthwise layers the channels of an iteration, too.
        output_channels: of an iteration.
        tile: height and width of the output of an iteration.
        load_cycles_3x3: to load a tile of the input with its border.
        load_cycles_1x1: without one.
        fifo_cycles: until the first weight, or the first result, comes out.
        update_cycles: between tiles of input channels.
        scale_cycles: to begin to normalise and quantize.
        store_cycles: to write a tile of the output.
    """

    input_channels: Count
    output_channels: Count
    tile: Count
    load_cycles_3x3: Count
    load_cycles_1x1: Count
    fifo_cycles: Count
    update_cycles: Count
    scale_cycles: Count
    store_cycles: Count

    @property
    def coverage(self) -> str:
        """The covered bits, in words."""
        return "2 to 8 weight bits and 8 activation bits"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether weights are of 2 to 8 bits, and activations of 8."""
        return 2 <= bits[0] <= 8 and bits[1] == 8

    def refusal(self, layer: LayerSpec, bits: LayerBits) -> str | None:
        """Bits that are not covered, or a window that the engine does not have."""
        height, width = window(layer)
        windows = ((3, 3),) if layer.kind is OpKind.DEPTHWISE else ((1, 1), (3, 3))
        if (height, width) not in windows:
            return f"it covers windows of 1x1 and 3x3, depthwise of 3x3 alone, and this one is {height}x{width}"
        return super().refusal(layer, bits)

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        shape = Geometry.of(layer)
        height, width = output_map(layer)
        if layer.kind is OpKind.DEPTHWISE:
            repeats, channels, most = 1, shape.groups * shape.out_channels, self.input_channels
        else:
            repeats, channels, most = shape.groups, shape.out_channels, self.output_channels
        full, rest = divmod(channels, most)
        work = full * self._iteration(layer, shape, bits, most)
        if rest:
            work += self._iteration(layer, shape, bits, rest)
        return float(batch * repeats * ceil(height / self.tile) * ceil(width / self.tile) * work)

    def _iteration(self, layer: LayerSpec, shape: Geometry, bits: LayerBits, channels: int) -> int:
        finish = self.scale_cycles + channels + self.store_cycles
        fill = 2 * self.fifo_cycles + self.update_cycles
        if layer.kind is OpKind.DEPTHWISE:
            return self.load_cycles_3x3 + fill + channels + channels * bits[0] + finish
        inputs = ceil(shape.in_channels / self.input_channels)
        if shape.taps == 1:
            return inputs * (self.load_cycles_1x1 + fill + channels) + finish
        return inputs * (self.load_cycles_3x3 + fill + channels * bits[0]) + finish
