from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError, PolicyError, TrainingDiverged, UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training.losses import default_loss
from mobo_mpq.training.recipes import (
    TrainingContext,
    apply_uncalibrated,
    default_recipe,
    recipe_names,
    run_recipe,
)
from mobo_mpq.trial import Recipe

Change = Callable[..., TrainingContext]


def uniform(context: TrainingContext, bits: int) -> Policy:
    return Policy.uniform(context.network.layers, bits, bits)


def accuracy(network: nn.Module, split: tuple[Tensor, Tensor]) -> float:
    x, y = split
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_names_and_defaults() -> None:
    assert recipe_names() == ("kmeans", "multipoint", "ptq", "qat")
    assert default_recipe("ptq").epochs == 0
    assert default_recipe("qat").epochs > 0
    with pytest.raises(
        UnknownName, match="unknown recipe 'qta'; known: kmeans, multipoint, ptq, qat. Did you mean 'qat'?"
    ):
        default_recipe("qta")


def test_bits_cost_accuracy_and_training_wins_some_back(
    trained: TrainingContext, test_split: tuple[Tensor, Tensor]
) -> None:
    scores = {
        (kind, bits): accuracy(run_recipe(default_recipe(kind), trained, uniform(trained, bits), seed=0), test_split)
        for kind in ("ptq", "qat")
        for bits in (8, 3)
    }
    floating = accuracy(trained.network, test_split)
    assert floating > 0.95
    assert scores["ptq", 8] > floating - 0.01
    assert scores["qat", 8] > floating - 0.02
    assert scores["ptq", 3] < floating - 0.05
    assert scores["qat", 3] > scores["ptq", 3]


@pytest.mark.parametrize("kind", ["ptq", "qat"])
def test_result_depends_on_seed_and_policy_alone(trained: TrainingContext, kind: str) -> None:
    recipe, policy = default_recipe(kind), uniform(trained, 4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run_recipe(recipe, trained, policy, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    run_recipe(recipe, trained, uniform(trained, 3), seed=6)  # another trial in between
    second = run_recipe(recipe, trained, policy, seed=5)
    assert same(first, second)
    assert same(first, run_recipe(recipe, trained, policy, seed=6)) == (kind == "ptq")


def test_loaders_that_cannot_be_indexed_repeat_too(context: Change, trained: TrainingContext) -> None:
    loader = trained.train
    slow = torch.utils.data.DataLoader(
        loader.dataset,  # type: ignore[attr-defined]
        batch_size=32,
        shuffle=True,
        collate_fn=lambda rows: tuple(torch.stack(column) for column in zip(*rows, strict=True)),
    )
    results = [run_recipe(default_recipe("qat"), context(train=slow), uniform(trained, 4), seed=1) for _ in range(2)]
    assert same(*results)


def test_float_network_is_left_alone(trained: TrainingContext) -> None:
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    run_recipe(default_recipe("qat"), trained, uniform(trained, 4), seed=0)
    after = trained.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in trained.network.parameters())


@pytest.mark.parametrize("kind", ["ptq", "qat"])
def test_state_is_restored_exactly(trained: TrainingContext, kind: str, test_split: tuple[Tensor, Tensor]) -> None:
    recipe, policy = default_recipe(kind), uniform(trained, 4)
    network = run_recipe(recipe, trained, policy, seed=0)
    restored = apply_uncalibrated(trained, policy, recipe)
    restored.load_state_dict(network.state_dict())
    assert isinstance(network, QuantizedNetwork)
    assert network.policy == policy
    assert torch.equal(network(test_split[0]), restored(test_split[0]))
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_no_epochs_train_nothing(trained: TrainingContext) -> None:
    network = run_recipe(Recipe("qat", epochs=0.0), trained, uniform(trained, 4), seed=0)
    for name, parameter in trained.network.named_parameters():
        assert torch.equal(network.get_parameter(name), parameter)


def test_epochs_and_fraction_give_the_steps(context: Change, trained: TrainingContext) -> None:
    calls: list[int] = []

    def counting(output: Any, target: Any) -> Tensor:
        calls.append(len(target))
        return default_loss(output, target)

    for epochs, fraction, expected in ((1.0, 1.0, 16), (0.5, 1.0, 8), (2.0, 0.25, 8)):
        calls.clear()
        recipe = Recipe("qat", epochs, fraction, {"distill": 0.0})
        run_recipe(recipe, context(loss=counting), uniform(trained, 8), seed=0)
        assert len(calls) == expected


def test_mappings_with_labels(context: Change, trained: TrainingContext) -> None:
    """A network that was captured without labels never sees them."""
    batches = [{"x": x, "labels": y} for x, y in trained.train]
    network = Network.from_model(trained.network, {"x": batches[0]["x"]})
    policy = Policy.uniform(network.layers, 4, 4)
    recipe = default_recipe("qat")
    got = run_recipe(recipe, context(network=network, train=batches, calibration=batches[:4]), policy, seed=0)
    pairs = [(batch["x"], batch["labels"]) for batch in batches]
    plain = context(train=pairs, calibration=[batch["x"] for batch in batches[:4]])
    assert same(got, run_recipe(recipe, plain, policy, seed=0))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("qat", epochs=-1.0), "recipe 'qat' has epochs -1.0; expected 0 or more"),
        (Recipe("qat", epochs=float("nan")), "recipe 'qat' has epochs nan"),
        (Recipe("qat", 1.0, 0.0), "recipe 'qat' has train_fraction 0.0; expected more than 0, at most 1"),
        (Recipe("qat", 1.0, 1.5), "train_fraction 1.5"),
        (Recipe("qat", 1.0, options={"lr": "fast"}), "option 'lr' of recipe 'qat' is 'fast'; expected a number"),
        (Recipe("qat", 1.0, options={"lr": -1}), "option 'lr' of the fine-tune is -1.0; expected a number above 0"),
    ],
)
def test_recipe_of_wrong_values(trained: TrainingContext, recipe: Recipe, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        run_recipe(recipe, trained, uniform(trained, 8), seed=0)


def test_unknown_option_and_recipe(trained: TrainingContext) -> None:
    with pytest.raises(UnknownName, match="unknown option of recipe 'qat' 'rate'; known: .*lr"):
        run_recipe(Recipe("qat", options={"rate": 1.0}), trained, uniform(trained, 8), seed=0)
    with pytest.raises(UnknownName, match="unknown option of recipe 'ptq' 'lr'; known: activations"):
        run_recipe(Recipe("ptq", options={"lr": 1.0}), trained, uniform(trained, 8), seed=0)
    with pytest.raises(UnknownName, match="unknown recipe 'magic'; known: kmeans, multipoint, ptq, qat"):
        run_recipe(Recipe("magic"), trained, uniform(trained, 8), seed=0)


def test_option_as_text_is_a_number(trained: TrainingContext) -> None:
    options = [{"lr": "0.01"}, {"lr": 0.01}]
    assert same(*(run_recipe(Recipe("qat", 0.2, options=o), trained, uniform(trained, 4), seed=0) for o in options))


def test_policy_of_another_model(trained: TrainingContext) -> None:
    with pytest.raises(PolicyError, match="the policy is of another model"):
        run_recipe(Recipe("ptq"), trained, Policy.of({"elsewhere": (8, 8)}), seed=0)


def test_divergence(context: Change, trained: TrainingContext) -> None:
    def explode(output: Tensor, target: Any) -> Tensor:
        return output.sum() * float("inf")

    with pytest.raises(TrainingDiverged, match="the fine-tune diverged at step 1 of"):
        run_recipe(default_recipe("qat"), context(loss=explode), uniform(trained, 8), seed=0)
