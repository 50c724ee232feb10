"""Arm Ethos-U: arrays of 8-bit multipliers beside SRAM, fed with compressed weights from flash or DRAM."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, Positive, register_latency
from mobo_mpq.policy import LayerBits

WIDE = 16
"""Activation bits that halve the rate of multiply-accumulates."""


@register_latency("ethos_u")
class EthosU(CycleFormula):
    """The slowest of computing, moving activations through SRAM, and streaming weights, which overlap.

    ``max(MACs / (rate * utilization) * (2 if a == 16 else 1), activation bytes / SRAM, num_weights * w / 8 / weights)``

    Reconstructed: the rates and widths are those of Arm's compiler Vela, whose own estimate also knows blocks, buffers
    and the order of loops. Multipliers are of 8 bits, so that fewer weight bits compute no faster; weights are stored
    losslessly compressed, here to ``w`` bits each, which is what ``2**w`` equally frequent levels take. Inputs are read
    once, outputs written once, at the layer's activation bits.

    Attributes:
        macs_per_cycle: of convolutions and linear layers, at 8/8 bits.
        depthwise_macs_per_cycle: of depthwise layers, at 8/8 bits.
        utilization: the share of these rates that layers reach.
        sram_bytes_per_cycle: of activations.
        weight_bytes_per_cycle: from flash or DRAM.
    """

    macs_per_cycle: Count
    depthwise_macs_per_cycle: Count
    utilization: Annotated[float, Field(strict=True, gt=0, le=1)]
    sram_bytes_per_cycle: Positive
    weight_bytes_per_cycle: Positive

    @property
    def coverage(self) -> str:
        """The covered bits, in words."""
        return f"1 to 8 weight bits, and 8 or {WIDE} activation bits"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether weights are of at most 8 bits, and activations of 8 or 16."""
        return 1 <= bits[0] <= 8 and bits[1] in (8, WIDE)

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        shape = Geometry.of(layer)
        rate = self.depthwise_macs_per_cycle if layer.kind is OpKind.DEPTHWISE else self.macs_per_cycle
        compute = layer.macs / (rate * self.utilization) * (2 if bits[1] == WIDE else 1)
        outputs = shape.groups * shape.out_channels * shape.positions
        activations = (shape.inputs + outputs) * bits[1] / 8 / self.sram_bytes_per_cycle
        weights = layer.num_weights * bits[0] / 8 / self.weight_bytes_per_cycle
        return batch * max(compute, activations, weights)
