"""Counts of published networks. Sources: torchvision's documentation; HAWQ-V3 (Zhen-Dong/HAWQ@1616df6, README and
model_zoo.md); the inference costs that QONNX's tests expect."""

from functools import partial

import pytest
import torch

from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.size import BopsModel, SizeModel
from mobo_mpq.policy import Policy
from mobo_mpq.testing import networks
from mobo_mpq.testing.networks import traced

RESNET50_V1 = partial(networks.resnet50, stride_first=True)


@pytest.mark.parametrize(
    ("network", "image", "layers", "macs", "parameters"),
    [
        (networks.resnet18, (3, 224, 224), 21, 1_814_073_344, 11_689_512),
        (networks.resnet50, (3, 224, 224), 54, 4_089_184_256, 25_557_032),
        (RESNET50_V1, (3, 224, 224), 54, 3_857_973_248, 25_557_032),
        (networks.mobilenet_v1, (3, 224, 224), 28, 568_740_352, 4_231_976),
        (networks.mobilenet_v2, (3, 224, 224), 53, 300_774_272, 3_504_872),
    ],
    ids=["resnet18", "resnet50 v1.5", "resnet50 v1", "mobilenet_v1", "mobilenet_v2"],
)
def test_counts_of_published_networks(network, image, layers, macs, parameters):
    found = traced(network, *image)
    assert (len(found.layers), found.macs, found.parameters) == (layers, macs, parameters)
    assert not found.unquantized


def cost(model, layers, policy) -> float:
    return sum(model.layer_cost(layer, policy[layer.name]) for layer in layers)


def with_ends(layers, bits: int, ends: int) -> Policy:
    """The same bits everywhere but in the first convolution and in the classifier."""
    inner = Policy.uniform(layers, bits, bits)
    for name in (layers[0].name, layers[-1].name):
        inner = inner.with_bits(name, weight=ends, activation=ends)
    return inner


@pytest.mark.parametrize(
    ("network", "bits", "ends", "bops", "mebibytes"),
    [
        (networks.resnet18, 32, 32, 1857.6e9, 44.6),
        (networks.resnet18, 8, 8, 116.10e9, 11.1),
        (networks.resnet18, 4, 8, 34.71e9, 5.8),
        (RESNET50_V1, 32, 32, 3950.6e9, 97.8),
        (RESNET50_V1, 8, 8, 246.91e9, 24.5),
        (RESNET50_V1, 4, 8, 67.49e9, 13.1),
    ],
)
def test_uniform_rows_of_hawq_v3(network, bits, ends, bops, mebibytes):
    layers = traced(network, 3, 224, 224).layers
    policy = with_ends(layers, bits, ends)
    assert cost(BopsModel(), layers, policy) == pytest.approx(bops, rel=2e-4)
    # theirs are printed to 0.1, and those of ResNet-50 are up to 0.8 % above its weights
    assert cost(SizeModel(layers), layers, policy) / 2**20 == pytest.approx(mebibytes, rel=0.008)


def test_qonnx_counts_of_tfc_and_cnv():
    tfc = traced(networks.tfc, 1, 28, 28).layers
    low = Policy.uniform(tfc, 2, 2)
    assert sum(layer.macs for layer in tfc) == 59_008
    assert cost(BopsModel(), tfc, low) == 236_032
    assert cost(SizeModel(tfc), tfc, low) * 8 == 118_016
    cnv = traced(networks.cnv, 3, 32, 32).layers
    low = Policy.uniform(cnv, 2, 2).with_bits(cnv[0].name, activation=8)
    assert (cnv[0].macs, sum(layer.macs for layer in cnv[1:])) == (1_555_200, 57_906_176)
    assert cost(BopsModel(), cnv, low) == 256_507_904
    assert cost(SizeModel(cnv), cnv, low) * 8 == 3_085_696


def test_widths_of_mobilenets():
    assert traced(partial(networks.mobilenet_v1, width=0.5), 3, 224, 224).parameters == 1_331_592
    # torchvision rounds channels to multiples of 8: 0.35 gives 16, 8, 8, 16, 24, 32, 56, 112 and 1280
    widths = [layer.weight_shape[0] for layer in traced(partial(networks.mobilenet_v2, width=0.35), 3, 96, 96).layers]
    assert widths[:4] == [16, 16, 8, 48] and widths[-4:-1] == [336, 112, 1280]


@pytest.mark.parametrize("network", [networks.resnet20, networks.small_mobilenet_v2])
@pytest.mark.parametrize("size", [8, 32])
def test_small_networks_take_small_images(network, size):
    found = traced(partial(network, 10, channels=1), 1, size, size)
    assert 0.25e6 < found.parameters < 0.35e6
    assert len(found.layers) > 20 and not found.unquantized
    kinds = {layer.kind for layer in found.layers}
    assert (OpKind.DEPTHWISE in kinds) == (network is networks.small_mobilenet_v2)
    with torch.no_grad():
        assert network(10, channels=1).eval()(torch.zeros(3, 1, size, size)).shape == (3, 10)
