import math

import pytest

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.hardware import CostModel, cost_table
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.costs import COSTS, cost_model
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.size import BopsModel, SizeModel
from mobo_mpq.policy import LayerBits

EIGHT = LayerBits(8, 8)


def resnet18() -> list[LayerSpec]:
    """The 21 weighted layers of ResNet-18 at 224 x 224."""

    def conv(cin, cout, hw, size, stride=1):
        space = (hw * stride, hw * stride)
        return LayerSpec(f"{len(layers)}", OpKind.CONV, (cout, cin, size, size), (cin, *space), (cout, hw, hw))

    layers: list[LayerSpec] = []
    layers.append(conv(3, 64, 112, 7, 2))
    cin = 64
    for cout, hw in ((64, 56), (128, 28), (256, 14), (512, 7)):
        stride = 1 if cin == cout else 2
        layers.append(conv(cin, cout, hw, 3, stride))
        layers.append(conv(cout, cout, hw, 3))
        if cin != cout:
            layers.append(conv(cin, cout, hw, 1, stride))
        layers.append(conv(cout, cout, hw, 3))
        layers.append(conv(cout, cout, hw, 3))
        cin = cout
    layers.append(LayerSpec("fc", OpKind.LINEAR, (1000, 512), (512,), (1000,)))
    return layers


def test_published_counts_of_resnet18():
    layers = resnet18()
    bops = cost_table(BopsModel(), layers, [LayerBits(32, 32), EIGHT, LayerBits(4, 4)]).sum(axis=0)
    assert sum(layer.macs for layer in layers) == 1_814_073_344
    assert bops[0] == 1_814_073_344 * 1024
    # HAWQ-V3, model zoo: 1858 and 116 GBOPs; 34 is cut off from 34.7 less 8 bits in the first and last layer
    assert bops[0] / 1e9 == pytest.approx(1858, abs=0.5)
    assert bops[1] / 1e9 == pytest.approx(116, abs=0.5)
    size = cost_table(SizeModel(layers), layers, [LayerBits(32, 32), EIGHT, LayerBits(4, 8)]).sum(axis=0)
    # 11,689,512 parameters, of which 9,600 of batch norms and 1,000 biases have no bits
    assert size.tolist() == [4 * 11_678_912, 11_678_912, 11_678_912 / 2]


def test_a_shared_weight_is_stored_once_and_the_first_pays():
    shared = dict(kind=OpKind.LINEAR, weight_shape=(10, 6), input_shape=(6,), output_shape=(10,))
    layers = [
        LayerSpec("embedding", **shared, weight_group="tied"),
        LayerSpec("middle", **shared),
        LayerSpec("head", **shared, weight_group="tied"),
    ]
    size = SizeModel(layers)
    assert [size.layer_cost(layer, LayerBits(4, 8)) for layer in layers] == [30.0, 30.0, 0.0]


def test_activations_have_no_size_and_products_of_them_no_weight():
    scores = LayerSpec("scores", OpKind.MATMUL, (), (2, 8, 16), (2, 8, 8))
    assert SizeModel([scores]).layer_cost(scores, EIGHT) == 0.0
    assert BopsModel().layer_cost(scores, LayerBits(4, 8)) == 2 * 8 * 8 * 16 * 32


@pytest.mark.parametrize(
    ("layer", "terms"),
    [
        (LayerSpec("c", OpKind.CONV, (16, 8, 3, 3), (8, 6, 6), (16, 6, 6)), 72),
        (LayerSpec("g", OpKind.CONV, (16, 4, 3, 3), (8, 6, 6), (16, 6, 6), groups=2), 36),
        (LayerSpec("d", OpKind.DEPTHWISE, (8, 1, 3, 3), (8, 6, 6), (8, 6, 6), groups=8), 9),
        (LayerSpec("l", OpKind.LINEAR, (10, 64), (64,), (10,)), 64),
        (LayerSpec("m", OpKind.MATMUL, (), (2, 8, 16), (2, 8, 8)), 16),
    ],
)
def test_the_convention_of_uniq_counts_additions_too(layer, terms):
    model = BopsModel("uniq")
    for weight, activation in ((2, 4), (8, 8), (32, 32)):
        per_mac = weight * activation + weight + activation + math.log2(terms)
        assert model.layer_cost(layer, LayerBits(weight, activation)) == pytest.approx(layer.macs * per_mac)
        products = BopsModel("product").layer_cost(layer, LayerBits(weight, activation))
        assert products == layer.macs * weight * activation == BopsModel().layer_cost(layer, (weight, activation))


def test_unknown_convention():
    with pytest.raises(UnknownName, match="unknown convention of bit operations 'unique'; known: .* mean 'uniq'"):
        BopsModel("unique")


@pytest.mark.parametrize(
    ("word", "name", "unit"),
    [
        ("latency", "latency_s", "s"),
        ("energy", "energy_j", "J"),
        ("size", "size_bytes", "byte"),
        ("bops", "bops", "bit-op"),
    ],
)
def test_words_of_the_command_line(word, name, unit):
    layers = resnet18()
    model = cost_model(word, load_target("bitfusion"), layers)
    assert isinstance(model, CostModel)
    assert (model.name, model.unit) == (name, unit)
    assert model.layer_cost(layers[0], EIGHT) > 0
    assert word in COSTS


def test_energy_of_a_target_without_one_is_refused():
    message = (
        r"'bismo-edge' has no energy model.*\(bitfusion, bops, mpic\), or another objective \(latency, size, bops\)"
    )
    with pytest.raises(InputError, match=message):
        cost_model("energy", load_target("bismo-edge"), [])


def test_unknown_cost():
    with pytest.raises(UnknownName, match="unknown cost 'latancy'; known: .* Did you mean 'latency'"):
        cost_model("latancy", load_target("mpic"), [])
