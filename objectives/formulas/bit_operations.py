"""Time in proportion to bit operations: no device, a yardstick."""

from __future__ import annotations

from typing import ClassVar

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import LatencyFormula, Positive, register_latency
from mobo_mpq.objectives.size import BopsConvention, bit_operations
from mobo_mpq.policy import LayerBits


@register_latency("bit_operations")
class BitOperations(LatencyFormula):
    """``batch * bit operations / rate``.

    Attributes:
        convention: how bit operations are counted.
        bit_operations_per_s: of the imagined device.
    """

    kinds: ClassVar[frozenset[OpKind]] = frozenset(OpKind)

    convention: BopsConvention
    bit_operations_per_s: Positive

    @property
    def coverage(self) -> str:
        """The covered bits, in words."""
        return "1 to 32 bits"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether both operands are of 1 to 32 bits."""
        return all(1 <= width <= 32 for width in bits)

    def seconds(self, layer: LayerSpec, bits: LayerBits, batch: int, clock_hz: float | None) -> float:
        """Seconds for ``batch`` inferences."""
        return batch * bit_operations(layer, bits, self.convention) / self.bit_operations_per_s
