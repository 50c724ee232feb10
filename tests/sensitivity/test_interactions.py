"""Losses of pairs against Hessians, against networks quantized policy by policy, and as allocation takes them."""

import itertools

import numpy as np
import pytest
import torch
from perturbation_toys import Batches, Chain, Shared, made, naive, space_of
from torch import Tensor, nn

import mobo_mpq as mm
from mobo_mpq.errors import InputError
from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.quant.transform import apply_policy, calibrate, quantizers
from mobo_mpq.sensitivity import PairTable, perturb, perturb_pairs
from mobo_mpq.space import SearchSpace


class Parallel(nn.Module):
    """Outputs are linear in the weights of each layer, so that a squared error is quadratic in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 3, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(torch.relu(x)) - 2.0 * self.c(x.abs())


def weights_at(network: Network, space: SearchSpace, bits: int) -> dict[str, Tensor]:
    """Every weight as it is quantized at some bits."""
    low = apply_policy(network, Policy.uniform(network.layers, bits, 32))
    calibrate(low, [torch.zeros(1, 4)])  # weights need no data
    found = {}
    for quantizer in quantizers(low).values():
        assert quantizer.site is not None
        found[quantizer.site.tensor] = quantizer(tensor_of(network, quantizer.site.tensor)).detach()
    return found


def test_on_a_quadratic_loss_they_are_the_hessian_between_layers() -> None:
    network, batches = made(Parallel(), width=4)
    space = SearchSpace.product([layer.name for layer in network.layers], (2, 4, 8), (32,))
    inputs = [x for x, _ in batches]
    table = perturb_pairs(network, space, inputs)
    assert table.unit == "relative squared error"
    highest = weights_at(network, space, 8)
    names = list(highest)
    x = torch.cat(inputs)
    with torch.no_grad():
        expected = network(x)
    variance = sum((network(part) - network(part).mean()).double().square().sum() for part in inputs)

    def loss(*weights: Tensor) -> Tensor:
        a, b, c = (weight.double() for weight in weights)
        y = x.double() @ a.T + torch.relu(x).double() @ b.T - 2.0 * x.abs().double() @ c.T
        return (y - expected.double()).square().sum() / variance

    start = tuple(highest[name] for name in names)
    hessian = torch.autograd.functional.hessian(loss, tuple(weight.double() for weight in start))
    for i, j in itertools.combinations(range(3), 2):
        for (column, low), (other, lower) in itertools.product(enumerate((2, 4)), repeat=2):
            first = (weights_at(network, space, low)[names[i]] - start[i]).double().reshape(-1)
            second = (weights_at(network, space, lower)[names[j]] - start[j]).double().reshape(-1)
            curved = first @ hessian[i][j].reshape(len(first), len(second)) @ second
            assert table.interactions[i, j][column, other] == pytest.approx(float(curved), rel=1e-4, abs=1e-7)
    assert all((own[-1] == 0.0).all() and (own[:, -1] == 0.0).all() for own in table.interactions.values())


@pytest.mark.parametrize("model", [Chain, Shared])
def test_two_tensors_at_lower_bits_equal_a_network_that_has_them(model: type[nn.Module]) -> None:
    network, batches = made(model())
    space = space_of(network)
    table = perturb_pairs(network, space, batches)
    highest = apply_policy(network, space.highest())
    calibrate(highest, [x for x, _ in batches])
    least = naive(network, space.highest(), batches, batches)
    compared = 0
    for policy, roles in pairs_of(space):
        if len(set(roles)) > 1 and model is Shared:
            continue  # behind a weight, a network of its own has other ranges
        expected = naive(network, policy, batches, batches, highest if roles[0] == "weight" == roles[1] else None)
        assert predicted(table, space, policy) == pytest.approx(expected - least, rel=1e-6, abs=1e-9)
        compared += 1
    assert compared == (12 if model is Chain else 8)


def pairs_of(space: SearchSpace) -> list[tuple[Policy, tuple[str, str]]]:
    """Every two variables at each of their lower levels, and their roles."""
    found = []
    for i, j in itertools.combinations(range(len(space.variables)), 2):
        for one, other in itertools.product(range(space.sizes[i] - 1), range(space.sizes[j] - 1)):
            levels = space.sizes - 1
            levels[[i, j]] = one, other
            found.append((space.to_policies(levels)[0], (space.variables[i].role, space.variables[j].role)))
    return found


def predicted(table: PairTable, space: SearchSpace, policy: Policy) -> float:
    return table.predicted(space.option_indices(space.to_levels([policy])[0]))


def test_single_losses_are_those_of_perturb() -> None:
    network, batches = made(Chain())
    space = space_of(network)
    pairs, alone = perturb_pairs(network, space, batches), perturb(network, space, batches)
    for column, variable in enumerate(space.variables):
        for level in range(len(variable.choices)):
            levels = space.sizes - 1
            levels[column] = level
            options = space.option_indices(levels)
            single = alone.values[np.arange(len(options)), options].sum()
            assert max(pairs.predicted(options), 0.0) == pytest.approx(single, rel=1e-9, abs=1e-12)
    assert pairs.evaluations == alone.evaluations + 3 * 2 * 2


def test_allocation_finds_the_policy_of_least_predicted_loss(chain: tuple[Network, SearchSpace, Batches]) -> None:
    network, space, batches = chain
    table = perturb_pairs(network, space, batches, biases=True)
    size = np.array([[option.weight * layer.num_weights for option in space.options] for layer in network.layers])
    for share in (0.3, 0.5, 0.7):
        budget = float(size.max(axis=1).sum() * share)
        found = mm.allocate(table.values, {"size": size}, {"size": budget}, interactions=table.interactions)
        options = space.option_indices(space.grid())
        legal = [row for row in options if size[[0, 1], row].sum() <= budget]
        assert table.predicted(found) == pytest.approx(min(map(table.predicted, legal)), rel=1e-9, abs=1e-12)


@pytest.fixture
def chain() -> tuple[Network, SearchSpace, Batches]:
    network, batches = made(Chain())
    return network, space_of(network, activation_bits=(8,)), batches


def test_nothing_to_measure_on(chain: tuple[Network, SearchSpace, Batches]) -> None:
    network, space, batches = chain
    with pytest.raises(InputError, match=r"^perturb_pairs\(\) got 0 batches of 0 samples"):
        perturb_pairs(network, space, [])
    batches[0][0][0, 0] = float("nan")
    with pytest.raises(InputError, match="holds NaN or infinity; check the model and its input"):
        perturb_pairs(network, space, batches)
