"""Hardware targets: loaded from the documents that :mod:`mobo_mpq.objectives.target_document` describes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import mobo_mpq.objectives.formulas
import mobo_mpq.objectives.table_energy  # noqa: F401 - as the formulas, it registers itself
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.hardware import CostModel, HardwareTarget, Pair, Storage, Unpriced
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.energy import ENERGIES, EnergyModel
from mobo_mpq.objectives.latency import FORMULAS, LatencyFormula, LatencyModel
from mobo_mpq.objectives.profiles.document import table_document
from mobo_mpq.objectives.profiles.records import read_table
from mobo_mpq.objectives.target_document import SCHEMA, TargetDocument, numbers
from mobo_mpq.policy import LayerBits

M = TypeVar("M", bound=BaseModel)


def target_names() -> list[str]:
    """Names of the built-in targets, sorted."""
    folder = files("mobo_mpq.objectives.targets")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_target(name_or_path: str | Path) -> HardwareTarget:
    """A built-in target by name; a document of your own, or a table of measured costs, by path.

    Raises:
        UnknownName: when no built-in target is called so.
        InputError: when the document or the table cannot be read, or is malformed: names the file and the field.
    """
    text = str(name_or_path)
    folder = Path() if text in target_names() else Path(text).expanduser().parent
    return parse_document(read_document(text), f"{text}.toml" if text in target_names() else text, folder)


def read_document(name_or_path: str | Path) -> dict[str, Any]:
    """The plain content of a target's document; of a table, that of the document that it stands for.

    Raises:
        UnknownName: when no built-in target is called so.
        InputError: when it cannot be read.
    """
    text = str(name_or_path)
    if text in target_names():
        return _toml((files("mobo_mpq.objectives.targets") / f"{text}.toml").read_text(encoding="utf-8"), text)
    path = Path(text).expanduser()
    if path.suffix == ".csv":
        return table_document(read_table(path), name=path.stem, file=path.name)
    if path.suffix != ".toml":
        hint = "A target of your own is the path of a .toml document, or of a .csv table."
        raise UnknownName("target", text, target_names(), hint)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"target '{text}' cannot be read ({error}); expected the path of a .toml document") from None
    return _toml(content, text)


def _toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"target document '{file}' is not TOML: {error}; correct that line") from None


def parse_document(raw: Mapping[str, Any], file: str, folder: Path) -> HardwareTarget:
    """The target that a document describes.

    Args:
        raw: its plain content.
        file: its name, for messages.
        folder: where formulas find the files that it names.

    Raises:
        InputError: naming the file and the field that is wrong.
    """
    if raw.get("schema") != SCHEMA:
        raise InputError(
            f"target document '{file}': field 'schema' is {raw.get('schema')!r}; this version reads schema {SCHEMA}: "
            f"write schema = {SCHEMA} at the top of the document, or install the version that it was written for"
        )
    document = _validated(TargetDocument, raw, file)
    latency = _latency(document, file, folder)
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
        carriers=_carriers(document, file),
        storage=Storage(tuple(sorted(document.size.containers)), document.size.bytes_per_channel),
    )
    _check_sources(raw, document.sources, file)
    return target


def _validated(
    model: type[M], raw: Mapping[str, Any], file: str, table: str = "", context: Mapping[str, Any] | None = None
) -> M:
    try:
        return model.model_validate(raw, context=dict(context or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ([table] if table else []) + list(first["loc"]))
        raise InputError(
            f"target document '{file}': field '{where}': {first['msg'].removeprefix('Value error, ')}; "
            f"expected what the built-in targets have there"
        ) from None


def _formula(
    known: Mapping[str, type[M]], raw: Mapping[str, Any], file: str, table: str, context: Mapping[str, Any]
) -> M:
    """The formula that a table names, with the numbers of that table; ``context`` is the document around it."""
    name = raw.get("model")
    if name is None:
        raise InputError(f"target document '{file}': field '{table}.model' is missing; known: {', '.join(known)}")
    if name not in known:
        raise UnknownName(f"{table} model", str(name), known, f"Field '{table}.model' of target document '{file}'.")
    own = {key: value for key, value in raw.items() if key != "model"}
    return _validated(known[name], own, file, table, context)


def _latency(document: TargetDocument, file: str, folder: Path) -> LatencyModel | Unpriced:
    if document.latency is None:
        return Unpriced(document.name)
    context = {"folder": folder, "batch": document.batch, "clock_hz": document.clock_hz}
    formula = _formula(FORMULAS, document.latency, file, "latency", context)
    if formula.needs_clock and document.clock_hz is None:
        raise InputError(
            f"target document '{file}': field 'clock_hz' is missing; latency model '{document.latency['model']}' gives "
            "cycles, which only a clock turns into seconds"
        )
    return LatencyModel(document.name, formula, document.clock_hz, document.batch, _carriers(document, file))


def _energy(document: TargetDocument, latency: CostModel, file: str) -> EnergyModel | None:
    if document.energy is None:
        return None
    if not isinstance(latency, LatencyModel):
        raise InputError(f"target document '{file}': field 'energy' has no [latency] to stand on; add that table")
    formula = _formula(ENERGIES, document.energy, file, "energy", {})
    if not isinstance(latency.formula, formula.stands_on):
        assert document.latency is not None
        raise InputError(
            f"target document '{file}': field 'energy.model' is '{document.energy['model']}', which cannot stand on "
            f"latency model '{document.latency['model']}'; use 'active_power', or the latency model of that name"
        )
    return EnergyModel(formula, latency)


def _carriers(document: TargetDocument, file: str) -> dict[OpKind, dict[Pair, Pair]]:
    """Kind -> pairs that another pair carries; that one must be native."""
    native: dict[OpKind, set[Pair]] = {}
    for entry in document.bit_pairs:
        for kind in entry.kinds:
            native.setdefault(kind, set()).update(entry.pairs if entry.carrier is None else ())
    carriers: dict[OpKind, dict[Pair, Pair]] = {}
    for index, entry in enumerate(document.bit_pairs):
        for kind in entry.kinds if entry.carrier is not None else ():
            if entry.carrier not in native[kind]:
                raise InputError(
                    f"target document '{file}': field 'bit_pairs.{index}.carrier' is {entry.carrier}, which '{kind}' "
                    "layers do not compute with themselves; name a pair of an entry without a carrier"
                )
            carriers.setdefault(kind, {}).update(dict.fromkeys(sorted(entry.pairs - native[kind]), entry.carrier))
    return carriers


def _bit_pairs(document: TargetDocument, latency: CostModel, file: str) -> dict[OpKind, frozenset[Pair]]:
    """Kind -> pairs; each must have a latency, or a search would fail in its middle."""
    pairs: dict[OpKind, frozenset[Pair]] = {}
    for index, entry in enumerate(document.bit_pairs):
        for kind in entry.kinds:
            pairs[kind] = pairs.get(kind, frozenset()) | entry.pairs
            if isinstance(latency, LatencyModel):
                native = entry.pairs if entry.carrier is None else ()
                _check_priced(latency.formula, kind, native, f"target document '{file}': field 'bit_pairs.{index}")
    return pairs


def _check_priced(formula: LatencyFormula, kind: OpKind, pairs: Iterable[Pair], where: str) -> None:
    if kind not in formula.kinds:
        raise InputError(f"{where}.kinds' has '{kind}', which latency model '{_name(formula)}' cannot price; remove it")
    for weight, activation in sorted(pairs):
        if not formula.covers(kind, LayerBits(weight, activation)):
            raise InputError(
                f"{where}' allows {weight} weight and {activation} activation bits, which have no latency; it covers "
                f"{formula.coverage}: remove the pair"
            )


def _name(formula: LatencyFormula) -> str:
    return next(name for name, known in FORMULAS.items() if type(formula) is known)


def _check_sources(raw: Mapping[str, Any], sources: Mapping[str, str], file: str) -> None:
    """Refuse a number without a source, and a source without a number."""
    used: set[str] = set()
    for path in numbers({key: value for key, value in raw.items() if key not in ("schema", "sources")}):
        covering = [source for source in (".".join(path[:n]) for n in range(len(path), 0, -1)) if source in sources]
        if not covering:
            raise InputError(
                f"target document '{file}': field '{'.'.join(path)}' has no source; say in [sources], under that name "
                "or the name of the table that holds it, where its number comes from"
            )
        used.update(covering)
    for stale in sources.keys() - used:
        raise InputError(
            f"target document '{file}': field 'sources.{stale}' is the source of no number; correct or remove it"
        )
