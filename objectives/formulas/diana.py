"""DIANA: a digital array of 8-bit units beside an analog in-memory array of ternary weights."""

from __future__ import annotations

from math import ceil

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.feature_map import output_map, window
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, Positive, register_latency
from mobo_mpq.policy import LayerBits

_DIGITAL = (8, 8)
_ANALOG = (2, 8)
_UNROLLED = (8, 4, 2, 1)


@register_latency("diana")
class Diana(CycleFormula):
    """The digital array at 8/8 bits, the analog one at 2/8; which of the two runs a layer follows from its bits.

    The form of PLiNIO's model (eml-eda/plinio, ``cost/diana_latency.py``), exactly. The analog array loads the weights
    of the layer, then computes all input and output channels of an output position in one step, or of up to 8 adjacent
    positions where rows and columns are left; it has no grouped convolutions. Its two-bit weights are ternary
    (-1, 0, 1), one level less than two bits can hold. A linear layer is a 1x1 convolution, its positions one row.

    Attributes:
        digital_channels: output channels that the digital array computes together.
        digital_width: adjacent outputs of one row that it computes together.
        store_elements: of inputs and outputs that it moves per cycle.
        analog_rows: of the analog array, which hold windows of the input.
        analog_columns: output channels times unrolled positions.
        analog_channels: input channels of one step.
        analog_least_channels: rows are set aside for at least so many input channels.
        analog_load_cycles: per element of a window of all input channels.
        analog_step_cycles: of one step.
    """

    digital_channels: Count
    digital_width: Count
    store_elements: Count
    analog_rows: Count
    analog_columns: Count
    analog_channels: Count
    analog_least_channels: Count
    analog_load_cycles: Count
    analog_step_cycles: Positive

    @property
    def coverage(self) -> str:
        """The covered pairs, in words."""
        return "8/8 (digital) and 2/8 (analog, of ungrouped layers)"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether one of the two arrays has these bits for layers of this kind."""
        pair = (bits[0], bits[1])
        return pair == _DIGITAL or (pair == _ANALOG and kind is not OpKind.DEPTHWISE)

    def refusal(self, layer: LayerSpec, bits: LayerBits) -> str | None:
        """Bits that neither array has, or groups on the analog one."""
        if layer.groups > 1 and (bits[0], bits[1]) == _ANALOG:
            return f"it covers {self.coverage}, and this layer has {layer.groups} groups"
        return super().refusal(layer, bits)

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        if (bits[0], bits[1]) == _DIGITAL:
            return batch * self._digital(layer)
        return batch * self._analog(layer)

    def _digital(self, layer: LayerSpec) -> float:
        shape = Geometry.of(layer)
        height, width = output_map(layer)
        inputs, outputs = shape.groups * shape.in_channels, shape.groups * shape.out_channels
        tiles = ceil(shape.out_channels / self.digital_channels) * ceil(width / self.digital_width) * height
        return tiles * inputs * shape.taps + shape.positions * (inputs + outputs) / self.store_elements

    def _analog(self, layer: LayerSpec) -> float:
        shape = Geometry.of(layer)
        steps = ceil(shape.out_channels / self.analog_columns) * ceil(shape.in_channels / self.analog_channels)
        steps_per_map = steps * shape.positions / self._unrolled(shape, *window(layer))
        load = self.analog_load_cycles * shape.in_channels * shape.taps
        return load + steps_per_map * self.analog_step_cycles

    def _unrolled(self, shape: Geometry, height: int, width: int) -> int:
        """Adjacent positions of one step; one even where the layer is larger than the array."""
        rows = max(self.analog_least_channels, shape.in_channels) * height
        for count in _UNROLLED:
            if count * shape.out_channels <= self.analog_columns and (count + width - 1) * rows <= self.analog_rows:
                return count
        return 1
