"""The long table: one measured latency per row. Read with a sentence for everything that is wrong, and written."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobo_mpq.errors import InputError
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.policy import LayerBits

MOST_BITS = 32
"""Of an operand."""

_KINDS = {
    **{word: OpKind.CONV for word in ("conv", "conv1d", "conv2d")},
    **{word: OpKind.DEPTHWISE for word in ("depthwise", "dw")},
    **{word: OpKind.LINEAR for word in ("linear", "fc", "dense", "gemm")},
}
_LATENCIES = {"latency_us": 1e-6, "latency_ms": 1e-3, "latency_s": 1.0}
_ENERGIES = {"energy_uj": 1e-6, "energy_mj": 1e-3, "energy_j": 1.0}
_OTHERS = ("target", "layer", *Shape._fields, "batch", "w_bits", "a_bits", "std_us", "n", "source")
COLUMNS = (*_OTHERS[:-3], "latency_us", "energy_uj", *_OTHERS[-3:])
"""Of the table, in the order in which they are written."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one layer costs at one pair of bits.

    Attributes:
        bits: of weight and input.
        latency_s: of the whole batch.
        layer: name in the network, or empty.
        shape: found by it where no row has the layer's name; ``None`` when only the name is known.
        batch: inferences that the cost refers to.
        energy_j: of the whole batch, where it was measured.
        std_s: spread of the repeats.
        repeats: that the latency is the middle of.
        source: machine, runtime, date.
        target: that was measured.
        line: of the file, for messages.
    """

    bits: LayerBits
    latency_s: float
    layer: str = ""
    shape: Shape | None = None
    batch: int = 1
    energy_j: float | None = None
    std_s: float | None = None
    repeats: int | None = None
    source: str = ""
    target: str = ""
    line: int = field(default=0, compare=False)

    @property
    def subject(self) -> str:
        """What was measured, in words."""
        return f"layer '{self.layer}'" if self.layer else str(self.shape)


def read_table(path: Path) -> tuple[Row, ...]:
    """Read a table.

    Raises:
        InputError: one sentence that names the file and the line: no table, an unknown column or unit, a value that is
            no cost or no number of bits, a repeated row, or rows of several targets or batches.
    """
    return parse_table(read_text(path, "table"), str(path))


def read_text(path: Path, what: str) -> str:
    """The text of a user's file, without a byte-order mark.

    Raises:
        InputError: when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"{what} '{path}' cannot be read ({reason}); give the path of a file") from None


