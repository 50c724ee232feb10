"""GAP8 against the cycles that PLiNIO computes, and by hand where those do not reach."""

import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.costs import cost_model
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits

TARGET = load_target("gap8")
EIGHT = LayerBits(8, 8)


def cycles(layer: LayerSpec) -> float:
    return TARGET.latency.layer_cost(layer, EIGHT) * TARGET.clock_hz


def test_every_published_row_is_exact(published_cycles):
    rows = published_cycles("mcu_reference_cycles.csv", "gap8")
    assert len(rows) == 9
    for layer, _, expected in rows:
        assert cycles(layer) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 3 pairs of columns, 2 turns of 8 rows; 27 elements of a window are 7 dot products; 5 channels are 2 blocks
        (LayerSpec("c", OpKind.CONV, (5, 3, 3, 3), (3, 9, 5), (5, 9, 5)), 6 * (54 + 2 * (15 + 14 * 7))),
        (LayerSpec("c", OpKind.CONV, (4, 4, 1, 1), (4, 1, 1), (4, 1, 1)), 8 + 15 + 14),
        (LayerSpec("g", OpKind.CONV, (8, 4, 1, 1), (8, 1, 1), (8, 1, 1), groups=2), 2 * (8 + 15 + 14)),
        (LayerSpec("s", OpKind.CONV, (4, 4, 1), (4, 6), (4, 6)), 3 * (8 + 15 + 14)),
        (LayerSpec("d", OpKind.DEPTHWISE, (6, 1, 3, 5), (6, 4, 7), (6, 4, 7), groups=6), 4 * 2 * 28 * 15),
        (LayerSpec("l", OpKind.LINEAR, (5, 3), (7, 3), (7, 5)), 7 * 2 * 2),
    ],
)
def test_closed_form_by_hand(layer, expected):
    assert cycles(layer) == pytest.approx(expected, rel=1e-12)


def test_fewer_bits_save_memory_alone():
    layer = LayerSpec("c", OpKind.CONV, (16, 16, 3, 3), (16, 8, 8), (16, 8, 8))
    size = cost_model("size", TARGET, [layer])
    for pair in TARGET.pairs_of(layer):
        assert TARGET.latency.layer_cost(layer, LayerBits(*pair)) == TARGET.latency.layer_cost(layer, EIGHT)
        assert size.layer_cost(layer, LayerBits(*pair)) == 16 * 16 * 9 * pair[0] / 8
    assert TARGET.pairs_of(layer) == {(w, a) for w in (2, 4, 8) for a in (2, 4, 8)}


def test_what_no_kernel_computes_is_refused():
    layer = LayerSpec("c", OpKind.CONV, (16, 16, 3, 3), (16, 8, 8), (16, 8, 8))
    with pytest.raises(InputError, match="'gap8' has no cost for layer 'c' at 3 weight .* it covers 8 weight and 8"):
        TARGET.latency.layer_cost(layer, LayerBits(3, 8))
