"""Devices whose kinds of layers run on kernels that have nothing in common."""

from __future__ import annotations

from typing import Any, Self

from pydantic import PrivateAttr, ValidationInfo, model_validator

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import LatencyFormula, nested_formula, register_latency
from mobo_mpq.policy import LayerBits


@register_latency("by_kind")
class ByKind(LatencyFormula):
    """Another formula for each kind of layer; a kind without one cannot be priced.

    Attributes:
        conv: a formula with its numbers, as a ``[latency]`` table has them; of convolutions.
        depthwise: likewise; that of ``conv`` when absent.
        linear: likewise.
    """

    conv: dict[str, Any] | None = None
    depthwise: dict[str, Any] | None = None
    linear: dict[str, Any] | None = None

    _of: dict[OpKind, LatencyFormula] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _make(self, info: ValidationInfo) -> Self:
        tables = {OpKind.CONV: self.conv, OpKind.DEPTHWISE: self.depthwise or self.conv, OpKind.LINEAR: self.linear}
        if not any(tables.values()):
            raise ValueError("no kind of layer has a formula; give at least one of conv, depthwise and linear")
        context = info.context or {}
        given = {kind: raw for kind, raw in tables.items() if raw is not None}
        self._of = {kind: nested_formula(ByKind, kind, raw, context) for kind, raw in given.items()}
        return self

    @property
    def coverage(self) -> str:
        """The pairs of every kind, in words."""
        return "; ".join(f"{kind} layers: {formula.coverage}" for kind, formula in self._of.items())

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether the formula of this kind does."""
        return kind in self._of and self._of[kind].covers(kind, bits)

    def refusal(self, layer: LayerSpec, bits: LayerBits) -> str | None:
        """Why the formula of this layer's kind cannot price it."""
        if layer.kind not in self._of:
            return f"it has a formula for {', '.join(self._of)} layers"
        return self._of[layer.kind].refusal(layer, bits)

    def seconds(self, layer: LayerSpec, bits: LayerBits, batch: int, clock_hz: float | None = None) -> float:
        """Seconds for ``batch`` inferences."""
        return self._of[layer.kind].seconds(layer, bits, batch, clock_hz)
