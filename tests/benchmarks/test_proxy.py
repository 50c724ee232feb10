"""How well proxies rank policies: the policies, the scores and the figures that are printed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proxy import Place, drawn, half, recipe_of, report
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mobo_mpq.graph import Network
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import Policy
from mobo_mpq.testing.toys import make_toy
from mobo_mpq.training.losses import default_loss
from mobo_mpq.training.recipes import TrainingContext

TASK = f"{Path(__file__).parents[1]}/data/toy_task.py:Toy"


@pytest.fixture(scope="module")
def place() -> Place:
    """All data of a small task."""
    task = load_task(TASK)
    network = Network.from_model(task.model(), task.example)
    return Place(TrainingContext(network, task.train, default_loss, ()), task.val)


def test_uniform_policies_come_first_and_none_comes_twice() -> None:
    space = make_toy(layers=4).problem.space
    policies = drawn(space, 10)
    assert len(policies) == len(set(policies)) >= 10
    assert space.uniform(2, 8) in policies[: len(space.options)]
    assert policies == drawn(space, 10)


def test_scores_repeat_and_a_share_is_a_share(place: Place) -> None:
    layers = place.context.network.layers
    policies = [Policy.uniform(layers, bits, bits) for bits in (2, 8)]
    few = place.on(0.1, 0)
    assert sum(len(x) for x, _ in few.context.train) == 100
    (first, cpu_s), (again, _) = (few.scores(policies, recipe_of(1.0, 0.1), 0) for _ in range(2))
    assert np.array_equal(first, again) and first[0] < first[1] and cpu_s > 0


def test_figures_are_means_over_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.arange(8.0)
    report("here", 1.5, 0.1, [(truth, truth, 1.0), (-truth, truth, 3.0), (truth, truth, 2.0)])
    assert capsys.readouterr().out == "| here | 1.5 | 0.1 | 0.333 | 0.333 | 0.333 | 2.00 |\n"


class Classifier(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x)
        return logits


class Ten:
    """Stands in for a task of ten classes."""

    example = torch.zeros(2, 3)

    def __init__(self) -> None:
        self.kept = Classifier()
        data = TensorDataset(torch.rand(60, 3), torch.arange(60) % 10)
        self.train = self.val = DataLoader(data, batch_size=60)

    def model(self) -> nn.Module:
        return self.kept


def test_a_half_has_its_classes_and_their_outputs(place: Place) -> None:
    task: Any = Ten()
    part = half(task, place, 5)
    assert {int(label) for _, y in part.val for label in y} == set(range(5))
    assert sum(len(y) for _, y in part.context.train) == 30
    x = torch.rand(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(part.context.network(x), task.kept(x)[:, 5:])
    assert task.kept.classifier.out_features == 10
