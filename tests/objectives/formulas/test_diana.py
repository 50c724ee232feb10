"""DIANA against the cycles that PLiNIO computes, and by hand where those do not reach."""

import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits

TARGET = load_target("diana")
DIGITAL, ANALOG = LayerBits(8, 8), LayerBits(2, 8)


def cycles(layer: LayerSpec, bits: LayerBits) -> float:
    return TARGET.latency.layer_cost(layer, bits) * TARGET.clock_hz


@pytest.mark.parametrize("model", ["diana_digital", "diana_analog_ternary"])
def test_every_published_row_is_exact_to_the_sources_float32(published_cycles, model):
    rows = published_cycles("mcu_reference_cycles.csv", model)
    assert len(rows) == 4
    for layer, bits, expected in rows:
        assert cycles(layer, bits) == pytest.approx(expected, rel=2**-23)


DEPTHWISE = LayerSpec("d", OpKind.DEPTHWISE, (32, 1, 3, 3), (32, 8, 20), (32, 8, 20), groups=32)
GROUPED = LayerSpec("g", OpKind.CONV, (32, 4, 3, 3), (16, 8, 20), (32, 8, 20), groups=4)


@pytest.mark.parametrize(
    ("layer", "bits", "expected"),
    [
        # 17 output channels are two tiles, a row of 20 is two, and there are 8 rows
        (
            LayerSpec("c", OpKind.CONV, (17, 3, 3, 3), (3, 8, 20), (17, 8, 20)),
            DIGITAL,
            2 * 3 * 2 * 8 * 9 + 160 * 20 / 8,
        ),
        (DEPTHWISE, DIGITAL, 32 * 2 * 8 * 9 + 160 * 64 / 8),
        (GROUPED, DIGITAL, 16 * 2 * 8 * 9 + 160 * 48 / 8),
        (LayerSpec("l", OpKind.LINEAR, (10, 64), (64,), (10,)), DIGITAL, 64 + 74 / 8),
        # 8 positions of 32 channels: 8 * 32 <= 512 columns, and (8 + 1 - 1) * 64 <= 1152 rows
        (LayerSpec("p", OpKind.CONV, (32, 16, 1, 1), (16, 4, 4), (32, 4, 4)), ANALOG, 8 * 16 + 16 / 8 * 18.2),
        # 3 x 3: (ox + 2) * 64 * 3 <= 1152 allows 4
        (LayerSpec("c", OpKind.CONV, (32, 16, 3, 3), (16, 4, 4), (32, 4, 4)), ANALOG, 8 * 144 + 16 / 4 * 18.2),
        # 3 high, 1 wide: ox * 64 * 3 <= 1152 allows 4 of 8 and 6; 1 high, 3 wide: (8 + 2) * 64 <= 1152 allows 8
        (LayerSpec("h", OpKind.CONV, (32, 16, 3, 1), (16, 4, 4), (32, 4, 4)), ANALOG, 8 * 48 + 16 / 4 * 18.2),
        (LayerSpec("w", OpKind.CONV, (32, 16, 1, 3), (16, 4, 4), (32, 4, 4)), ANALOG, 8 * 48 + 16 / 8 * 18.2),
        # larger than the array: one position at a time, twice the columns, 3 parts of the channels
        (LayerSpec("b", OpKind.CONV, (600, 300, 3, 3), (300, 4, 4), (600, 4, 4)), ANALOG, 8 * 2700 + 6 * 16 * 18.2),
    ],
)
def test_closed_forms_by_hand(layer, bits, expected):
    assert cycles(layer, bits) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layer", [DEPTHWISE, GROUPED], ids=["depthwise", "grouped"])
def test_the_analog_array_has_no_groups(layer):
    assert TARGET.pairs_of(layer) == {(8, 8)}
    with pytest.raises(InputError, match=f"layer '{layer.name}' at 2 .* this layer has {layer.groups} groups: choose"):
        TARGET.latency.layer_cost(layer, ANALOG)


def test_other_bits_are_refused():
    layer = LayerSpec("c", OpKind.CONV, (16, 16, 3, 3), (16, 8, 8), (16, 8, 8))
    with pytest.raises(InputError, match=r"it covers 8/8 \(digital\) and 2/8 \(analog, of ungrouped layers\): choose"):
        TARGET.latency.layer_cost(layer, LayerBits(4, 8))
