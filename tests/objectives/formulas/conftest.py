"""Published cycles of microcontrollers and accelerators (tests/data/README.md)."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import LayerBits

Row = tuple[LayerSpec, LayerBits, float]

KINDS = {"conv": OpKind.CONV, "dw": OpKind.DEPTHWISE, "fc": OpKind.LINEAR}
DATA = Path(__file__).parents[2] / "data"


def layer_of(row: dict[str, str]) -> LayerSpec:
    cin, cout, size, hw = (int(row[key]) for key in ("cin", "cout", "ksize", "out_hw"))
    groups, stride = cin if row["kind"] == "dw" else 1, int(row.get("stride", 1))
    if row["kind"] == "fc":
        return LayerSpec("fc", OpKind.LINEAR, (cout, cin), (cin,), (cout,))
    weight, space = (cout, cin // groups, size, size), (hw * stride, hw * stride)
    return LayerSpec("c", KINDS[row["kind"]], weight, (cin, *space), (cout, hw, hw), groups, stride)


@pytest.fixture
def published_cycles() -> Callable[[str, str], list[Row]]:
    """A function of a file and a model in it that gives the model's layers, bits and cycles."""

    def rows(file: str, model: str) -> list[Row]:
        with (DATA / file).open() as lines:
            return [
                (layer_of(row), LayerBits(int(row.get("w_bits", 8)), int(row["a_bits"])), float(row["cycles"]))
                for row in csv.DictReader(lines)
                if row["model"] == model
            ]

    return rows
