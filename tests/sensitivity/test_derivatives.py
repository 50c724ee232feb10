"""Hessian and Fisher sensitivities against closed forms, and their cost in accuracy on digits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from mobo_mpq.errors import InputError, PolicyError
from mobo_mpq.graph import Network
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.quant.base import Role
from mobo_mpq.quant.transform import ACTIVATION, WEIGHT, apply_policy, quantizers
from mobo_mpq.sensitivity.bench import Bench
from mobo_mpq.sensitivity.derivatives import Derivatives, behaviour, differentiate
from mobo_mpq.sensitivity.fisher import fisher, squared_gradients
from mobo_mpq.sensitivity.fisher import provenance as of_fisher
from mobo_mpq.sensitivity.hessian import DRAWS, hessian, hutchinson
from mobo_mpq.sensitivity.hessian import provenance as of_hessian
from mobo_mpq.sensitivity.perturbation import perturb
from mobo_mpq.sensitivity.samples import first
from mobo_mpq.sensitivity.table import SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import passes

Batches = list[tuple[Tensor, Tensor]]
MEASURES = [hessian, fisher]
SAMPLES = 48


def squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


class Affine(nn.Module):
    """One layer; the loss above is a quadratic form of its weight, and of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class Idle(nn.Module):
    """A layer whose result reaches no loss, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside, self.never = nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.used(x), self.aside(torch.tanh(x))


class Attention(nn.Module):
    """Fused attention, whose kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:  # (batch, positions, 4)
        q, k, v = self.project(x).view(x.shape[0], x.shape[1], 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        y: Tensor = self.head(mixed.reshape(x.shape).mean(1))
        return y


def made(model: nn.Module, *shape: int) -> tuple[Network, Batches]:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(SAMPLES, *shape, generator=generator)
    y = torch.randn(SAMPLES, 3, generator=generator)
    return Network.from_model(model.eval(), x), [(x[:32], y[:32]), (x[32:], y[32:])]


def space_of(network: Network, **options: Any) -> SearchSpace:
    bits: dict[str, Any] = {"weight_bits": (2, 4, 8), "activation_bits": (2, 4, 8)}
    return SearchSpace.from_layers(network.layers, load_target("mpic"), **(bits | options))


def derivatives_of(network: Network, batches: Batches, **options: Any) -> Derivatives:
    bench = Bench(network, space_of(network, **options), {Role.WEIGHT: WEIGHT, Role.ACTIVATION: ACTIVATION})
    with torch.no_grad():
        bench.calibrate([x for x, _ in batches])
    return Derivatives(bench, squared)


def named(values: dict[str, float]) -> tuple[float, ...]:
    """Of the weight and of the activation of a network with one layer, as far as they are free."""
    return tuple(value for role in ("weight/", "activation/") for name, value in values.items() if role in name)


def test_hutchinson_meets_a_known_hessian() -> None:
    """``H`` of the weight is ``E[x x^T]`` for each output, that of the input ``W^T W`` for each sample."""
    network, batches = made(Affine(), 5)
    x, weight = torch.cat([x for x, _ in batches]), network.get_parameter("layer.weight").detach()
    of_weight, of_input = named(hutchinson(derivatives_of(network, batches), batches, draws=400))
    assert of_weight == pytest.approx(3 * float(x.square().sum(1).mean()), rel=0.05)
    assert of_input == pytest.approx(float(weight.square().sum()), rel=0.05)


def test_random_signs_have_no_variance_where_the_hessian_is_diagonal() -> None:
    network, batches = made(Affine(), 5)
    with torch.no_grad():
        network.get_parameter("layer.weight").copy_(torch.eye(5)[:3] * 2.0)
    (of_input,) = named(hutchinson(derivatives_of(network, batches, weight_bits=(8,)), batches, draws=1))
    assert of_input == pytest.approx(12.0, rel=1e-5)  # W^T W has 4 three times, and nothing beside it


def test_squared_gradients_meet_a_closed_form() -> None:
    """With the residual ``r`` of a sample, the gradients are ``r x^T`` and ``W^T r``."""
    network, batches = made(Affine(), 5)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        residual = network(x) - y
        of_weight = (residual.square().sum(1) * x.square().sum(1)).mean()
        of_input = (residual @ network.get_parameter("layer.weight")).square().sum(1).mean()
    found = named(squared_gradients(derivatives_of(network, batches), batches))
    assert found == pytest.approx((float(of_weight), float(of_input)), rel=1e-5)


@pytest.mark.parametrize("measured", MEASURES)
def test_a_table_is_traces_times_squared_errors(measured: Any) -> None:
    network, batches = made(Affine(), 5)
    space = space_of(network, activation_bits=(8,))
    table = measured(network, space, batches, loss=squared)
    trace = {hessian: lambda d: hutchinson(d, batches, 32), fisher: lambda d: squared_gradients(d, batches)}[measured]
    (of_weight,) = named(trace(derivatives_of(network, batches, activation_bits=(8,))))
    weight = network.get_parameter("layer.weight").detach()

    def error(bits: int) -> float:
        policy = space.highest().with_bits("layer", weight=bits)
        quantizer = next(q for name, q in quantizers(apply_policy(network, policy)).items() if "weight" in name)
        return float((quantizer(weight) - weight).square().mean())

    expected = [of_weight * (error(bits) - error(8)) for bits in (2, 4, 8)]
    assert table.values[0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-12)
    assert (table.method, table.evaluations) == ((measured.__name__), {hessian: 34, fisher: 2}[measured])


@pytest.mark.parametrize("measured", MEASURES)
def test_it_falls_with_the_bits_as_squared_errors_do(measured: Any) -> None:
    """By about 16 for two bits more, where weights are uniform and the step halves with every bit."""
    model = nn.Sequential(nn.Linear(64, 64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn.init.uniform_(model[0].weight, -1.0, 1.0)
        x, y = torch.randn(32, 64), torch.randn(32, 64)
    network = Network.from_model(model.eval(), x)
    space = SearchSpace.product(["0"], (3, 5, 7, 32), (32,))
    values = measured(network, space, [(x, y)], loss=squared).values[0]
    assert values[3] == 0.0
    assert values[0] / values[1] == pytest.approx((2**5 - 1) ** 2 / (2**3 - 1) ** 2, rel=0.15)  # 19.6
    assert values[1] / values[2] == pytest.approx((2**7 - 1) ** 2 / (2**5 - 1) ** 2, rel=0.1)  # 16.8


@pytest.mark.parametrize("measured", MEASURES)
def test_layers_that_do_not_reach_the_loss_cost_nothing_and_those_that_never_run_are_none(measured: Any) -> None:
    network, batches = made(Idle(), 5)
    space = space_of(network)
    assert space.names == ("used", "aside")
    table = measured(network, space, batches, loss=lambda output, target: squared(output[0], target))
    assert (table.values[1] == 0.0).all()
    assert table.values[0, 0] > 0.0


def test_attention_can_be_differentiated_twice() -> None:
    network, batches = made(Attention(), 6, 4)
    table = hessian(network, space_of(network), batches, loss=squared, draws=4)
    assert (table.values[:, 0] > 0.0).all()


@pytest.mark.parametrize("measured", MEASURES)
def test_the_network_is_left_as_it_was_and_a_repeat_gives_the_same(measured: Any) -> None:
    network, batches = made(Affine(), 5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (measured(network, space_of(network), batches, loss=squared) for _ in range(2))
    assert np.array_equal(first.values, second.values)
    assert first.provenance == second.provenance
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


# --- digests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("measured", "digests"), [(hessian, of_hessian), (fisher, of_fisher)])
def test_digests_tell_what_a_table_depends_on(measured: Any, digests: Any) -> None:
    network, batches = made(Affine(), 5)
    space = space_of(network)
    same = digests(network, space, batches, loss=squared)
    assert measured(network, space, batches, loss=squared).provenance == same
    assert digests(network, space, batches, loss=squared, samples=8).options != same.options
    assert digests(network, space, batches, loss=lambda o, t: squared(o, t) * 1.001).options != same.options
    assert digests(network, space, batches, loss=lambda o, t: squared(o, t)).options == same.options, "what it does"
    assert digests(network, space, batches[:1], loss=squared).data != same.data
    assert (
        of_hessian(network, space, batches, loss=squared).options
        != of_fisher(network, space, batches, loss=squared).options
    )
    assert of_hessian(network, space, batches, loss=squared, draws=3).options != same.options


def test_a_loss_of_outputs_that_are_no_tensor_is_told_by_its_values() -> None:
    network, batches = made(Idle(), 5)
    first, second = (
        behaviour(network, lambda output, target, scale=scale: scale * squared(output[0], target), batches)
        for scale in (1.0, 1.001)
    )
    assert first != second


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measured", MEASURES)
def test_too_little_data(measured: Any) -> None:
    network, batches = made(Affine(), 5)
    space, name = space_of(network), measured.__name__
    with pytest.raises(
        InputError, match=rf"{name}\(\) got 0 batches of 0 samples and samples=\d+; expected at least 1"
    ):
        measured(network, space, [], loss=squared)
    with pytest.raises(InputError, match=rf"{name}\(\) got 1 batches of 0 samples"):
        measured(network, space, [(torch.zeros(0, 5), torch.zeros(0, 3))], loss=squared)
    with pytest.raises(InputError, match="got 2 batches of 48 samples and samples=0"):
        measured(network, space, batches, loss=squared, samples=0)
    few = measured(network, space, [(batches[0][0][:1], batches[0][1][:1])], loss=squared)
    assert np.isfinite(few.values).all(), "one sample is little, but enough"
    with pytest.raises(PolicyError, match="the policy is of another model"):
        measured(network, SearchSpace.product(["a"], (2, 8), (8,)), batches, loss=squared)


@pytest.mark.parametrize("measured", MEASURES)
def test_channels_that_are_constant_and_data_that_are_none(measured: Any) -> None:
    network, batches = made(Affine(), 5)
    space = space_of(network)
    constant = [(torch.ones_like(x), y) for x, y in batches]
    assert np.isfinite(measured(network, space, constant, loss=squared).values).all()
    for x, _ in batches:
        x[0, 0] = float("nan")
    with pytest.raises(InputError, match="holds NaN or infinity; check the model and its input"):
        measured(network, space, batches, loss=squared)


@pytest.mark.parametrize("measured", MEASURES)
def test_losses_that_cannot_be_used(measured: Any) -> None:
    network, batches = made(Affine(), 5)
    space = space_of(network)
    with pytest.raises(InputError, match=r"the loss of a batch is \(32, 3\); expected a tensor with one number"):
        measured(network, space, batches, loss=lambda output, target: output)
    with pytest.raises(InputError, match="the loss of a batch is float; expected a tensor with one number"):
        measured(network, space, batches, loss=lambda output, target: 1.0)
    with pytest.raises(
        InputError, match="does not depend on the network's tensors in a way that can be differentiated"
    ):
        measured(network, space, batches, loss=lambda output, target: squared(output.detach(), target))
    with pytest.raises(InputError, match="derivatives of the loss at 'layer' are not finite: .* --no-sensitivity"):
        measured(network, space, batches, loss=lambda output, target: squared(output, target) * 1e200 * 1e200)


class Never(torch.autograd.Function):
    """Has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        raise RuntimeError("no derivative")


class Once(torch.autograd.Function):
    """Has a first derivative alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return Never.apply(slope)


def test_operations_that_have_no_derivative() -> None:
    network, batches = made(Affine(), 5)
    space = space_of(network)
    with pytest.raises(
        InputError, match="cannot be differentiated twice: no derivative; measure --sensitivity-kind perturbation or fi"
    ):
        hessian(network, space, batches, loss=lambda output, target: squared(Once.apply(output), target))
    once = fisher(network, space, batches, loss=lambda output, target: squared(Once.apply(output), target))
    assert np.array_equal(once.values, fisher(network, space, batches, loss=squared).values)
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(
        InputError, match="differentiated once: no derivative; measure --sensitivity-kind perturbation i"
    ):
        differentiate(Never.apply(x).sum(), [x])


# --- a real network ---------------------------------------------------------------------------------------------------


def test_how_far_traces_are_off_on_digits() -> None:
    """By a fifth in the median, and by half at most: though traces lie orders of magnitude apart."""
    task = load_task("digits")
    network = Network.from_model(task.model(), task.example)
    batches = list(itertools.islice(passes(task.train, 7), 4))
    derivatives = derivatives_of(network, batches)
    derivatives.loss = task.loss
    found = [hutchinson(derivatives, first(batches, 128), DRAWS, seed) for seed in range(5)]
    traces = np.array([list(one.values()) for one in found])
    off = traces.std(axis=0, ddof=1) / np.abs(traces.mean(axis=0))
    assert np.median(off) < 0.25
    assert off.max() < 0.7
    assert traces.mean(axis=0).max() > 100 * traces.mean(axis=0).min()


def test_digits_rank_as_perturbations_do() -> None:
    task = load_task("digits")
    network = Network.from_model(task.model(), task.example)
    space, batches = space_of(network), list(itertools.islice(passes(task.train, 7), 4))
    tables: dict[str, SensitivityTable] = {
        "perturbation": perturb(network, space, batches),
        "hessian": hessian(network, space, batches, loss=task.loss, draws=8),
        "fisher": fisher(network, space, batches, loss=task.loss),
    }
    flat = {name: table.values.ravel() for name, table in tables.items()}
    assert spearmanr(flat["hessian"], flat["perturbation"])[0] > 0.8
    assert spearmanr(flat["fisher"], flat["hessian"])[0] > 0.95
    for name in ("hessian", "fisher"):
        grid = tables[name].values.reshape(len(space.names), 3, 3)
        assert (np.diff(grid, axis=1) <= 0).all()
        assert (np.diff(grid, axis=2) <= 0).all()
