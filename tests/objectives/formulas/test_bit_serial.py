"""BISMO against the lookup table of HAQ (tests/data/README.md)."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits

TARGET = load_target("bismo-cloud")


def cycles(layer: LayerSpec, weight: int, activation: int) -> float:
    return TARGET.latency.layer_cost(layer, LayerBits(weight, activation)) * TARGET.clock_hz


def table() -> list[tuple[str, LayerSpec, int, int, int]]:
    rows = []
    with (Path(__file__).parents[2] / "data" / "haq_bit_serial_cycles_layers0to26.csv").open() as file:
        for row in csv.DictReader(file):
            cin, cout, size, hw, groups = (int(row[k]) for k in ("cin", "cout", "ksize", "out_hw", "groups"))
            kind = OpKind.DEPTHWISE if row["kind"] == "dw" else OpKind.CONV
            layer = LayerSpec("c", kind, (cout, cin // groups, size, size), (cin, hw, hw), (cout, hw, hw), groups)
            rows.append((row["kind"], layer, int(row["w_bits"]), int(row["a_bits"]), int(row["cycles"])))
    return rows


def test_the_table_of_haq_is_followed():
    rows = table()
    assert len(rows) == 27 * 64
    published = np.array([row[4] for row in rows], dtype=float)
    ours = np.array([cycles(layer, w, a) for _, layer, w, a, _ in rows])
    assert spearmanr(published, ours).statistic >= 0.998
    for bits in (8, 4, 2):
        uniform = np.array([w == a == bits for _, _, w, a, _ in rows])
        assert ours[uniform].sum() == pytest.approx(published[uniform].sum(), rel=0.02)


@pytest.mark.parametrize(("kind", "median"), [("conv", 0.003), ("dw", 0.003), ("pw", 0.05)])
def test_each_kind_of_layer_is_within_its_known_error(kind, median):
    errors = [abs(cycles(layer, w, a) / known - 1) for name, layer, w, a, known in table() if name == kind]
    assert np.median(errors) <= median


def test_closed_forms():
    # 2 x 5 tiles of 16 x 16, 2 words of 256 bits, 4 x 8 bit planes, 16 images
    square = LayerSpec("c", OpKind.CONV, (80, 32, 3, 3), (32, 6, 5), (80, 6, 5))
    assert cycles(square, 4, 8) == pytest.approx(16 * 2 * 5 * 2 * 4 * 8)
    # one row of 16 images: the batch fills the rows, and the weights are streamed once
    dense = LayerSpec("fc", OpKind.LINEAR, (1000, 1280), (1280,), (1000,))
    assert cycles(dense, 8, 1) == pytest.approx(1000 * 5 * 8)
    assert cycles(dense, 2, 8) == pytest.approx(max(63 * 5 * 2 * 8, 1000 * 5 * 2))
    # a linear layer over 64 positions is a 1x1 convolution
    tokens = LayerSpec("mlp", OpKind.LINEAR, (128, 256), (64, 256), (64, 128))
    as_conv = LayerSpec("mlp", OpKind.CONV, (128, 256, 1, 1), (256, 8, 8), (128, 8, 8))
    assert cycles(tokens, 4, 4) == cycles(as_conv, 4, 4)
    # a 1d convolution is a 2d one of width 1
    one = LayerSpec("c", OpKind.CONV, (8, 4, 3), (4, 100), (8, 100))
    two = LayerSpec("c", OpKind.CONV, (8, 4, 3, 1), (4, 100, 1), (8, 100, 1))
    assert cycles(one, 3, 5) == cycles(two, 3, 5)
    # groups follow one another
    half = LayerSpec("c", OpKind.CONV, (24, 32, 3, 3), (32, 6, 5), (24, 6, 5))
    grouped = LayerSpec("c", OpKind.CONV, (48, 32, 3, 3), (64, 6, 5), (48, 6, 5), groups=2)
    assert cycles(grouped, 4, 8) == pytest.approx(2 * cycles(half, 4, 8))


def test_depthwise_pays_for_activations_alone():
    layer = LayerSpec("c", OpKind.DEPTHWISE, (96, 1, 3, 3), (96, 56, 56), (96, 56, 56), groups=96)
    assert cycles(layer, 2, 8) == cycles(layer, 8, 8)
    assert cycles(layer, 8, 2) == pytest.approx(cycles(layer, 8, 8) / 4)
    wide = LayerSpec("c", OpKind.DEPTHWISE, (96, 1, 5, 5), (96, 56, 56), (96, 56, 56), groups=96)
    assert cycles(wide, 8, 8) == pytest.approx(2 * cycles(layer, 8, 8))  # 25 taps take two places of 16


def test_edge_is_smaller_and_takes_one_image():
    edge = load_target("bismo-edge")
    layer = LayerSpec("c", OpKind.CONV, (64, 64, 3, 3), (64, 16, 16), (64, 16, 16))
    expected = 32 * 8 * 3 * 8 * 8  # tiles of 8 x 8, words, bit planes
    assert edge.latency.layer_cost(layer, LayerBits(8, 8)) * edge.clock_hz == pytest.approx(expected)
    assert (edge.batch, TARGET.batch, edge.energy, TARGET.energy) == (1, 16, None, None)


@pytest.mark.parametrize("bits", [(9, 8), (8, 0), (16, 16)])
def test_bits_beyond_eight_are_refused(bits):
    layer = LayerSpec("stem", OpKind.CONV, (4, 4, 3, 3), (4, 8, 8), (4, 8, 8))
    with pytest.raises(InputError, match=rf"'bismo-cloud' .* 'stem' at {bits[0]} weight .* it covers 1 to 8 bits"):
        TARGET.latency.layer_cost(layer, LayerBits(*bits))


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from([OpKind.CONV, OpKind.DEPTHWISE, OpKind.LINEAR]),
    cin=st.integers(1, 300),
    cout=st.integers(1, 300),
    size=st.integers(1, 7),
    hw=st.integers(1, 40),
    name=st.sampled_from(["bismo-edge", "bismo-cloud", "bitfusion"]),
)
def test_fewer_bits_never_cost_more(kind, cin, cout, size, hw, name):
    layer = {
        OpKind.CONV: LayerSpec("c", OpKind.CONV, (cout, cin, size, size), (cin, hw, hw), (cout, hw, hw)),
        OpKind.DEPTHWISE: LayerSpec("d", OpKind.DEPTHWISE, (cin, 1, size), (cin, hw), (cin, hw), groups=cin),
        OpKind.LINEAR: LayerSpec("l", OpKind.LINEAR, (cout, cin), (hw, cin), (hw, cout)),
    }[kind]
    target = load_target(name)
    for model in (target.latency, target.energy):
        if model is None:
            continue
        costs = np.array([[model.layer_cost(layer, LayerBits(w, a)) for a in range(1, 9)] for w in range(1, 9)])
        assert (costs > 0).all()
        assert (np.diff(costs, axis=0) >= 0).all()
        assert (np.diff(costs, axis=1) >= 0).all()
