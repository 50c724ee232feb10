"""Devices whose kinds of layers run on kernels that have nothing in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError, ValidationInfo, model_validator

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import FORMULAS, LatencyFormula, register_latency
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
        self._of = {kind: _formula(kind, raw, info.context or {}) for kind, raw in tables.items() if raw is not None}
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


def _formula(kind: OpKind, raw: Mapping[str, Any], context: Mapping[str, Any]) -> LatencyFormula:
    name = raw.get("model")
    if name not in FORMULAS or FORMULAS[str(name)] is ByKind:
        known = ", ".join(sorted(other for other in FORMULAS if FORMULAS[other] is not ByKind))
        raise ValueError(f"{kind}.model is {name!r}; expected one of {known}")
    formula = FORMULAS[str(name)]
    if formula.needs_clock and context.get("clock_hz") is None:
        raise ValueError(f"{kind}.model '{name}' gives cycles, and the document has no clock_hz; write it")
    try:
        return formula.model_validate({key: value for key, value in raw.items() if key != "model"}, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (kind, *first["loc"]))
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
