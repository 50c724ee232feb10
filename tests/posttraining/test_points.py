"""Where further points go, and what they change."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.posttraining.layerwise import Layer, layers_in_turn
from mobo_mpq.posttraining.points import add_points, output_errors
from mobo_mpq.quant.multipoint import MultipointQuantizer
from mobo_mpq.quant.transform import apply_policy, calibrate, quantizers


class Products(nn.Module):
    """Layers of every form: convolution, depthwise, linear, and a product with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1, stride=2)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.fc = nn.Linear(6 * 16, 8)
        self.matrix, self.bias = nn.Parameter(torch.randn(8, 5) / 3), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.conv(x))))
        return torch.addmm(self.bias, torch.relu(self.fc(x.flatten(1))), self.matrix)


@pytest.fixture
def batches() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(16, 2, 8, 8), torch.randn(8, 2, 8, 8)]


@pytest.fixture
def network(batches: list[Tensor]) -> Network:
    return Network.from_model(Products(), batches[0])


def walk(
    network: Network, batches: list[Tensor], extra: int, activation: int = 8
) -> Iterator[tuple[Layer, MultipointQuantizer]]:
    """The layers at 2 bits, one after the other, before they get further points."""
    quantized = apply_policy(network, Policy.uniform(network.layers, 2, activation))
    calibrate(quantized, batches)
    specs = {layer.name: layer for layer in network.layers}
    wide = {}
    for name, quantizer in quantizers(quantized).items():
        if quantizer.site is not None and quantizer.site.role == "weight":
            shape = specs[quantizer.site.layers[0]].weight_shape
            shape = shape[::-1] if quantizer.axis == 1 else shape
            wide[quantizer.site.tensor] = MultipointQuantizer(quantizer, shape, extra)
            quantized.set_submodule(name, wide[quantizer.site.tensor])
    for layer in layers_in_turn(quantized, network, batches):
        yield layer, wide[layer.operator.weight]


def test_the_error_of_whitened_inputs_is_that_of_the_weight() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=False)
    x = torch.linalg.qr(torch.randn(60, 6))[0] * 60**0.5  # E[x x'] = 1
    network = Network.from_model(model, x)
    calls = 0
    for layer, quantizer in walk(network, [x], 2, activation=16):
        residual = model.weight.detach() - quantizer(model.weight.detach())
        torch.testing.assert_close(
            output_errors(layer, residual), residual.square().sum(1).double(), rtol=1e-4, atol=1e-6
        )
        calls += 1
    assert calls == 1


def test_what_follows_reads_the_outputs_of_all_points(network: Network, batches: list[Tensor]) -> None:
    seen = 0
    for layer, quantizer in walk(network, batches, 3):
        before = [output.clone() for output in layer.outputs]
        add_points(layer, quantizer, 2)
        assert quantizer.counts.sum() == len(quantizer.counts) + 3
        kept = layer.outputs
        quantized, seen = layer.network, seen + 1
        assert not torch.allclose(before[0], kept[0])
    assert seen == 4
    torch.testing.assert_close(quantized(batches[0]), kept[0], rtol=1e-4, atol=1e-5)  # the last layer's outputs


def test_further_points_bring_a_layer_nearer_to_its_float_outputs(network: Network, batches: list[Tensor]) -> None:
    def error(layer: Layer) -> float:
        pairs = zip(layer.outputs, layer.targets, strict=True)
        return float(sum((output - target).square().sum() for output, target in pairs))

    for layer, quantizer in walk(network, batches, 4):
        before = error(layer)
        add_points(layer, quantizer, 3)
        assert error(layer) < before


def test_the_channels_of_greatest_error_for_their_own_variance_get_them() -> None:
    torch.manual_seed(1)
    model = nn.Linear(16, 4, bias=False)
    with torch.no_grad():
        model.weight[0] = 1.0  # on the grid, and large: no error
        model.weight[1] = 100 * torch.randn(16)  # large, with the error of its neighbours in small
        model.weight[2, 1:] = 0.0  # one outlier ruins it
        model.weight[2, 0], model.weight[2, 1:5] = 10.0, 0.4
        model.weight[3] = 0.0
    x = torch.randn(200, 16)
    x[:, 0] = 0.01 * x[:, 0]  # the outlier reads next to nothing, so that what it ruins is nearly all
    for layer, quantizer in walk(Network.from_model(model, x), [x], 1):
        add_points(layer, quantizer, 2)
        assert quantizer.counts.tolist() == [1, 1, 2, 1]


def test_with_one_point_at_most_nothing_changes(network: Network, batches: list[Tensor]) -> None:
    for layer, quantizer in walk(network, batches, 2):
        add_points(layer, quantizer, 1)
        assert set(quantizer.counts.tolist()) == {1}
