"""What an evaluation depends on: its policy and seeds, never on what was drawn before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mobo_mpq.graph import capture, save_program
from mobo_mpq.objectives.tasks import LoadedTask
from mobo_mpq.policy import Policy
from mobo_mpq.training.data import share
from mobo_mpq.training.recipes import default_recipe
from mobo_mpq.trial import Recipe
from mobo_mpq.workflows.evaluation import Evaluator, Outcome, Work


def evaluator(source: Any, recipe: Recipe, seed: int = 0) -> Evaluator:
    task = LoadedTask.of(source, "test:Task", "test")
    program = save_program(capture(task.model(), task.example))
    return Evaluator(Work(task.address, program, recipe, share(task.train), share(task.val), seed), task)


class Noisy(Dataset[tuple[Tensor, int]]):
    """Points in the plane, augmented by three global generators at once."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        angle = index * 0.7
        point = torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
        noise = np.random.normal() + random.gauss(0, 1) + torch.randn(()).item()
        return point + 0.05 * noise, index % 3


class Augmented:
    """Loaders that draw from global generators for their order and their samples."""

    metric_name, direction = "loss", "minimize"

    def __init__(self) -> None:
        self.train = DataLoader(Noisy(), batch_size=16, shuffle=True)
        self.val = DataLoader(Noisy(), batch_size=48, shuffle=True)

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))

    def metric(self, model: nn.Module, loader: Any) -> float:
        return sum(nn.functional.cross_entropy(model(x), y).item() for x, y in loader)


def states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), repr(np.random.get_state(legacy=False)), random.getstate()


@pytest.mark.parametrize("kind", ["ptq", "qat"])
def test_evaluations_do_not_depend_on_global_generators(kind: str) -> None:
    outcomes: list[Outcome] = []
    for start in (1, 2):
        torch.manual_seed(start)
        np.random.seed(start)
        random.seed(start)
        source = Augmented()
        task = LoadedTask.of(source, "test:Task", "test")
        program = save_program(capture(task.model(), torch.zeros(2, 2)))
        before, threads = states(), torch.get_num_threads()
        made = Evaluator(Work("test:Task", program, default_recipe(kind), None, None, 0), task)
        if start == 2:
            made.run(Policy.uniform(made.context.network.layers, 4, 4), seed=5)
        outcomes.append(made.run(Policy.uniform(made.context.network.layers, 4, 4), seed=7))
        assert states() == before
        assert torch.get_num_threads() == threads
    assert outcomes[0].error is None and outcomes[0].measurement == outcomes[1].measurement
    assert outcomes[0].state == outcomes[1].state
