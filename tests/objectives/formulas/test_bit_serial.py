"""BISMO against the lookup table of HAQ (tests/data/README.md), and against a simulation, cycle by cycle."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import cost_table
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.formulas.bit_serial import Operand, _ordered
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits
from mobo_mpq.testing.networks import mobilenet_v2, traced

TARGET = load_target("bismo-cloud")
ARRAY = TARGET.latency.formula


def cycles(layer: LayerSpec, weight: int, activation: int) -> float:
    return TARGET.latency.layer_cost(layer, LayerBits(weight, activation)) * TARGET.clock_hz


def conv(cin: int, cout: int, hw: int, size: int = 1) -> LayerSpec:
    return LayerSpec("c", OpKind.CONV, (cout, cin, size, size), (cin, hw, hw), (cout, hw, hw))


def table() -> list[tuple[LayerSpec, int, int, int]]:
    rows = []
    with (Path(__file__).parents[2] / "data" / "haq_bit_serial_cycles_layers0to26.csv").open() as file:
        for row in csv.DictReader(file):
            cin, cout, size, hw, groups = (int(row[k]) for k in ("cin", "cout", "ksize", "out_hw", "groups"))
            kind = OpKind.DEPTHWISE if row["kind"] == "dw" else OpKind.CONV
            layer = LayerSpec("c", kind, (cout, cin // groups, size, size), (cin, hw, hw), (cout, hw, hw), groups)
            rows.append((layer, int(row["w_bits"]), int(row["a_bits"]), int(row["cycles"])))
    return rows


def test_the_table_of_haq_is_met_exactly():
    rows = table()
    assert len(rows) == 27 * 64
    assert [ARRAY.cycles(layer, LayerBits(w, a), 16) for layer, w, a, _ in rows] == [row[3] for row in rows]


def test_so_are_its_sums_over_all_layers():
    # the sums of the whole table at 1 to 8 bits everywhere; layers 27 to 52 are not in the extract
    layers = traced(mobilenet_v2, 3, 224, 224).layers
    uniform = [LayerBits(bits, bits) for bits in range(1, 9)]
    sums = [3433704, 7063425, 11103578, 15716150, 20916896, 26653434, 32886714, 39624933]
    assert cost_table(TARGET.latency, layers, uniform).sum(axis=0) * TARGET.clock_hz == pytest.approx(sums, rel=1e-12)


def simulated(outer: Operand, inner: Operand, words: int) -> int:
    """The pipeline, operation by operation."""

    def arrivals(operand: Operand) -> dict[tuple[int, int, int], int]:
        now, when = 0, {}
        for tile in range(operand.tiles):
            items = min(operand.tile, operand.items - tile * operand.tile)
            for word in range(words):
                for plane in range(operand.bits):
                    now += items
                    when[tile, word, plane] = now
        return when

    first, second, now = arrivals(outer), arrivals(inner), 0
    for i in range(outer.tiles):
        for j in range(inner.tiles):
            for word in range(words):
                for p in range(inner.bits):
                    for q in range(outer.bits):
                        now = max(now + 1, first[i, word, q], second[j, word, p])
    return now


operands = st.builds(Operand, st.integers(1, 40), st.integers(1, 9), st.integers(1, 8))


@settings(deadline=None)
@given(outer=operands, inner=operands, words=st.integers(1, 4))
def test_the_closed_form_is_the_pipeline(outer, inner, words):
    assert _ordered(outer, inner, words) == simulated(outer, inner, words)


def test_what_large_layers_are_bound_by():
    # computing: 13 x 40 tiles, 5 words, 8 x 8 planes, 16 images
    assert cycles(conv(1280, 640, 14), 8, 8) == pytest.approx(16 * 13 * 40 * 5 * 64, rel=0.05)
    # streaming activations, where channels are few
    assert cycles(conv(64, 16, 112), 2, 8) == pytest.approx(16 * 112 * 112 * 8, rel=0.01)
    # streaming weights, where positions are few
    assert cycles(conv(256, 1600, 2), 8, 2) == pytest.approx(16 * 1600 * 8, rel=0.01)


def test_kinds_of_layers():
    # the batch fills the rows of a linear layer, and the weights are streamed once
    dense = LayerSpec("fc", OpKind.LINEAR, (1000, 1280), (1280,), (1000,))
    assert cycles(dense, 8, 1) == pytest.approx(1000 * 5 * 8, rel=1e-3)
    # a linear layer over 64 positions is a 1x1 convolution
    tokens = LayerSpec("mlp", OpKind.LINEAR, (128, 256), (64, 256), (64, 128))
    assert cycles(tokens, 4, 4) == cycles(conv(256, 128, 8), 4, 4)
    # a 1d convolution is a 2d one of width 1
    one = LayerSpec("c", OpKind.CONV, (8, 4, 3), (4, 100), (8, 100))
    two = LayerSpec("c", OpKind.CONV, (8, 4, 3, 1), (4, 100, 1), (8, 100, 1))
    assert cycles(one, 3, 5) == cycles(two, 3, 5)
    # groups follow one another
    grouped = LayerSpec("c", OpKind.CONV, (48, 32, 3, 3), (64, 6, 6), (48, 6, 6), groups=2)
    assert cycles(grouped, 4, 8) == pytest.approx(2 * cycles(conv(32, 24, 6, 3), 4, 8))


def depthwise(channels: int, hw: int, size: int = 3) -> LayerSpec:
    shape = (channels, hw, hw)
    return LayerSpec("c", OpKind.DEPTHWISE, (channels, 1, size, size), shape, shape, groups=channels)


def test_depthwise_pays_for_activations_alone():
    layer = depthwise(96, 56)
    assert cycles(layer, 2, 8) == pytest.approx(cycles(layer, 8, 8), rel=1e-3)
    assert cycles(layer, 8, 2) == pytest.approx(cycles(layer, 8, 8) / 4, rel=1e-2)
    assert cycles(depthwise(96, 56, 5), 8, 8) == pytest.approx(2 * cycles(layer, 8, 8))  # 25 taps: two places of 16
    assert cycles(depthwise(40, 56), 8, 8) == pytest.approx(cycles(depthwise(48, 56), 8, 8), rel=1e-3)  # words of 16


def test_an_operand_that_is_too_large_is_computed_in_parts():
    small, unlimited = (ARRAY.model_copy(update={"buffer_words": words}) for words in (4096, None))
    layer, bits = conv(320, 1280, 7), LayerBits(8, 8)  # 20480 words of weights, 784 of activations
    part, last = conv(320, 256, 7), LayerBits(8, 8)
    assert small.cycles(layer, bits, 1) == 5 * unlimited.cycles(part, last, 1) > unlimited.cycles(layer, bits, 1)
    # 3 tiles in 2 parts: one of 2 tiles, and one of what is left
    halves = ARRAY.model_copy(update={"buffer_words": 200})
    parts = [LayerSpec("c", OpKind.CONV, (16, 16), (16, n), (16, n)) for n in (32, 8, 40)]
    costs = [unlimited.cycles(parts[0], bits, 1), unlimited.cycles(parts[1], bits, 1)]
    assert halves.cycles(parts[2], bits, 1) == sum(costs)


def test_edge_is_smaller_and_takes_one_image():
    edge = load_target("bismo-edge")
    layer = conv(64, 64, 16, 3)
    expected = 32 * 8 * 3 * 8 * 8  # tiles of 8 x 8, words, bit planes
    assert edge.latency.layer_cost(layer, LayerBits(8, 8)) * edge.clock_hz == pytest.approx(expected, rel=5e-3)
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
