"""MPIC against the cycles that PLiNIO computes (tests/data/README.md)."""

import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits


def test_every_published_row_is_exact_to_the_sources_float32(published_cycles):
    target = load_target("mpic")
    rows = published_cycles("mcu_reference_cycles.csv", "mpic")
    assert len(rows) == 57
    for layer, bits, cycles in rows:
        ours = target.latency.layer_cost(layer, bits) * target.clock_hz
        # PLiNIO computes in float32; its layers here have no bias, which it would count as one MAC per output.
        assert ours == pytest.approx(cycles, rel=2**-23)


def test_energy_is_power_times_latency(published_cycles):
    target = load_target("mpic")
    for layer, bits, cycles in published_cycles("mcu_reference_cycles.csv", "mpic"):
        joules = cycles / 250e6 * 5.3825e-3
        assert target.energy.layer_cost(layer, bits) == pytest.approx(joules, rel=1e-6)


def test_both_operands_must_drop_together_to_gain():
    target = load_target("mpic")
    layer = LayerSpec("c", OpKind.CONV, (32, 3, 3, 3), (3, 112, 112), (32, 112, 112))
    eight = target.latency.layer_cost(layer, LayerBits(8, 8))
    assert eight / target.latency.layer_cost(layer, LayerBits(2, 8)) == pytest.approx(2.5 / 2.1)
    assert eight / target.latency.layer_cost(layer, LayerBits(2, 2)) == pytest.approx(6.5 / 2.1)


@pytest.mark.parametrize("bits", [(3, 8), (8, 16), (32, 32), (0, 8)])
def test_bits_outside_the_table_are_refused(bits):
    layer = LayerSpec("body.conv", OpKind.CONV, (4, 4, 3), (4, 10), (4, 8))
    message = (
        f"target 'mpic' has no cost for layer 'body.conv' at {bits[0]} weight and {bits[1]} activation bits; "
        "it covers 2/2, 4/2"
    )
    with pytest.raises(InputError, match=message):
        load_target("mpic").latency.layer_cost(layer, LayerBits(*bits))
    with pytest.raises(InputError, match=message):
        load_target("mpic").energy.layer_cost(layer, LayerBits(*bits))


@pytest.mark.parametrize("name", ["mpic", "bismo-edge", "bitfusion"])
def test_a_product_of_activations_is_refused(name):
    layer = LayerSpec("attention.scores", OpKind.MATMUL, (), (2, 8, 16), (2, 8, 8))
    with pytest.raises(InputError, match=f"target '{name}' cannot price layer 'attention.scores' of kind 'matmul'"):
        load_target(name).latency.layer_cost(layer, LayerBits(8, 8))
