"""The yardstick of bit operations, in both conventions."""

import tomllib
from importlib.resources import files

import pytest
import tomli_w

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.size import BopsModel
from mobo_mpq.policy import LayerBits

LAYERS = [
    LayerSpec("c", OpKind.CONV, (16, 8, 3, 3), (8, 6, 6), (16, 6, 6)),
    LayerSpec("d", OpKind.DEPTHWISE, (8, 1, 3, 3), (8, 6, 6), (8, 6, 6), groups=8),
    LayerSpec("l", OpKind.LINEAR, (10, 64), (64,), (10,)),
    LayerSpec("m", OpKind.MATMUL, (), (2, 8, 16), (2, 8, 8)),
]


def written(tmp_path, **latency):
    content = tomllib.loads((files("mobo_mpq.objectives.targets") / "bops.toml").read_text())
    content["latency"].update(latency)
    path = tmp_path / "yardstick.toml"
    path.write_text(tomli_w.dumps(content))
    return load_target(path)


@pytest.mark.parametrize("convention", ["product", "uniq"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: str(layer.kind))
def test_time_is_bit_operations_over_the_rate(tmp_path, convention, layer):
    target = written(tmp_path, convention=convention, bit_operations_per_s=2e9)
    for pair in target.pairs_of(layer):
        bits = LayerBits(*pair)
        expected = BopsModel(convention).layer_cost(layer, bits) / 2e9
        assert target.latency.layer_cost(layer, bits) == pytest.approx(expected, rel=1e-12)


def test_the_built_in_one_counts_products():
    target = load_target("bops")
    assert target.clock_hz is None
    assert target.latency.layer_cost(LAYERS[0], LayerBits(4, 8)) == pytest.approx(LAYERS[0].macs * 32 / 1e12)
    assert (32, 32) in target.pairs_of(LAYERS[0])


def test_an_unknown_convention_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"field 'latency.convention': Input should be 'product' or 'uniq'"):
        written(tmp_path, convention="hawq")


def test_bits_beyond_float_are_refused():
    with pytest.raises(InputError, match="target 'bops' has no cost for layer 'c' at 64 .* it covers 1 to 32 bits"):
        load_target("bops").latency.layer_cost(LAYERS[0], LayerBits(64, 8))
