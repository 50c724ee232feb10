"""Look-up tables: what each layer was measured to cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import LatencyFormula, nested_formula, register_latency
from mobo_mpq.objectives.profiles.records import Row, pairs_by_kind, read_table
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.policy import LayerBits

Rows = Mapping[LayerBits, Row]

_NAMED = 6
"""Layers of a table that a message names."""


@register_latency("table")
class Table(LatencyFormula):
    """Seconds of the row that has the layer's name, or else of the rows that have its shape.

    Rows of one shape that bear names of other layers stand for it by their mean; a row of that shape without a name
    goes before them. A layer that has no row at all is refused in every case: the table is of another model.

    Attributes:
        file: the table, relative to the document; see :mod:`mobo_mpq.objectives.profiles.records`.
        missing: what a layer costs at a pair that it has no row for: ``error``: it is refused; ``round_up``: as at the
            next wider pair that it has, the one of the smallest product of bits; ``model``: what ``fallback`` says.
        fallback: another formula with its numbers, as a ``[latency]`` table has them.
    """

    file: str = Field(min_length=1)
    missing: Literal["error", "round_up", "model"] = "error"
    fallback: dict[str, Any] | None = None

    _rows: tuple[Row, ...] = PrivateAttr(default=())
    _named: dict[str, Rows] = PrivateAttr(default_factory=dict)
    _shaped: dict[Shape, Rows] = PrivateAttr(default_factory=dict)
    _model: LatencyFormula | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        context = info.context or {}
        if (self.missing == "model") != (self.fallback is not None):
            raise ValueError('missing = "model" and a table [latency.fallback] belong together; give both, or neither')
        folder = Path(context.get("folder", Path()))
        rows = context.get("rows") or read_table(folder / Path(self.file).expanduser())
        batch = context.get("batch", rows[0].batch)
        if rows[0].batch != batch:
            raise InputError(
                f"table '{self.file}', line {rows[0].line}: batch {rows[0].batch}, where the target document has batch "
                f"{batch}; make them equal"
            )
        self._rows = rows
        self._model = None if self.fallback is None else nested_formula(Table, "fallback", self.fallback, context)
        self._index()
        return self

    def _index(self) -> None:
        shaped: dict[Shape, dict[LayerBits, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in self._rows:
            if row.layer:
                self._named.setdefault(row.layer, {})[row.bits] = row  # type: ignore[index]
            if row.shape is not None:
                shaped[row.shape][row.bits].append(row)
        self._shaped = {shape: {bits: _mean(rows) for bits, rows in of.items()} for shape, of in shaped.items()}

    @property
    def rows(self) -> tuple[Row, ...]:
        """The table's rows."""
        return self._rows

    @property
    def coverage(self) -> str:
        """The pairs of the table, in words."""
        pairs = sorted({f"{row.bits.weight}/{row.bits.activation}" for row in self._rows})
        more = {"error": "", "round_up": ", and narrower pairs", "model": ", and those of its fallback"}[self.missing]
        return f"{', '.join(pairs)} (weight/activation){more}"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether a layer of this kind may have a row for the pair, or for what stands in for it."""
        pairs = pairs_by_kind(self._rows).get(kind, frozenset())
        if self._model is not None and kind in self._model.kinds and self._model.covers(kind, bits):
            return True
        if self.missing == "round_up":
            return any(weight >= bits[0] and activation >= bits[1] for weight, activation in pairs)
        return (bits[0], bits[1]) in pairs

    def refusal(self, layer: LayerSpec, bits: LayerBits) -> str | None:
        """Why this layer cannot be priced at these bits."""
        rows = self.rows_of(layer)
        if rows is None:
            return (
                f"no row of '{self.file}' has its name, or its shape ({Shape.of(layer)}), so that the table may be of "
                f"another model; it has rows for {_some(self._known())}"
            )
        if self._row(rows, bits) is not None:
            return None
        if self._model is not None and layer.kind in self._model.kinds:
            return self._model.refusal(layer, bits)
        measured = ", ".join(f"{weight}/{activation}" for weight, activation in sorted(rows))
        return f"'{self.file}' has it at {measured} (weight/activation)"

    def rows_of(self, layer: LayerSpec) -> Rows | None:
        """The rows that price a layer, by bits; ``None`` when the table does not know it."""
        return self._named.get(layer.name) or self._shaped.get(Shape.of(layer))

    def row(self, layer: LayerSpec, bits: LayerBits) -> Row | None:
        """The row that prices a layer; ``None`` where the fallback does."""
        return self._row(self.rows_of(layer) or {}, bits)

    def _row(self, rows: Rows, bits: LayerBits) -> Row | None:
        bits = LayerBits(*bits)
        if bits in rows or self.missing != "round_up":
            return rows.get(bits)
        wider = [row for pair, row in rows.items() if pair[0] >= bits[0] and pair[1] >= bits[1]]
        return min(wider, key=lambda row: (row.bits[0] * row.bits[1], row.latency_s), default=None)

    def seconds(self, layer: LayerSpec, bits: LayerBits, batch: int, clock_hz: float | None = None) -> float:
        """Seconds of the batch that the table was measured at."""
        row = self.row(layer, bits)
        if row is not None:
            return row.latency_s
        assert self._model is not None  # refused otherwise
        return self._model.seconds(layer, bits, batch, clock_hz)

    def _known(self) -> list[str]:
        return list(dict.fromkeys(row.layer or str(row.shape) for row in self._rows))


def _mean(rows: list[Row]) -> Row:
    """One row for several of one shape and one pair: the one without a name, or the mean."""
    nameless = [row for row in rows if not row.layer]
    if nameless or len(rows) == 1:
        return (nameless or rows)[0]
    energies = [row.energy_j for row in rows if row.energy_j is not None]
    energy = sum(energies) / len(energies) if energies else None
    seconds = sum(row.latency_s for row in rows) / len(rows)
    return Row(rows[0].bits, seconds, shape=rows[0].shape, batch=rows[0].batch, energy_j=energy)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in listed[:_NAMED]) + more
