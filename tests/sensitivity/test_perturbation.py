"""Sensitivities against closed forms, and against networks that are quantized policy by policy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from perturbation_toys import CHOICES, Batches, Chain, Shared, alone, entry, made, naive, space_of
from scipy.stats import spearmanr
from torch import Tensor, nn

from mobo_mpq.errors import InputError, PolicyError
from mobo_mpq.graph import Network
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.quant.base import Role
from mobo_mpq.quant.lsq import LsqScheme
from mobo_mpq.quant.transform import apply_policy, calibrate
from mobo_mpq.quant.uniform import UniformScheme
from mobo_mpq.sensitivity import SensitivityTable, perturb, provenance
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import passes


class Logarithm(nn.Module):
    """At two bits the smaller weight of the first channel is 0, and with it a logit infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.layer.weight.data = torch.tensor([[1.0, 0.1], [0.5, 1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.layer(x))


def test_equals_networks_quantized_one_by_one() -> None:
    network, batches = made(Chain())
    space = space_of(network)
    table = perturb(network, space, batches)
    highest = apply_policy(network, space.highest())
    calibrate(highest, [x for x, _ in batches])
    least = naive(network, space.highest(), batches, batches)
    assert table.evaluations == 3 + len(alone(space)) == 3 + 2 * 3  # both layers read one tensor
    for name, role, _, policy in alone(space):
        like = highest if role == Role.WEIGHT else None
        expected = max(0.0, naive(network, policy, batches, batches, like) - least)
        assert entry(table, space, policy) == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    assert entry(table, space, space.highest()) == 0.0


def test_a_policys_sum_is_the_sum_of_its_variables() -> None:
    network, batches = made(Chain())
    space = space_of(network)
    table = perturb(network, space, batches)
    parts = {(name, bits): entry(table, space, policy) for name, _, bits, policy in alone(space)}
    for levels in space.grid():
        chosen = zip(space.variables, levels, strict=True)
        expected = sum(parts.get((v.name, v.choices[level]), 0.0) for v, level in chosen)
        assert entry(table, space, space.to_policies(levels)[0]) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_a_layer_that_does_not_matter_costs_nothing() -> None:
    network, batches = made(Chain(through=0.0))
    space = space_of(network, activation_bits=(8,))
    table = perturb(network, space, batches)
    assert (table.values[space.names.index("first")] == 0.0).all()
    second = table.values[space.names.index("second")]
    assert second[0] > second[1] > second[2] == 0.0
    for levels in space.grid():  # a single variable: the prediction is exact
        policy = space.to_policies(levels)[0]
        assert entry(table, space, policy) == second[CHOICES.index(policy["second"].weight)]


def test_shared_tensors_count_once() -> None:
    network, batches = made(Shared())
    space = space_of(network)
    weights = [v for v in space.variables if v.role == "weight"]
    assert sorted(len(v.layers) for v in weights) == [1, 2]
    table = perturb(network, space, batches)
    least = naive(network, space.highest(), batches, batches)
    for name, role, _, policy in alone(space):
        if role == Role.ACTIVATION:
            expected = naive(network, policy, batches, batches) - least
            assert entry(table, space, policy) == pytest.approx(max(0.0, expected), rel=1e-9, abs=1e-12), name
    by_name = dict(zip(space.names, table.values[:, 2], strict=True))  # W2/A8
    assert by_name["left"] == by_name["head"] > 0.0
    assert by_name["left"] + by_name["head"] == entry(table, space, space.highest().with_bits(
        "left", weight=2).with_bits("head", weight=2))  # fmt: skip


def test_ties_and_pins_of_the_user() -> None:
    network, batches = made(Chain())
    tied = space_of(network, tie=[("first", "second")])
    assert len(tied.variables) == 2
    table = perturb(network, tied, batches)
    assert table.evaluations == 3 + 2 * 2
    assert np.array_equal(*table.values)
    pinned = space_of(network, pin={"first": (8, 8)})
    assert [v.name for v in pinned.variables] == ["second.weight"]
    one = perturb(network, pinned, batches)
    assert one.evaluations == 3 + 2
    first, second = space_of(network).names.index("first"), space_of(network).names.index("second")
    assert (one.values[first] == 0.0).all()
    free = perturb(network, space_of(network, activation_bits=(8,)), batches)
    assert one.values[second].reshape(3, -1)[:, -1] == pytest.approx(free.values[second], rel=1e-12)


def test_bits_that_are_no_choice_count_as_the_next_above() -> None:
    network, batches = made(Chain())
    target = load_target("mpic")
    without_four = replace(target, bit_pairs={kind: frozenset({(2, 8), (8, 8)}) for kind in target.bit_pairs})
    full, coarse = space_of(network, activation_bits=(8,)), SearchSpace.from_layers(network.layers, without_four)
    first = full.names.index("first")
    mixed = SearchSpace(
        full.names,
        tuple((coarse if i == first else full).pairs[i] for i in range(2)),
        tuple((coarse if v.name == "first.weight" else full).decisions[i] for i, v in enumerate(full.decisions)),
    )
    row = perturb(network, mixed, batches).values[first]
    assert row[0] > row[1] == row[2] == 0.0


def test_tensors_that_stay_in_float_at_their_highest_bits() -> None:
    network, batches = made(Chain())
    separate = SearchSpace.product([layer.name for layer in network.layers], (4, 16), (8, 32))
    weights = [variable for variable in separate.decisions if variable.role == "weight"]
    inputs = replace(separate.decisions[1], layers=separate.names)  # both layers read the same tensor
    space = SearchSpace(separate.names, separate.pairs, (*weights, inputs))
    table = perturb(network, space, batches)
    for name, _, _, policy in alone(space):
        expected = naive(network, policy, batches, batches)
        assert entry(table, space, policy) == pytest.approx(expected, rel=1e-9, abs=1e-12), name
    highest = tuple(replace(variable, choices=variable.choices[1:]) for variable in space.decisions)
    nothing = SearchSpace(space.names, (frozenset({(16, 32)}),) * 2, highest)
    assert (perturb(network, nothing, batches).values == 0.0).all()


def test_the_network_is_left_as_it_was() -> None:
    network, batches = made(Chain())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    code, modules = network.code, [name for name, _ in network.named_modules()]
    perturb(network, space_of(network), batches)
    assert (network.code, [name for name, _ in network.named_modules()]) == (code, modules)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("scheme", [UniformScheme(observer="minmax"), LsqScheme()])
def test_schemes_are_used(scheme: UniformScheme) -> None:
    network, batches = made(Chain())
    space = space_of(network, activation_bits=(8,))
    default, other = perturb(network, space, batches), perturb(network, space, batches, weight=scheme)
    assert np.array_equal(default.values, other.values) == isinstance(scheme, LsqScheme)  # which starts there too
    assert default.provenance.options != other.provenance.options


def test_divergences_that_are_not_finite_count_as_the_largest_that_is() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    network = Network.from_model(Logarithm().eval(), x)
    batches = [(x, torch.zeros(2, dtype=torch.long))]
    table = perturb(network, space_of(network, activation_bits=(8,)), batches)
    assert table.values[0, 0] == table.values[0, 1] > table.values[0, 2] == 0.0
    lost = space_of(network, activation_bits=(8,), weight_bits=(2, 8))
    with pytest.raises(InputError, match=r"network's with 'layer' at lower bits: they hold NaN or infinity; check"):
        perturb(network, lost, batches)


def test_a_network_whose_outputs_are_not_finite() -> None:
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    model = Logarithm().eval()
    model.layer.weight.data[0] = 0.0
    network = Network.from_model(model, x)
    with pytest.raises(InputError, match="cannot be compared with the float network's at all: they hold NaN"):
        perturb(network, space_of(network), [(x, torch.zeros(2, dtype=torch.long))])


def test_no_batch_and_another_network() -> None:
    network, batches = made(Chain())
    with pytest.raises(InputError, match=r"perturb\(\) got 0 batches of 0 samples and samples=128; expected at"):
        perturb(network, space_of(network), [])
    with pytest.raises(InputError, match=r"perturb\(\) got 2 batches of 64 samples and samples=0; expected at"):
        perturb(network, space_of(network), batches, samples=0)
    with pytest.raises(PolicyError, match="the policy is of another model"):
        perturb(network, SearchSpace.product(["a"], (2, 8), (8,)), batches)


@pytest.mark.parametrize("biases", [False, True])
def test_channels_that_are_constant_and_data_that_are_none(biases: bool) -> None:
    network, batches = made(Chain())
    constant = [(torch.ones_like(x), y) for x, y in batches]
    assert np.isfinite(perturb(network, space_of(network), constant, biases=biases).values).all()
    batches[1][0][0, 0] = float("nan")
    with pytest.raises(InputError, match="holds NaN or infinity; check the model and its input"):
        perturb(network, space_of(network), batches, biases=biases)


def test_outputs_without_classes_are_compared_by_squared_error() -> None:
    network, batches = made(Chain())
    table = perturb(network, space_of(network), [x for x, _ in batches])
    assert table.unit == "relative squared error"
    assert perturb(network, space_of(network), batches).unit == "nat"


def test_digests_tell_what_a_table_depends_on() -> None:
    network, batches = made(Chain())
    space = space_of(network)
    same = provenance(network, space, batches)
    assert perturb(network, space, batches).provenance == same
    again, _ = made(Chain())
    assert provenance(again, space, batches) == same
    assert provenance(network, space, batches, samples=32).options != same.options
    assert provenance(network, space_of(network, weight_bits=(2, 8)), batches).options != same.options
    assert provenance(network, space, batches[:1]).data != same.data
    rectified, _ = made(Chain(through=2.0))  # other arithmetic on the same weights
    assert provenance(rectified, space, batches).model != same.model
    with torch.no_grad():
        next(again.parameters()).add_(1e-3)
    assert provenance(again, space, batches).model != same.model


def test_samples_are_the_first_ones(counted: Callable[[Network], list[int]]) -> None:
    network, batches = made(Chain(), rows=300)
    space = space_of(network)
    sizes = counted(network)
    perturb(network, space, batches)
    assert sum(sizes[1:]) == 128, "after the look for classes"
    few = perturb(network, space, batches, samples=10)
    first = [(batches[0][0][:10], batches[0][1][:10])]
    least = naive(network, space.highest(), batches, first)
    for name, role, _, policy in alone(space):
        if role == Role.ACTIVATION:
            expected = max(0.0, naive(network, policy, batches, first) - least)
            assert entry(few, space, policy) == pytest.approx(expected, rel=1e-9, abs=1e-12), name


@pytest.fixture
def counted() -> Callable[[Network], list[int]]:
    """Rows of each batch that a network sees from now on."""

    def count(network: Network) -> list[int]:
        sizes: list[int] = []
        network.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        return sizes

    return count


# --- the built-in tasks -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> tuple[Network, SearchSpace, Batches]:
    task = load_task("digits")
    network = Network.from_model(task.model(), task.example)
    return network, space_of(network), list(itertools.islice(passes(task.train, 7), 4))


@pytest.fixture(scope="module")
def digits_table(digits: tuple[Network, SearchSpace, Batches]) -> SensitivityTable:
    return perturb(*digits)


def test_digits_fall_with_the_bits(
    digits: tuple[Network, SearchSpace, Batches], digits_table: SensitivityTable
) -> None:
    _, space, _ = digits
    grid = digits_table.values.reshape(len(space.names), 3, 3)  # layers x weight bits x activation bits
    assert (np.diff(grid, axis=1) <= 0).all()
    assert (np.diff(grid, axis=2) <= 0).all()
    assert (grid[:, 2, 2] == 0.0).all()
    assert digits_table.evaluations == 33


def test_digits_equal_networks_calibrated_one_by_one(
    digits: tuple[Network, SearchSpace, Batches], digits_table: SensitivityTable
) -> None:
    """Exactly for activations; for weights a network of its own also moves the ranges behind the weight a little."""
    network, space, batches = digits
    compared = batches[:2]
    assert sum(len(x) for x, _ in compared) == 128
    least = naive(network, space.highest(), batches, compared)
    truth, shown = [], []
    for name, role, _, policy in alone(space):
        truth.append(max(0.0, naive(network, policy, batches, compared) - least))
        shown.append(entry(digits_table, space, policy))
        if role == Role.ACTIVATION:
            assert shown[-1] == pytest.approx(truth[-1], rel=1e-6, abs=1e-9), name
    assert float(spearmanr(truth, shown)[0]) > 0.99
    assert shown == pytest.approx(truth, rel=0.3, abs=2e-4)


def test_text_has_one_variable_per_tensor() -> None:
    task = load_task("text")
    network = Network.from_model(task.model(), task.example)
    space = SearchSpace.from_layers(
        network.layers, load_target("bitfusion"), weight_bits=(2, 8), activation_bits=(8,), pin={"head": (8, 8)}
    )
    batches = list(itertools.islice(passes(task.train, 7), 2))
    assert provenance(network, space, batches) == provenance(network, space, batches, samples=16), "1024 characters"
    table = perturb(network, space, batches)
    assert table.evaluations == 3 + len(space.variables) == 3 + 8
    assert (table.values[:-1, 0] > 0.0).all()
    assert (table.values[-1] == 0.0).all()
    assert table.unit == "nat"
