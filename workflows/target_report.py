"""What devices can do: the list of those built in, and one of them with its numbers and their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mobo_mpq.hardware import HardwareTarget, Pair, Unpriced
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.energy import ENERGIES, EnergyModel
from mobo_mpq.objectives.hardware import load_target, target_names
from mobo_mpq.objectives.latency import FORMULAS, LatencyModel
from mobo_mpq.workflows.reporting import rows_table, short_bits, short_pairs, stdout

SCHEMA = 1

_MOST_NUMBERS = 24
"""So many numbers of one source are shown to people; JSON has them all."""


def target_rows() -> list[dict[str, Any]]:
    """One row per built-in target."""
    return [_row(load_target(name)) for name in target_names()]


def _row(target: HardwareTarget) -> dict[str, Any]:
    pairs = [pair for supported in target.bit_pairs.values() for pair in supported]
    return {
        "name": target.name,
        "weight_bits": sorted({weight for weight, _ in pairs}),
        "activation_bits": sorted({activation for _, activation in pairs}),
        "kinds": sorted(map(str, target.bit_pairs)),
        "latency": not isinstance(target.latency, Unpriced),
        "model": _latency_name(target),
        "energy": target.energy is not None,
        "batch": target.batch,
        "description": target.description,
    }


def show_target_rows(rows: list[dict[str, Any]]) -> None:
    """The list for people, in short: a target without a model has no latency."""
    hidden = ("kinds", "latency")
    bits = ("weight_bits", "activation_bits")
    shown = [
        {key: short_bits(value) if key in bits else value for key, value in row.items() if key not in hidden}
        for row in rows
    ]
    stdout.print(rows_table(shown))


def target_document(target: HardwareTarget) -> dict[str, Any]:
    """Everything that is known of a device, as data.

    ``kinds`` has, for each kind of layer, the ``native`` pairs of (weight, activation) bits, the ``carried`` ones with
    the pair that the device computes them with, and the pairs that are ``unpriced``: supported, of unknown latency.
    """
    return {
        "schema": SCHEMA,
        "name": target.name,
        "description": target.description,
        "batch": target.batch,
        "clock_hz": target.clock_hz,
        "kinds": {str(kind): _pairs(target, kind) for kind in sorted(target.bit_pairs)},
        "latency": _latency(target),
        "energy": _energy(target),
        "size": {
            "containers": list(target.storage.containers),
            "bytes_per_channel": target.storage.bytes_per_channel,
        },
        "sources": dict(target.sources),
    }


def _pairs(target: HardwareTarget, kind: OpKind) -> dict[str, Any]:
    carriers, priced = target.carriers.get(kind, {}), not isinstance(target.latency, Unpriced)
    every = sorted(target.bit_pairs[kind])
    return {
        "native": [list(pair) for pair in every if pair not in carriers],
        "carried": [{"pair": list(pair), "carrier": list(carriers[pair])} for pair in every if pair in carriers],
        "unpriced": [] if priced else [list(pair) for pair in every],
    }


def _latency_name(target: HardwareTarget) -> str | None:
    if not isinstance(target.latency, LatencyModel):
        return None
    formula = type(target.latency.formula)
    return next((name for name, known in FORMULAS.items() if known is formula), formula.__name__)


def _latency(target: HardwareTarget) -> dict[str, Any] | None:
    if not isinstance(target.latency, LatencyModel):
        return None
    formula = target.latency.formula
    constants = formula.model_dump(mode="json")
    return {"model": _latency_name(target), "covers": formula.coverage, "constants": constants}


def _energy(target: HardwareTarget) -> dict[str, Any] | None:
    if not isinstance(target.energy, EnergyModel):
        return None
    formula = target.energy.formula
    name = next((name for name, known in ENERGIES.items() if known is type(formula)), type(formula).__name__)
    return {"model": name, "constants": formula.model_dump(mode="json")}


# --- for people -------------------------------------------------------------------------------------------------------


def show_target(document: Mapping[str, Any]) -> None:
    """Print a :func:`target_document`: pairs per kind of layer, models, numbers with their sources."""
    stdout.print(f"{document['name']}: {document['description']}", markup=False, soft_wrap=True)
    rows = [_kind_row(kind, pairs) for kind, pairs in document["kinds"].items()]
    stdout.print(rows_table(rows, "weight × activation bits"))
    stdout.print(rows_table(list(_source_rows(document)), "numbers and their sources"))
    for line in _remarks(document):
        stdout.print(line, markup=False, soft_wrap=True)


def _kind_row(kind: str, pairs: Mapping[str, Any]) -> dict[str, str]:
    carried: dict[Pair, set[Pair]] = {}
    for entry in pairs["carried"]:
        carried.setdefault(tuple(entry["carrier"]), set()).add(tuple(entry["pair"]))
    native = short_pairs({tuple(pair) for pair in pairs["native"]})
    runs_as = "; ".join(f"{short_pairs(some)} as {w}/{a}" for (w, a), some in sorted(carried.items()))
    price = "no" if pairs["unpriced"] else "yes"
    return {"kind": kind, "computed with": native or "-", "run as a wider pair": runs_as or "-", "latency known": price}


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    latency, size, name = document["latency"], document["size"], document["name"]
    if latency is None:
        yield (
            f"latency: none published; measure the layers and import them with 'mobo-mpq profile import FILE --target "
            f"{name}', or search with --objectives size or bops"
        )
    else:
        yield f"latency: model '{latency['model']}', which covers {latency['covers']}"
    clock = f", at {document['clock_hz'] / 1e6:g} MHz" if document["clock_hz"] else ""
    yield f"costs: of a batch of {document['batch']}{clock}"
    yield f"energy: model '{document['energy']['model']}'" if document["energy"] else "energy: no source gives one"
    stored = (
        f"stored in {', '.join(map(str, size['containers']))} bits" if size["containers"] else "packed without gaps"
    )
    extra = f", and {size['bytes_per_channel']:g} bytes per output channel" if size["bytes_per_channel"] else ""
    yield f"size: weights are {stored}{extra}"


def _source_rows(document: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """One row per source: the field, or the table of the document that it speaks for, with the numbers there."""
    stated: dict[str, Any] = {key: document[key] for key in ("clock_hz", "batch", "size")}
    for table in ("latency", "energy"):
        stated[table] = document[table]["constants"] if document[table] else None
    numbers: dict[str, list[str]] = {field: [] for field in document["sources"]}
    for path, value in _leaves(stated):
        names = [".".join(path[:n]) for n in range(len(path), 0, -1)]
        source = next((name for name in names if name in numbers), None)
        if source is not None:  # else a default, which the document does not state
            below = ".".join(path[source.count(".") + 1 :])
            numbers[source].append(f"{below} = {_number(value)}" if below else _number(value))
    for field, found in numbers.items():
        more = f", and {len(found) - _MOST_NUMBERS} more: see --json" if len(found) > _MOST_NUMBERS else ""
        value = "see above" if field.startswith("bit_pairs") else ", ".join(found[:_MOST_NUMBERS]) + more
        yield {"field": field, "value": value or "-", "source": document["sources"][field]}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif value is not None:
        yield path, value


def _number(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_number, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
