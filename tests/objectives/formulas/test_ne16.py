"""NE16 against the cycles that PLiNIO computes, and by hand where those do not reach."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits

TARGET = load_target("ne16")


def cycles(layer: LayerSpec, weight: int) -> float:
    return TARGET.latency.layer_cost(layer, LayerBits(weight, 8)) * TARGET.clock_hz


def conv(cin: int, cout: int, size: int, height: int, width: int, groups: int = 1) -> LayerSpec:
    return LayerSpec(
        "c", OpKind.CONV, (cout, cin // groups, size, size), (cin, height, width), (cout, height, width), groups
    )


def test_every_published_row_is_exact(published_cycles):
    rows = published_cycles("mcu_reference_cycles.csv", "ne16")
    assert len(rows) == 43
    for layer, bits, expected in rows:
        assert cycles(layer, bits.weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "weight", "expected"),
    [
        (conv(64, 64, 3, 56, 56), 8, 908_276),
        (conv(64, 64, 3, 56, 56), 2, 353_780),
        (conv(64, 128, 1, 28, 28), 3, 125_600),
        # 33 output channels are an iteration of 32 and one of 1; 17 input channels are two tiles
        (conv(17, 33, 3, 3, 3), 4, (2 * (31 + 14 + 32 * 4) + 54) + (2 * (31 + 14 + 4) + 23)),
        (conv(16, 32, 1, 1, 1), 2, 19 + 14 + 32 + 54),
        (conv(16, 32, 1, 4, 2), 2, 2 * (19 + 14 + 32 + 54)),  # two tiles of a map of 4 x 2
        (conv(32, 64, 3, 3, 3, groups=2), 4, 2 * (31 + 14 + 32 * 4 + 54)),  # two groups of 16 -> 32, in turn
        (
            LayerSpec("d", OpKind.DEPTHWISE, (20, 1, 3, 3), (20, 7, 3), (20, 7, 3), groups=20),
            2,
            3 * ((31 + 14 + 16 + 32 + 22 + 16) + (31 + 14 + 4 + 8 + 22 + 4)),  # iterations of 16 and of 4 channels
        ),
        (LayerSpec("l", OpKind.LINEAR, (32, 16), (7, 16), (7, 32)), 5, 3 * (19 + 14 + 32 + 54)),  # 7 positions in a row
        (LayerSpec("s", OpKind.CONV, (32, 16, 1), (16, 4), (32, 4)), 8, 2 * (19 + 14 + 32 + 54)),
    ],
)
def test_closed_form_by_hand(layer, weight, expected):
    assert cycles(layer, weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (conv(3, 8, 5, 9, 9), "windows of 1x1 and 3x3, depthwise of 3x3 alone, and this one is 5x5"),
        (LayerSpec("d", OpKind.DEPTHWISE, (8, 1, 1, 1), (8, 4, 4), (8, 4, 4), groups=8), "this one is 1x1"),
        (LayerSpec("s", OpKind.CONV, (8, 8, 3), (8, 4), (8, 4)), "this one is 1x3"),
    ],
)
def test_windows_that_the_engine_lacks_are_refused(layer, words):
    with pytest.raises(InputError, match=f"target 'ne16' has no cost for layer '{layer.name}' at 8 .*{words}"):
        TARGET.latency.layer_cost(layer, LayerBits(8, 8))
    with pytest.raises(InputError, match=words):
        TARGET.pairs_of(layer)


@pytest.mark.parametrize("bits", [(1, 8), (8, 4), (16, 16)])
def test_bits_that_the_engine_lacks_are_refused(bits):
    with pytest.raises(InputError, match="it covers 2 to 8 weight bits and 8 activation bits: choose"):
        TARGET.latency.layer_cost(conv(8, 8, 3, 4, 4), LayerBits(*bits))


@settings(deadline=None, max_examples=60)
@given(
    cin=st.integers(1, 200),
    cout=st.integers(1, 200),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    size=st.sampled_from([1, 3]),
)
def test_more_work_never_costs_less(cin, cout, height, width, size):
    costs = [cycles(conv(cin, cout, size, height, width), weight) for weight in range(2, 9)]
    assert costs == sorted(costs)
    assert (len(set(costs)) == 1) == (size == 1)
    assert cycles(conv(cin, cout, size, width, height), 4) == costs[2]
    for larger in (conv(cin + 1, cout, size, height, width), conv(cin, cout + 1, size, height, width)):
        assert cycles(larger, 4) >= costs[2]
