"""Processors that compute a known number of multiply-accumulates per cycle at each pair of bits."""

from __future__ import annotations

from pydantic import Field

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import CycleFormula, PairKey, Positive, register_latency
from mobo_mpq.policy import LayerBits


@register_latency("mac_rate")
class MacRate(CycleFormula):
    """``cycles = batch * MACs / rate[weight bits / activation bits]``.

    The form in which PLiNIO models MPIC, a RISC-V core with mixed-precision dot products (Ottavi et al.,
    arXiv 2010.04073). Departure: PLiNIO counts one more MAC per output where a layer has a bias; here a bias
    is free.

    Attributes:
        macs_per_cycle: ``"WEIGHT/ACTIVATION"`` -> MACs per cycle, as in ``{"4/8": 2.3}``.
    """

    macs_per_cycle: dict[PairKey, Positive] = Field(min_length=1)

    @property
    def coverage(self) -> str:
        """The pairs of the table, in words."""
        return f"{', '.join(self.macs_per_cycle)} (weight/activation)"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether the table has the pair."""
        return f"{bits[0]}/{bits[1]}" in self.macs_per_cycle

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        return batch * layer.macs / self.macs_per_cycle[f"{bits.weight}/{bits.activation}"]
