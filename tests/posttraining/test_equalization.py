"""Cross-layer equalization: the same function, equal ranges."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.posttraining.equalization import equalize
from mobo_mpq.quant.transform import apply_policy, calibrate


class Uneven(nn.Module):
    """A depthwise layer whose channels differ by a factor of 1000, which ReLU and the next layer undo."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(8, 3, 1)
        factors = torch.logspace(-1.5, 1.5, 8)
        with torch.no_grad():
            self.depthwise.weight.mul_(factors[:, None, None, None])
            self.depthwise.bias.mul_(factors)
            self.last.weight.div_(factors[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.depthwise(torch.relu(self.first(x)))))
        return y


@pytest.fixture
def uneven() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network.from_model(Uneven(), torch.rand(2, 4, 6, 6))


def ranges(network: Network, first: str, second: str, *, depthwise: bool) -> tuple[Tensor, Tensor]:
    after = tensor_of(network, f"{second}.weight")
    incoming = after.flatten(1) if depthwise else after.transpose(0, 1).flatten(1)
    return tensor_of(network, f"{first}.weight").flatten(1).abs().amax(1), incoming.abs().amax(1)


def test_the_function_stays_and_the_ranges_meet(uneven: Network) -> None:
    x = torch.rand(5, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    equal = equalize(uneven)
    assert torch.allclose(equal(x), uneven(x), atol=1e-5)
    for first, second, depthwise in (("first", "depthwise", True), ("depthwise", "last", False)):
        outgoing, incoming = ranges(equal, first, second, depthwise=depthwise)
        assert torch.allclose(outgoing, incoming, rtol=0.01)


def test_the_network_that_is_given_is_left_alone(uneven: Network) -> None:
    before = copy.deepcopy(uneven.state_dict())
    equalize(uneven)
    assert all(torch.equal(before[name], tensor) for name, tensor in uneven.state_dict().items())


def test_it_matters_where_channels_are_unequal(uneven: Network) -> None:
    """One scale serves all channels of an activation: the small ones are lost in it."""
    x = torch.rand(64, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    target, errors = uneven(x).detach(), []
    for network in (uneven, equalize(uneven)):
        quantized = apply_policy(network, Policy.uniform(network.layers, 8, 4))
        calibrate(quantized, [x])
        errors.append(float((quantized(x).detach() - target).square().mean() / target.var()))
    assert errors[1] < 0.1 * errors[0]


def test_tensors_with_several_readers_are_left_alone(network: Network, batches: list[Tensor]) -> None:
    """The stem feeds a layer and a skip."""
    equal = equalize(network)
    changed = {
        name for name, tensor in equal.state_dict().items() if not torch.equal(tensor, network.state_dict()[name])
    }
    assert changed == {"depthwise.0.weight", "depthwise.0.bias", "pointwise.weight"}
    assert torch.allclose(equal(batches[0]), network(batches[0]), atol=1e-5)


def test_channels_that_are_all_zero_are_no_obstacle(uneven: Network) -> None:
    with torch.no_grad():
        tensor_of(uneven, "depthwise.weight")[2] = 0.0
        tensor_of(uneven, "last.weight")[:, 3] = 0.0
    x = torch.rand(2, 4, 6, 6)
    equal = equalize(uneven)
    assert torch.allclose(equal(x), uneven(x), atol=1e-5)


def test_other_activations_are_no_pairs() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    network = Network.from_model(model, torch.rand(2, 3))
    equal = equalize(network)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in equal.state_dict().items())
