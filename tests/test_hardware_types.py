import numpy as np

from mobo_mpq.hardware import CostModel, HardwareTarget, cost_table
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import LayerBits
from mobo_mpq.testing.toys import SerialLatency, WeightSize


def test_cost_tables_are_layers_by_options() -> None:
    layers = [LayerSpec("a", OpKind.LINEAR, (4, 2), (2,), (4,)), LayerSpec("b", OpKind.LINEAR, (1, 4), (4,), (1,))]
    options = [LayerBits(2, 8), LayerBits(8, 8), LayerBits(8, 4)]
    assert (cost_table(SerialLatency(), layers, options) * 1e9 == np.array([[128, 512, 256], [64, 256, 128]])).all()
    assert (cost_table(WeightSize(), layers, options) == np.array([[2, 8, 8], [1, 4, 4]])).all()


def test_cost_models_are_recognised_by_their_shape() -> None:
    assert isinstance(SerialLatency(), CostModel)
    assert not isinstance(object(), CostModel)


def test_a_target_needs_no_more_than_pairs_and_a_latency() -> None:
    target = HardwareTarget("mine", {OpKind.LINEAR: frozenset({(8, 8)})}, SerialLatency())
    assert (target.energy, target.clock_hz, target.batch, dict(target.sources)) == (None, None, 1, {})