def parse_table(text: str, file: str) -> tuple[Row, ...]:
    """The rows of a table's text; see :func:`read_table`."""
    reader = csv.DictReader(io.StringIO(text), strict=True, skipinitialspace=True)
    try:
        columns = [column.strip().lower() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        _check_header(columns, file)
        rows = [_Cells(values, file, reader.line_num).row() for values in reader]
    except csv.Error as error:
        raise InputError(f"table '{file}', line {reader.line_num}: {error}; correct that line") from None
    if not rows:
        raise InputError(f"table '{file}' has a header and no rows; expected one measured latency per row")
    _check_rows(rows, file)
    return tuple(rows)


def write_table(rows: Sequence[Row], target: str = "") -> str:
    """The text that :func:`parse_table` reads back. Columns that no row fills are left out."""
    written = [_written(row, target) for row in rows]
    used = [column for column in COLUMNS if any(cells.get(column, "") != "" for cells in written)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, used, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(written)
    return stream.getvalue()


def _written(row: Row, target: str) -> dict[str, object]:
    shape = {} if row.shape is None else row.shape._asdict()
    costs = {"latency_us": row.latency_s, "energy_uj": row.energy_j, "std_us": row.std_s}
    return {
        "target": row.target or target,
        "layer": row.layer,
        **{column: str(value) for column, value in shape.items()},
        "batch": row.batch,
        "w_bits": row.bits.weight,
        "a_bits": row.bits.activation,
        **{column: "" if value is None else f"{value * 1e6:.10g}" for column, value in costs.items()},
        "n": "" if row.repeats is None else row.repeats,
        "source": row.source,
    }


def _check_header(columns: Sequence[str], file: str) -> None:
    for unknown in [column for column in columns if column not in (*_OTHERS, *_LATENCIES, *_ENERGIES)]:
        raise InputError(
            f"table '{file}', line 1: column '{unknown}' is not known; expected columns among {', '.join(COLUMNS)}, "
            f"with the latency as {', '.join(_LATENCIES)}, and the energy as {', '.join(_ENERGIES)}"
        )
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise InputError(f"table '{file}', line 1: column '{twice}' comes twice; keep one")
    for names in (("w_bits",), ("a_bits",), tuple(_LATENCIES), ("layer", "op")):
        if not set(names) & set(columns):
            raise InputError(
                f"table '{file}', line 1: no column '{names[0]}'{''.join(f' or {name!r}' for name in names[1:])}; "
                "expected a header such as layer,w_bits,a_bits,latency_us"
            )
    for units in (_LATENCIES, _ENERGIES):
        given = [column for column in columns if column in units]
        if len(given) > 1:
            raise InputError(f"table '{file}', line 1: columns {' and '.join(given)} say the same; keep one")


class _Cells:
    """The cells of one line; every complaint names the line."""

    def __init__(self, values: Mapping[str | None, str | list[str] | None], file: str, line: int) -> None:
        self._where = f"table '{file}', line {line}"
        self._line = line
        missing = [column for column, value in values.items() if value is None]
        if None in values or missing:
            raise InputError(
                f"{self._where}: {'more' if None in values else 'fewer'} cells than the header has columns; write one "
                "cell per column, and texts with commas in quotes"
            )
        self._values = {str(column): str(value).strip() for column, value in values.items()}

    def row(self) -> Row:
        latency = self._cost(_LATENCIES)
        if latency is None:
            raise InputError(f"{self._where}: the latency is missing; write it, or remove the line")
        layer, shape = self._values.get("layer", ""), self._shape()
        if not layer and shape is None:
            raise InputError(f"{self._where}: neither a layer nor an op; name the layer, or give its shape")
        std = self._number("std_us", zero=True)
        return Row(
            LayerBits(self._whole("w_bits", most=MOST_BITS), self._whole("a_bits", most=MOST_BITS)),
            latency,
            layer,
            shape,
            self._whole("batch", default=1),
            self._cost(_ENERGIES),
            None if std is None else std * 1e-6,
            self._whole("n") if self._values.get("n") else None,
            self._values.get("source", ""),
            self._values.get("target", ""),
            self._line,
        )

    def _shape(self) -> Shape | None:
        word = self._values.get("op", "").lower()
        if not word:
            return None
        if word not in _KINDS:
            raise InputError(f"{self._where}: op is '{word}'; expected conv, depthwise or linear")
        kind = _KINDS[word]
        default = 1 if kind is OpKind.LINEAR else None
        sizes = {name: self._whole(name, default) for name in ("kh", "kw", "h_out", "w_out")}
        cin, cout, groups = self._whole("cin"), self._whole("cout"), self._whole("groups", 1)
        if kind is OpKind.DEPTHWISE and not self._values.get("groups"):
            groups = cin
        if cin % groups or cout % groups:
            raise InputError(f"{self._where}: {groups} groups do not divide {cin} and {cout} channels; correct them")
        if groups > 1 and kind is not OpKind.LINEAR:
            kind = OpKind.DEPTHWISE if cin == groups else OpKind.CONV
        return Shape(kind, cin, cout, stride=self._whole("stride", 1), groups=groups, **sizes)

    def _cost(self, units: Mapping[str, float]) -> float | None:
        for column, factor in units.items():
            value = self._number(column, zero=False)
            if value is not None:
                return value * factor
        return None

    def _number(self, column: str, *, zero: bool) -> float | None:
        text = self._values.get(column, "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            least = "of at least 0" if zero else "above 0"
            raise InputError(f"{self._where}: {column} is '{text}'; expected a finite number {least}")
        return value

    def _whole(self, column: str, default: int | None = None, most: int | None = None) -> int:
        text = self._values.get(column, "")
        if not text and default is not None:
            return default
        value = int(text) if text.isascii() and text.isdecimal() else 0
        if value < 1 or (most is not None and value > most):
            limit = "of at least 1" if most is None else f"from 1 to {most}"
            raise InputError(f"{self._where}: {column} is '{text}'; expected a whole number {limit}")
        return value


def _check_rows(rows: Sequence[Row], file: str) -> None:
    """Refuse rows that repeat, and files that mix targets or batches."""
    first = rows[0]
    seen: dict[tuple[str | Shape | None, LayerBits], int] = {}
    for row in rows:
        if row.batch != first.batch or row.target != first.target:
            what = "batch" if row.batch != first.batch else "target"
            mine, other = (getattr(one, what) or "none" for one in (row, first))
            raise InputError(
                f"table '{file}', line {row.line}: {what} {mine}, where line {first.line} has {other}; keep the rows "
                f"of one {what} in a file"
            )
        before = seen.setdefault((row.layer or row.shape, row.bits), row.line)
        if before != row.line:
            raise InputError(
                f"table '{file}', line {row.line} repeats line {before}: {row.subject} at {row.bits.weight} weight and "
                f"{row.bits.activation} activation bits; keep one of them"
            )
    if len({row.energy_j is None for row in rows}) > 1:
        bare = next(row for row in rows if row.energy_j is None)
        raise InputError(
            f"table '{file}', line {bare.line}: no energy, where other rows have one; give it for all rows, or for none"
        )


def pairs_by_kind(rows: Sequence[Row]) -> dict[OpKind, frozenset[tuple[int, int]]]:
    """Kind -> pairs that rows have; a row without a shape may be of a layer of any kind."""
    return {kind: frozenset(_of_kind(rows, kind)) for kind in (OpKind.CONV, OpKind.DEPTHWISE, OpKind.LINEAR)}


def _of_kind(rows: Sequence[Row], kind: OpKind) -> Iterator[tuple[int, int]]:
    for row in rows:
        if row.shape is None or row.shape.op is kind:
            yield (row.bits.weight, row.bits.activation)
