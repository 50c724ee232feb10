"""Energy of multiplications and traffic against the figures of Horowitz (ISSCC 2014) and QKeras."""

import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.energy import EnergyModel, MacAndTraffic
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.latency import LatencyModel
from mobo_mpq.policy import LayerBits

BOPS = load_target("bops")
LAYER = LayerSpec("c", OpKind.CONV, (16, 8, 3, 3), (8, 6, 6), (16, 6, 6))
PICO = 1e-12


def without_traffic(**change: float) -> EnergyModel:
    """The energy of the built-in target, with memories that cost next to nothing."""
    formula = BOPS.energy.formula.model_copy(update={"activation_bit_j": 1e-30, "weight_bit_j": 1e-30, **change})
    return EnergyModel(formula, BOPS.latency)


@pytest.mark.parametrize(("bits", "multiply"), [(8, 0.2), (32, 3.1)])
def test_published_energies_of_integers(bits, multiply):
    per_mac = without_traffic().layer_cost(LAYER, LayerBits(bits, bits)) / LAYER.macs
    assert per_mac == pytest.approx((multiply + 0.1) * PICO, rel=1e-4)  # and an addition at 32 bits
    alone = without_traffic(accumulator_bits=8).layer_cost(LAYER, LayerBits(bits, bits)) / LAYER.macs
    assert alone == pytest.approx((multiply + 0.025) * PICO, rel=1e-4)  # published as 0.03, rounded


def test_traffic_by_hand():
    bits = LayerBits(4, 8)
    moved = BOPS.energy.layer_cost(LAYER, bits) - without_traffic().layer_cost(LAYER, bits)
    inputs, weights = 2 * 8 * 36 * 8 * 100 / 64, 16 * 8 * 9 * 4 * 1300 / 64
    assert moved == pytest.approx((inputs + weights) * PICO)


def test_weights_are_read_once_per_batch():
    latency = LatencyModel("two", BOPS.latency.formula, batch=2)
    bits = LayerBits(4, 8)
    weights = 16 * 8 * 9 * 4 * 20.3125 * PICO
    one, two = BOPS.energy.layer_cost(LAYER, bits), EnergyModel(BOPS.energy.formula, latency).layer_cost(LAYER, bits)
    assert two == pytest.approx(2 * one - weights)


def test_both_operands_of_a_product_of_activations_move():
    scores = LayerSpec("m", OpKind.MATMUL, (), (2, 8, 16), (2, 8, 4))  # (2, 8, 16) x (2, 16, 4)
    bits = LayerBits(4, 8)
    moved = BOPS.energy.layer_cost(scores, bits) - without_traffic().layer_cost(scores, bits)
    assert moved == pytest.approx(2 * (2 * 8 * 16 * 8 + 2 * 16 * 4 * 4) * 1.5625 * PICO)


def test_energy_follows_the_layers_bits():
    widths = (2, 4, 8, 16, 32)
    costs = [[BOPS.energy.layer_cost(LAYER, LayerBits(w, a)) for a in widths] for w in widths]
    for line in [*costs, *zip(*costs, strict=True)]:
        assert list(line) == sorted(set(line))
    assert isinstance(BOPS.energy.formula, MacAndTraffic)
    with pytest.raises(InputError, match="target 'bops' has no cost for layer 'c' at 64 weight"):
        BOPS.energy.layer_cost(LAYER, LayerBits(64, 8))
