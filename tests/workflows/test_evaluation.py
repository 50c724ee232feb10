"""What an evaluation depends on: its policy and seeds, never on what was drawn before."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertForSequenceClassification

from mobo_mpq.export.onnx_qdq import export_onnx
from mobo_mpq.export.verify import verify_onnx
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


class Texts:
    """Mappings as a tokenizer and a collator make them; the metric passes all of a batch, labels too."""

    metric_name, direction = "accuracy", "maximize"

    def __init__(self, by_name: bool) -> None:
        self.by_name = by_name
        generator = torch.Generator().manual_seed(0)
        self.train = self.val = [
            {
                "input_ids": torch.randint(40, (8, length), generator=generator),
                "attention_mask": torch.ones(8, length, dtype=torch.long),
                "labels": torch.randint(3, (8,), generator=generator),
            }
            for length in (9, 6)
        ]

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
            config = BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3, **sizes)
            return BertForSequenceClassification(config)

    def metric(self, model: nn.Module, loader: Any) -> float:
        right = 0
        for batch in loader:
            given = {key: item for key, item in batch.items() if key != "labels"} if self.by_name else batch
            right += int((model(**given).logits.argmax(-1) == batch["labels"]).sum())
        return right / 16


@pytest.mark.parametrize("by_name", [False, True])
def test_labels_of_a_mapping_never_reach_the_network(tmp_path: Path, by_name: bool) -> None:
    source = Texts(by_name)
    made = evaluator(source, default_recipe("ptq"))
    policy = Policy.uniform(made.context.network.layers, 8, 8)
    outcome = made.run(policy, seed=0)
    assert outcome.error is None and outcome.measurement is not None
    network, path = made.restore(policy, outcome.state), tmp_path / "model.onnx"
    assert source.metric(network, source.val) == outcome.measurement.value
    export_onnx(network, made.task.example, path)
    session = onnxruntime.InferenceSession(path)
    assert [entry.name for entry in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [entry.name for entry in session.get_outputs()] == ["logits"]
    assert verify_onnx(path, network, source.val, agreement=0.9).samples == 16
