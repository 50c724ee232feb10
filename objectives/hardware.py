"""Hardware targets: versioned TOML documents in which every number has a source.

::

    schema = 1
    name = "my-board"
    description = "one sentence"
    clock_hz = 480e6

    [[bit_pairs]]                       # what a search may choose
    kinds = ["conv", "depthwise", "linear"]
    weight = [2, 4, 8]
    activation = [8]

    [latency]
    model = "mac_rate"                  # a registered formula; its numbers follow
    macs_per_cycle = { "2/8" = 2.5, "4/8" = 2.3, "8/8" = 2.1 }

    [sources]                           # field, or the table that holds it -> where its numbers come from
    clock_hz = "measured: ..."
    bit_pairs = "published: ..."
    "latency.macs_per_cycle" = "measured: ..."
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Importing a module of formulas registers them.
import mobo_mpq.objectives.bit_serial
import mobo_mpq.objectives.mac_rate  # noqa: F401
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.energy import ENERGIES, EnergyModel
from mobo_mpq.objectives.latency import FORMULAS, Count, LatencyModel, Positive
from mobo_mpq.policy import LayerBits

SCHEMA = 1

Text = Annotated[str, Field(min_length=1)]
M = TypeVar("M", bound=BaseModel)


class BitPairs(BaseModel):
    """Every combination of these weight and activation bits, for these kinds of layers."""

    model_config = ConfigDict(extra="forbid")

    kinds: list[OpKind] = Field(min_length=1)
    weight: list[Count] = Field(min_length=1)
    activation: list[Count] = Field(min_length=1)


class TargetDocument(BaseModel):
    """The document, but for the numbers of its formulas, which the formulas check themselves."""

    model_config = ConfigDict(extra="forbid")

    schema_: Any = Field(alias="schema")
    name: Text
    description: Text
    clock_hz: Positive
    batch: Count = 1
    bit_pairs: list[BitPairs] = Field(min_length=1)
    latency: dict[str, Any]
    energy: dict[str, Any] | None = None
    sources: dict[str, Text]


def target_names() -> list[str]:
    """Names of the built-in targets, sorted."""
    folder = files("mobo_mpq.objectives.targets")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_target(name_or_path: str | Path) -> HardwareTarget:
    """A built-in target by name, or a document of your own by path.

    Raises:
        UnknownName: when no built-in target is called so.
        InputError: when the document cannot be read, or is malformed: names the file and the field.
    """
    text = str(name_or_path)
    if text in target_names():
        document = files("mobo_mpq.objectives.targets") / f"{text}.toml"
        return _parse(document.read_text(encoding="utf-8"), f"{text}.toml")
    path = Path(text).expanduser()
    if path.suffix == ".csv":
        raise InputError(
            f"target '{text}' is a table of measured costs, which this version cannot read; "
            "give the name of a built-in target, or a .toml document"
        )
    if path.suffix != ".toml":
        raise UnknownName("target", text, target_names(), "A target of your own is the path of a .toml document.")
    try:
        return _parse(path.read_text(encoding="utf-8"), text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"target '{text}' cannot be read ({error}); expected the path of a .toml document") from None


def _parse(text: str, file: str) -> HardwareTarget:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"target document '{file}' is not TOML: {error}; correct that line") from None
    if raw.get("schema") != SCHEMA:
        raise InputError(
            f"target document '{file}': field 'schema' is {raw.get('schema')!r}; this version reads schema "
            f"{SCHEMA}: "
            f"write schema = {SCHEMA} at the top of the document"
        )
    document = _validated(TargetDocument, raw, file)
    latency = _latency(document, file)
    target = HardwareTarget(
        name=document.name,
        bit_pairs=_bit_pairs(document, latency, file),
        latency=latency,
        energy=_energy(document, latency, file),
        clock_hz=document.clock_hz,
        batch=document.batch,
        sources=dict(document.sources),
        description=document.description,
        schema=SCHEMA,
    )
    _check_sources(raw, document.sources, file)
    return target


def _validated(model: type[M], raw: Mapping[str, Any], file: str, table: str = "") -> M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ([table] if table else []) + list(first["loc"]))
        raise InputError(
            f"target document '{file}': field '{where}': {first['msg'].removeprefix('Value error, ')}; "
            f"expected what the built-in targets have there"
        ) from None


def _formula(known: Mapping[str, type[M]], raw: Mapping[str, Any], file: str, table: str) -> M:
    """The formula that a table names, with the numbers of that table."""
    name = raw.get("model")
    if name is None:
        raise InputError(f"target document '{file}': field '{table}.model' is missing; known: {', '.join(known)}")
    if name not in known:
        raise UnknownName(f"{table} model", str(name), known, f"Field '{table}.model' of target document '{file}'.")
    return _validated(known[name], {key: value for key, value in raw.items() if key != "model"}, file, table)


def _latency(document: TargetDocument, file: str) -> LatencyModel:
    formula = _formula(FORMULAS, document.latency, file, "latency")
    return LatencyModel(document.name, formula, document.clock_hz, document.batch)


def _energy(document: TargetDocument, latency: LatencyModel, file: str) -> EnergyModel | None:
    if document.energy is None:
        return None
    formula = _formula(ENERGIES, document.energy, file, "energy")
    if not isinstance(latency.formula, formula.stands_on):
        raise InputError(
            f"target document '{file}': field 'energy.model' is '{document.energy['model']}', which cannot "
            "stand on "
            f"latency model '{document.latency['model']}'; use 'active_power', or the latency model of that "
            "name"
        )
    return EnergyModel(formula, latency)


def _bit_pairs(document: TargetDocument, latency: LatencyModel, file: str) -> dict[OpKind, frozenset[tuple[int, int]]]:
    """Kind -> pairs; each must have a latency, or a search would fail in its middle."""
    pairs: dict[OpKind, frozenset[tuple[int, int]]] = {}
    for index, entry in enumerate(document.bit_pairs):
        choices = frozenset(product(entry.weight, entry.activation))
        for kind in entry.kinds:
            if kind not in latency.formula.kinds:
                raise InputError(
                    f"target document '{file}': field 'bit_pairs.{index}.kinds' has '{kind}', which latency "
                    "model "
                    f"'{document.latency['model']}' cannot price; remove it"
                )
            pairs[kind] = pairs.get(kind, frozenset()) | choices
        for weight, activation in sorted(choices):
            if not latency.formula.covers(LayerBits(weight, activation)):
                raise InputError(
                    f"target document '{file}': field 'bit_pairs.{index}' allows {weight} weight and "
                    f"{activation} "
                    f"activation bits, which have no latency; it covers {latency.formula.coverage}: remove "
                    "the pair"
                )
    return pairs


def _check_sources(raw: Mapping[str, Any], sources: Mapping[str, str], file: str) -> None:
    """Refuse a number without a source, and a source without a number."""
    used: set[str] = set()
    for path in _numbers({key: value for key, value in raw.items() if key not in ("schema", "sources")}):
        covering = [source for source in (".".join(path[:n]) for n in range(len(path), 0, -1)) if source in sources]
        if not covering:
            raise InputError(
                f"target document '{file}': field '{'.'.join(path)}' has no source; say in [sources], under "
                "that name "
                "or the name of the table that holds it, where its number comes from"
            )
        used.update(covering)
    for stale in sources.keys() - used:
        raise InputError(
            f"target document '{file}': field 'sources.{stale}' is the source of no number; correct or remove it"
        )


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all numbers in a document; the items of a list share the path of the list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, (*path, key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _numbers(item, path)
    elif isinstance(value, int | float):
        yield path
