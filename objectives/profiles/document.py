"""The target document that a table of measurements makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mobo_mpq.hardware import Pair
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.profiles.records import Row, pairs_by_kind

KINDS = (OpKind.CONV, OpKind.DEPTHWISE, OpKind.LINEAR)


def table_document(
    rows: Sequence[Row],
    *,
    name: str,
    file: str,
    description: str = "",
    source: str = "",
    pairs: Mapping[OpKind, frozenset[Pair]] | None = None,
) -> dict[str, Any]:
    """A target document whose costs are the rows of a table.

    Args:
        rows: of one batch.
        name: of the device.
        file: the table, relative to the document.
        description: one sentence.
        source: of the measurements; what the rows say of themselves when empty.
        pairs: kind -> pairs that a search may choose; those that the rows have when absent.
    """
    said = source or "; ".join(dict.fromkeys(row.source for row in rows if row.source)) or f"the rows of {file}"
    measured = f"measured: {said}".replace("measured: measured: ", "measured: ")
    document: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "description": description or f"measured latencies of {len(rows)} layers and pairs of bits, in {file}",
        "batch": rows[0].batch,
        "bit_pairs": bit_pairs(pairs_by_kind(rows) if pairs is None else pairs),
        "latency": {"model": "table", "file": file},
        "sources": {"batch": measured, "bit_pairs": measured, "latency": measured},
    }
    if rows[0].energy_j is not None:
        document["energy"] = {"model": "table"}
    return document


def bit_pairs(pairs: Mapping[OpKind, frozenset[Pair]], carrier: Pair | None = None) -> list[dict[str, Any]]:
    """Entries of ``[[bit_pairs]]``: kinds with the same pairs together, and activations with the same weights."""
    entries: list[dict[str, Any]] = []
    for own in dict.fromkeys(pairs[kind] for kind in KINDS if pairs.get(kind)):
        kinds = [str(kind) for kind in KINDS if pairs.get(kind) == own]
        weights = {a: tuple(sorted(w for w, other in own if other == a)) for a in sorted({a for _, a in own})}
        for same in dict.fromkeys(weights.values()):
            activations = [a for a, of in weights.items() if of == same]
            entry: dict[str, Any] = {"kinds": kinds, "weight": list(same), "activation": activations}
            entries.append(entry if carrier is None else {**entry, "carrier": list(carrier)})
    return entries
