"""Bias correction: the means of every layer's outputs are those of the float network."""

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.posttraining.biases import correct_analytically, correct_bias
from mobo_mpq.posttraining.layerwise import Layer, attach_biases, layers_in_turn, own_bias
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, calibrate, quantizers


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


def test_a_bias_of_two_calls_is_left_alone(twice: nn.Module) -> None:
    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    network = Network.from_model(twice, x)
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


# --- from batch norms ------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """What batch norms tell is exact here: every channel of the middle is normal."""

    def __init__(self, rectified: bool) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.rectified = rectified
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mix(x))
        x = torch.relu(x) if self.rectified else x
        y: Tensor = self.head(self.depthwise(x).mean((2, 3)))
        return y


@pytest.mark.parametrize("rectified", [True, False])
def test_batch_norms_tell_what_the_data_would(rectified: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Normed(rectified)
        nn.init.normal_(model.norm.bias)
        nn.init.normal_(model.norm.weight)
    x = torch.randn(64, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mixed = model.mix(x)
        model.norm.running_mean.copy_(mixed.mean((0, 2, 3)))  # type: ignore[union-attr]
        model.norm.running_var.copy_(mixed.var((0, 2, 3)))  # type: ignore[union-attr]
    network = Network.from_model(model.eval(), x[:2])
    made = apply_policy(network, Policy.of({layer.name: (2, 32) for layer in network.layers}))
    before = made.get_parameter("depthwise.bias").clone()
    assert correct_analytically(made, network) == 1  # what the head reads has gone through a layer without a norm
    by_norm = (made.get_parameter("depthwise.bias") - before).detach()
    weight = tensor_of(network, "depthwise.weight")
    lost = weight - made.get_submodule(weight_quantizer(made, "depthwise.weight"))(weight)
    assert torch.allclose(by_norm, network_middle(model, x).mean(0) * lost.sum((1, 2, 3)), atol=0.01)
    assert float(by_norm.abs().max()) > 0.02


@torch.no_grad()
def network_middle(model: Normed, x: Tensor) -> Tensor:  # samples x 4
    middle = model.norm(model.mix(x))
    return (torch.relu(middle) if model.rectified else middle).movedim(1, -1).reshape(-1, 4)


def weight_quantizer(network: QuantizedNetwork, parameter: str) -> str:
    (name,) = (n for n, q in quantizers(network).items() if q.site is not None and q.site.tensor == parameter)
    return name


def test_without_batch_norms_there_is_nothing_to_tell() -> None:
    x = torch.rand(4, 3)
    network = Network.from_model(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), x)
    assert correct_analytically(quantized(network, [x]), network) == 0


def test_layers_behind_a_norm_are_corrected_and_those_behind_a_sum_are_not(
    network: Network, batches: list[Tensor]
) -> None:
    made = quantized(network, batches, bits=2)
    before = {name: parameter.clone() for name, parameter in made.named_parameters()}
    assert correct_analytically(made, network) == 2
    changed = {name for name, parameter in made.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"depthwise.0.bias", "pointwise.bias"}
