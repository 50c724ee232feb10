"""From the files of profilers, and tables, to a target of one's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import HardwareTarget, Pair
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.formulas.table import Table
from mobo_mpq.objectives.hardware import load_target, parse_document, read_document
from mobo_mpq.objectives.profiles import litert, onnxruntime_profile, trtexec
from mobo_mpq.objectives.profiles.document import bit_pairs, table_document
from mobo_mpq.objectives.profiles.entries import Profile, parse_json
from mobo_mpq.objectives.profiles.matching import Matched, match
from mobo_mpq.objectives.profiles.records import Row, parse_table, read_text, write_table
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.policy import LayerBits

FORMATS = (trtexec.RUNTIME, onnxruntime_profile.RUNTIME, litert.RUNTIME)


def read_file(path: Path) -> Profile | tuple[Row, ...]:
    """A profile, or the rows of a table, whichever the file is.

    Raises:
        InputError: when it is neither, or broken.
    """
    text, file = read_text(path, "profile"), str(path)
    if text.lstrip()[:1] in ("[", "{") and not litert.recognises(text):
        content = parse_json(text, file)
        for runtime in (trtexec, onnxruntime_profile):
            if runtime.recognises(content):
                return runtime.read(content, file)
    elif litert.recognises(text):
        return litert.read(text, file)
    elif "w_bits" in text.partition("\n")[0].lower():
        return parse_table(text, file)
    raise InputError(
        f"file '{path}' is no profile that is known; expected one of {', '.join(FORMATS)}, or a table with the columns "
        "layer, w_bits, a_bits and latency_us"
    )


@dataclass(frozen=True)
class Measured:
    """What files say of a network's layers.

    Attributes:
        rows: one per layer and pair of bits.
        profiles: by file: what was found where.
        bits: of each of those files.
    """

    rows: tuple[Row, ...]
    profiles: Mapping[str, Matched] = field(default_factory=dict)
    bits: Mapping[str, LayerBits] = field(default_factory=dict)


def measure(
    files: Sequence[Path],
    bits: Sequence[LayerBits],
    layers: Sequence[LayerSpec] | None,
    *,
    maps: Mapping[str, str] | None = None,
    batch: int = 1,
    source: str = "",
) -> Measured:
    """Read files, and find the layers of a network in them.

    Args:
        files: profiles of one precision each, and tables.
        bits: of the profiles, in their order; tables say theirs.
        layers: of the network; needed for profiles, and checked in tables.
        maps: layer -> name of its operators in the profiles.
        batch: of the profiles.
        source: of the measurements.

    Raises:
        InputError: a file that cannot be used, or too many or too few bits.
        UnknownName: ``maps`` names a layer that the network has not.
    """
    read = {str(path): read_file(path) for path in files}
    profiles = {file: content for file, content in read.items() if isinstance(content, Profile)}
    if len(profiles) != len(bits) or len(read) != len(files):
        raise InputError(
            f"{len(profiles)} different profiles and {len(bits)} pairs of bits; a profile is of one precision of the "
            "whole network: give --bits WEIGHT/ACTIVATION once for each, in the order of the files"
        )
    if profiles and layers is None:
        raise InputError(f"profile '{next(iter(profiles))}' needs the layers of its network; give --task")
    matched, rows = {}, [row for content in read.values() if not isinstance(content, Profile) for row in content]
    if layers is not None:
        _check_known(rows, layers)
    for (file, profile), pair in zip(profiles.items(), bits, strict=True):
        assert layers is not None
        matched[file] = match(profile, layers, maps or {}, batch)
        said = f"{source or profile.runtime}, {Path(file).name}"
        rows += [
            Row(pair, m.seconds, m.layer.name, Shape.of(m.layer), batch, None, m.std_s, m.repeats, said)
            for m in matched[file].matches
        ]
    # the text is read again for its checks: rows of several files may repeat, or differ in their batch
    checked = parse_table(write_table([replace(row, target="") for row in rows]), " + ".join(read))
    return Measured(checked, matched, dict(zip(profiles, bits, strict=True)))


def _check_known(rows: Sequence[Row], layers: Sequence[LayerSpec]) -> None:
    """Refuse a table that does not know every layer, as one of another model does not."""
    names, shapes = {row.layer for row in rows}, {row.shape for row in rows}
    unknown = [layer.name for layer in layers if layer.name not in names and Shape.of(layer) not in shapes]
    if rows and unknown:
        raise InputError(
            f"the table has no row for {len(unknown)} of {len(layers)} layers, neither by name nor by shape, the first "
            f"being '{unknown[0]}'; it has rows for '{rows[0].layer or rows[0].shape}' and others, so that it may be "
            "of another model: measure that layer, or name its task"
        )


def target_document(
    measured: Measured, *, name: str, file: str, like: str | None = None, missing: str = "error", fallback: str = ""
) -> dict[str, Any]:
    """The document of a target whose costs are measured.

    Args:
        measured: its rows.
        name: of the target.
        file: the table, relative to the document.
        like: another target, whose supported pairs, carriers and storage it takes over as far as they have a cost.
        missing: what pairs without a row cost: ``error``, ``round_up``, or ``model``.
        fallback: the target whose latency formula prices them, for ``model``.

    Raises:
        UnknownName: no target is called ``like`` or ``fallback``.
        InputError: when the two have no pair in common.
    """
    document = table_document(measured.rows, name=name, file=file, source=_sources(measured))
    if missing != "error":
        document["latency"]["missing"] = missing
    if fallback:
        other = read_document(fallback)
        document["latency"]["fallback"] = other.get("latency")
        document["sources"]["latency.fallback"] = f"derived: target '{other.get('name')}', where nothing was measured"
        if "clock_hz" in other:
            document["clock_hz"] = other["clock_hz"]
            document["sources"]["clock_hz"] = f"derived: target '{other.get('name')}'"
    if like:
        _take_over(document, measured.rows, load_target(like), read_document(like))
    elif fallback:
        wider = load_target(fallback).bit_pairs
        own = {OpKind(kind) for entry in document["bit_pairs"] for kind in entry["kinds"]}
        document["bit_pairs"] += bit_pairs({kind: pairs for kind, pairs in wider.items() if kind in own})
        document["sources"]["bit_pairs"] += f"; and those of target '{fallback}'"
    return document


def _sources(measured: Measured) -> str:
    return "; ".join(dict.fromkeys(row.source for row in measured.rows if row.source))


def _take_over(document: dict[str, Any], rows: Sequence[Row], target: HardwareTarget, raw: Mapping[str, Any]) -> None:
    """Restrict a document to what another target supports, and take over how that stores weights."""
    numbers = {key: value for key, value in document["latency"].items() if key != "model"}
    covers = Table.model_validate(numbers, context={**document, "rows": rows}).covers
    native: dict[OpKind, frozenset[Pair]] = {}
    carried: dict[Pair, dict[OpKind, frozenset[Pair]]] = {}
    for kind, pairs in target.bit_pairs.items():
        carriers = target.carriers.get(kind, {})
        native[kind] = frozenset(p for p in pairs - carriers.keys() if covers(kind, LayerBits(*p)))
        for pair, carrier in carriers.items():
            if carrier in native[kind]:
                of_carrier = carried.setdefault(carrier, {})
                of_carrier[kind] = of_carrier.get(kind, frozenset()) | {pair}
    if not any(native.values()):
        supported = sorted({pair for pairs in target.bit_pairs.values() for pair in pairs})
        raise InputError(
            f"none of the measured pairs is one that target '{target.name}' computes with; it supports "
            f"{', '.join(f'{w}/{a}' for w, a in supported)} (weight/activation): measure at one of those"
        )
    document["bit_pairs"] = bit_pairs(native)
    for carrier, narrower in carried.items():
        document["bit_pairs"] += bit_pairs(narrower, carrier)
    document["sources"]["bit_pairs"] = f"{target.sources['bit_pairs']} (target '{target.name}')"
    if "size" in raw:
        document["size"] = raw["size"]
        document["sources"] |= {key: text for key, text in raw["sources"].items() if key.partition(".")[0] == "size"}


def write_target(document: Mapping[str, Any], rows: Sequence[Row], out: Path) -> list[Path]:
    """Write a table and the document beside it, once they are known to load; nothing is written otherwise.

    Raises:
        InputError: when ``out`` does not end in ``.toml``, or cannot be written.
    """
    table = check_out(out)
    texts = {out: tomli_w.dumps(document), table: write_table(rows, document["name"])}
    write_files(texts, lambda folder: parse_document(document, str(out), folder))
    return list(texts)


def write_files(texts: Mapping[Path, str], check: Callable[[Path], object]) -> None:
    """Write files of one folder whole, or none of them.

    Args:
        texts: by path.
        check: is called with a folder that holds them, before they come to their place; what it raises is passed on.

    Raises:
        InputError: when they cannot be written.
    """
    first = next(iter(texts))
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=first.parent) as staging:
            for path, text in texts.items():
                (Path(staging) / path.name).write_text(text, encoding="utf-8")
            check(Path(staging))
            for path in texts:
                os.replace(Path(staging) / path.name, path)
    except OSError as error:
        raise InputError(f"'{first}' cannot be written ({error.strerror}); give --out another path") from None


def check_out(out: Path) -> Path:
    """The table beside a document.

    Raises:
        InputError: when the document's name does not end in ``.toml``.
    """
    if out.suffix != ".toml":
        raise InputError(f"--out is '{out}'; expected a path that ends in .toml, such as my-board.toml")
    return out.with_suffix(".csv")
