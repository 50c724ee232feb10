"""Processors that are limited by what they compute or by what they move, and by the start of each kernel."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import LatencyFormula, PairKey, Positive, register_latency
from mobo_mpq.policy import LayerBits

Share = Annotated[float, Field(strict=True, gt=0, le=1)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Bits = Annotated[int, Field(strict=True, ge=0)]


class PairRates(BaseModel):
    """What the processor reaches at one pair of bits.

    Attributes:
        macs_per_s: peak of multiply-accumulates; half of the operations per second that vendors print.
        efficiency: share of that peak that kernels reach.
        depthwise_macs_per_s: what depthwise layers reach, where it is known; ``efficiency`` does not lower it further.
        overhead_s: of this pair's kernels, where it differs from the processor's.
        bytes_per_s: that this pair's kernels move, where it differs from what the processor's bandwidth allows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    macs_per_s: Positive
    efficiency: Share = 1.0
    depthwise_macs_per_s: Positive | None = None
    overhead_s: Seconds | None = None
    bytes_per_s: Positive | None = None


@register_latency("roofline")
class Roofline(LatencyFormula):
    """``overhead + combine(MACs / (rate * efficiency), bytes / (bandwidth * efficiency))`` seconds.

    Williams, Waterman and Patterson, "Roofline", CACM 2009, with a constant for the start of a kernel. Computing and
    moving overlap on processors with many threads in flight (``max``); on one that waits for its loads they add up
    (``sum``). Weights are read once per batch, at their own bits; inputs once, at theirs; outputs are written once.
    A bias, and what padding adds, is free.

    Attributes:
        pairs: ``"WEIGHT/ACTIVATION"`` bits -> rates, as in ``{"8/8": {"macs_per_s": 65e12}}``.
        bytes_per_s: peak bandwidth of the memory.
        bandwidth_efficiency: share of that peak that kernels reach.
        overhead_s: of one layer, whatever it computes.
        combine: ``max`` or ``sum``.
        output_bits: of an element that is written; 0: as wide as the layer's input.
    """

    pairs: dict[PairKey, PairRates] = Field(min_length=1)
    bytes_per_s: Positive
    bandwidth_efficiency: Share = 1.0
    overhead_s: Seconds = 0.0
    combine: Literal["max", "sum"] = "max"
    output_bits: Bits = 0

    @property
    def coverage(self) -> str:
        """The pairs of the table, in words."""
        return f"{', '.join(self.pairs)} (weight/activation)"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether the table has the pair."""
        return f"{bits[0]}/{bits[1]}" in self.pairs

    def rates(self, bits: LayerBits) -> PairRates:
        """What is known of a pair that is covered."""
        return self.pairs[f"{bits[0]}/{bits[1]}"]

    def moved_bytes(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Bytes read and written for ``batch`` inferences when every tensor is moved once."""
        inputs = math.prod(layer.input_shape) * bits[1]
        outputs = math.prod(layer.output_shape) * (self.output_bits or bits[1])
        return (batch * (inputs + outputs) + layer.num_weights * bits[0]) / 8

    def seconds(self, layer: LayerSpec, bits: LayerBits, batch: int, clock_hz: float | None = None) -> float:
        """Seconds for ``batch`` inferences."""
        pair = self.rates(bits)
        rate = pair.macs_per_s * pair.efficiency
        if layer.kind is OpKind.DEPTHWISE and pair.depthwise_macs_per_s is not None:
            rate = pair.depthwise_macs_per_s
        bandwidth = (self.bytes_per_s if pair.bytes_per_s is None else pair.bytes_per_s) * self.bandwidth_efficiency
        compute, memory = batch * layer.macs / rate, self.moved_bytes(layer, bits, batch) / bandwidth
        overhead = self.overhead_s if pair.overhead_s is None else pair.overhead_s
        return overhead + (max(compute, memory) if self.combine == "max" else compute + memory)
