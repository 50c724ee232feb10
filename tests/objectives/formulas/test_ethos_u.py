"""Ethos-U: its three terms, and its computing against Arm's own estimate (tests/data/README.md)."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits

NAMES = ["ethos-u55-128", "ethos-u55-256", "ethos-u65-512"]


def cycles(target, layer, weight: int, activation: int) -> float:
    return target.latency.layer_cost(layer, LayerBits(weight, activation)) * target.clock_hz


COMPUTING = LayerSpec("c", OpKind.CONV, (64, 64, 3, 3), (64, 28, 28), (64, 28, 28))
MOVING = LayerSpec("p", OpKind.CONV, (8, 8, 1, 1), (8, 112, 112), (8, 112, 112))
STREAMING = LayerSpec("l", OpKind.LINEAR, (1000, 512), (512,), (1000,))
DEPTHWISE = LayerSpec("d", OpKind.DEPTHWISE, (96, 1, 3, 3), (96, 56, 56), (96, 56, 56), groups=96)


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("ethos-u55-256", COMPUTING, 28 * 28 * 64 * 576 / (256 * 0.7)),
        ("ethos-u55-128", COMPUTING, 28 * 28 * 64 * 576 / (128 * 0.7)),
        ("ethos-u55-256", DEPTHWISE, 56 * 56 * 96 * 9 / (32 * 0.7)),
        ("ethos-u55-256", MOVING, 2 * 8 * 112 * 112 / 8),
        ("ethos-u65-512", MOVING, 2 * 8 * 112 * 112 / 16),
        ("ethos-u55-128", STREAMING, 512_000 / 0.5),
        ("ethos-u55-256", STREAMING, 512_000),
        ("ethos-u65-512", STREAMING, 512_000 / 3.75),
    ],
)
def test_the_slowest_of_three(name, layer, expected):
    assert cycles(load_target(name), layer, 8, 8) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_weight_bits_shrink_the_stream_and_activation_bits_double_the_rest(name):
    target = load_target(name)
    for layer in (COMPUTING, MOVING, DEPTHWISE):
        assert cycles(target, layer, 2, 8) == cycles(target, layer, 8, 8)
        assert cycles(target, layer, 8, 16) == 2 * cycles(target, layer, 8, 8)
    assert cycles(target, STREAMING, 4, 8) == pytest.approx(cycles(target, STREAMING, 8, 8) / 2)
    assert cycles(target, STREAMING, 8, 16) == cycles(target, STREAMING, 8, 8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("activation", [8, 16])
def test_computing_agrees_with_arms_estimate(published_cycles, name, activation):
    target = load_target(name)
    formula = target.latency.formula.model_copy(update={"sram_bytes_per_cycle": 1e9, "weight_bytes_per_cycle": 1e9})
    rows = [row for row in published_cycles("ethos_u_vela_cycles.csv", name) if row[1].activation == activation]
    assert len(rows) == 72
    theirs = np.array([expected for _, _, expected in rows])
    ours = np.array([formula.cycles(layer, bits, 1) for layer, bits, _ in rows])
    assert spearmanr(ours, theirs).statistic > 0.94
    assert ours.sum() / theirs.sum() == pytest.approx(1, abs=0.12)
    assert np.median(np.abs(ours / theirs - 1)) < 0.28
    assert (ours / theirs).min() > 0.34
    assert (ours / theirs).max() < 1.44


@pytest.mark.parametrize("bits", [(8, 4), (16, 16), (8, 32)])
def test_bits_that_the_multipliers_lack_are_refused(bits):
    message = f"'ethos-u55-256' has no cost for layer 'c' at {bits[0]} .* it covers 1 to 8 weight bits, and 8 or 16"
    with pytest.raises(InputError, match=message):
        load_target("ethos-u55-256").latency.layer_cost(COMPUTING, LayerBits(*bits))
