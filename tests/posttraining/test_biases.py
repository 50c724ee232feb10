"""Bias correction: the means of every layer's outputs are those of the float network."""

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.posttraining.biases import correct_bias
from mobo_mpq.posttraining.layerwise import Layer, attach_biases, layers_in_turn, own_bias
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, calibrate


def quantized(network: Network, batches: list[Tensor], bits: int = 3) -> QuantizedNetwork:
    made = apply_policy(network, Policy.uniform(network.layers, bits, 8))
    attach_biases(made)
    calibrate(made, batches)
    return made


def largest_shift(made: Network, network: Network, batches: list[Tensor]) -> float:
    return max(float(layer.shifts().abs().max()) for layer in layers_in_turn(made, network, batches))


def corrected(made: QuantizedNetwork, network: Network, batches: list[Tensor]) -> None:
    for layer in layers_in_turn(made, network, batches):
        correct_bias(layer)


def test_means_of_all_channels_of_all_layers_are_those_in_float(network: Network, batches: list[Tensor]) -> None:
    made = quantized(network, batches)
    assert largest_shift(made, network, batches) > 0.02
    corrected(made, network, batches)
    assert largest_shift(made, network, batches) < 1e-5  # later corrections do not undo earlier ones


def test_outputs_come_closer_to_the_float_networks(network: Network, batches: list[Tensor]) -> None:
    @torch.no_grad()
    def error(made: Network) -> float:
        return sum(float((made(x) - network(x)).square().mean()) for x in batches)

    made = quantized(network, batches)
    before = error(made)
    corrected(made, network, batches)
    assert error(made) < 0.8 * before


def test_nothing_is_left_to_correct_at_float(network: Network, batches: list[Tensor]) -> None:
    made = apply_policy(network, Policy.uniform(network.layers, 32, 32))
    attach_biases(made)
    corrected(made, network, batches)
    assert torch.allclose(made(batches[0]), network(batches[0]), atol=1e-6)


def test_biases_are_attached_where_there_were_none(network: Network, batches: list[Tensor]) -> None:
    made = apply_policy(network, Policy.uniform(network.layers, 32, 32))
    had = {name for name, _ in made.named_parameters()}
    attach_biases(made)
    assert {name for name, _ in made.named_parameters()} - had == {"pointwise.bias", "head.bias"}
    assert torch.equal(made(batches[0]), network(batches[0]))
    attach_biases(made)  # a second time adds nothing
    assert len(dict(made.named_parameters())) == len(had) + 2


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.relu(self.layer(x)))
        return y


def test_a_bias_of_two_calls_is_left_alone() -> None:
    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    network = Network.from_model(Twice(), x)
    made = quantized(network, [x])
    before = made.get_parameter("layer.bias").clone()
    corrected(made, network, [x])
    assert torch.equal(before, made.get_parameter("layer.bias"))
    nodes = {node.name: node for node in made.graph.nodes}
    assert all(own_bias(made, nodes[operator.node]) is None for operator in made.trace.operators)


@pytest.mark.parametrize("shape", [(8, 3), (8, 5, 3)])
def test_layers_of_sequences(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    network = Network.from_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), x)
    made = quantized(network, [x], bits=2)
    corrected(made, network, [x])
    assert largest_shift(made, network, [x]) < 1e-6


def test_a_layer_knows_where_its_channels_are(network: Network, batches: list[Tensor]) -> None:
    made = quantized(network, batches)
    found: dict[str, Layer] = {layer.operator.spec.name: layer for layer in layers_in_turn(made, network, batches)}
    assert {name: layer.axis for name, layer in found.items()} == {
        "stem.0": 1,
        "depthwise.0": 1,
        "pointwise": 1,
        "head": -1,
    }
    assert found["stem.0"].by_channel(torch.ones(6)).shape == (6, 1, 1)
    assert found["head"].by_channel(torch.ones(4)).shape == (4,)
