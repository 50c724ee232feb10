from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mobo_mpq.policy import Policy
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training.probe import probed_after, undisturbed
from mobo_mpq.training.recipes import TrainingContext, default_recipe, run_recipe, trains
from mobo_mpq.trial import Recipe


@pytest.mark.parametrize(
    ("steps", "early"), [(0, None), (1, None), (2, 1), (3, 1), (4, 1), (8, 2), (10, 2), (11, 3), (100, 25)]
)
def test_a_quarter_of_the_steps(steps: int, early: int | None) -> None:
    assert probed_after(steps) == early


def test_a_probe_sees_the_network_once_and_changes_nothing(trained: TrainingContext) -> None:
    seen: list[QuantizedNetwork] = []
    policy = Policy.uniform(trained.network.layers, 4, 4)
    results = [
        run_recipe(default_recipe("qat"), trained, policy, seed=3, probe=probe)
        for probe in (None, lambda network: seen.append(copy.deepcopy(network)))
    ]
    states = [network.state_dict() for network in results]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    (early,) = seen
    assert early.policy == policy
    moved = [not torch.equal(value, states[0][key]) for key, value in early.state_dict().items()]
    assert any(moved), "training went on"


def test_what_a_probe_raises_ends_the_fine_tune(trained: TrainingContext) -> None:
    losses: list[float] = []

    def loss(output: Any, target: Any) -> Any:
        losses.append(1.0)
        return trained.loss(output, target)

    def stop(network: QuantizedNetwork) -> None:
        raise StopIteration("enough")

    context = TrainingContext(trained.network, trained.train, loss, trained.calibration)
    recipe = Recipe("qat", epochs=1.0, options={"distill": 0.0})
    with pytest.raises(StopIteration, match="enough"):
        run_recipe(recipe, context, Policy.uniform(trained.network.layers, 8, 8), seed=0, probe=stop)
    assert len(losses) == 4  # of 16


def test_recipes_that_train_nothing_are_never_probed(trained: TrainingContext) -> None:
    def fail(network: QuantizedNetwork) -> None:
        raise AssertionError

    policy = Policy.uniform(trained.network.layers, 8, 8)
    for recipe in (Recipe("ptq"), Recipe("ptq", epochs=2.0), Recipe("qat", epochs=0.0)):
        assert not trains(recipe)
        run_recipe(recipe, trained, policy, seed=0, probe=fail)
    assert trains(default_recipe("qat"))


def test_generators_modes_and_flags_are_put_back() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(), torch.nn.Linear(2, 2))
    network.train()
    network[1].eval()
    network[2].requires_grad_(False)
    own = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(torch.arange(9.0)), shuffle=True, generator=own)

    def states() -> tuple[Any, ...]:
        flags = [parameter.requires_grad for parameter in network.parameters()]
        everywhere = torch.get_rng_state().tolist(), repr(np.random.get_state(legacy=False)), random.getstate()
        return [module.training for module in network.modules()], flags, everywhere, own.get_state().tolist()

    before = states()
    draws = []
    for _ in range(2):
        with pytest.raises(KeyError), undisturbed(network, 1, loader, [1, 2]):
            network.eval().requires_grad_(False)
            draws.append((torch.rand(()).item(), np.random.rand(), random.random(), [x.item() for (x,) in loader]))
            raise KeyError
        assert states() == before
    assert draws[0] == draws[1], "the block itself repeats"
