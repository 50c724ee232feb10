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
from mobo_mpq.workflows.evaluation import Evaluator, Outcome, Work, dump_state


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


class Meddling(Augmented):
    """Its metric draws from every generator there is, and leaves modes and flags as no metric should."""

    fails = 0

    def __init__(self) -> None:
        super().__init__()
        self.val = DataLoader(Noisy(), batch_size=48, shuffle=True, generator=torch.Generator().manual_seed(3))

    def metric(self, model: nn.Module, loader: Any) -> float:
        if hasattr(model, "policy") and self.fails:
            self.fails -= 1
            raise RuntimeError("not now")
        value = super().metric(model, loader)
        if hasattr(model, "policy"):
            model.train().requires_grad_(False)
        return value


def outcome_of(futility: bool, bar: float | None = None, fails: int = 0, bits: int = 3) -> tuple[Outcome, Evaluator]:
    source = Meddling()
    task = LoadedTask.of(source, "test:Task", "test")
    program = save_program(capture(task.model(), torch.zeros(2, 2)))
    made = Evaluator(Work("test:Task", program, default_recipe("qat"), None, None, 0, futility=futility), task)
    source.fails = fails
    policy = Policy.uniform(made.context.network.layers, bits, bits)
    return made.run(policy, seed=7, bar=bar), made


def test_an_early_look_leaves_no_trace() -> None:
    """Whatever a metric draws and changes: the network that comes out is the one without the look, bit for bit."""
    (plain, _), (looked, made) = outcome_of(False), outcome_of(True)
    assert plain.error is None and plain.early is None
    assert looked.early is not None and looked.measurement is not None
    assert looked.measurement == plain.measurement and looked.state == plain.state
    assert looked.early.divergence is not None and looked.early.value != looked.measurement.value
    again = made.build(Policy.uniform(made.context.network.layers, 3, 3), seed=7)  # as for the test split and exports
    assert dump_state(again) == plain.state


def test_an_early_look_scores_as_at_the_end() -> None:
    """The same samples in the same order, so that nothing but training is between the two values."""
    source = Meddling()
    task = LoadedTask.of(source, "test:Task", "test")
    program = save_program(capture(task.model(), torch.zeros(2, 2)))
    still = Recipe("qat", epochs=1.0, options={"lr": 1e-30, "scale_lr": 0.0})
    made = Evaluator(Work("test:Task", program, still, None, None, 0, futility=True), task)
    outcome = made.run(Policy.uniform(made.context.network.layers, 8, 8), seed=7)
    assert outcome.early == outcome.measurement is not None


def test_a_hopeless_trial_is_given_up_and_says_so() -> None:
    free, _ = outcome_of(True)
    assert free.early is not None
    on, _ = outcome_of(True, bar=free.early.value)  # a loss, which is minimised
    assert on.state == free.state and not on.pruned
    given_up, _ = outcome_of(True, bar=free.early.value - 1e-3)
    assert (given_up.pruned, given_up.measurement, given_up.state) == (True, None, b"")
    assert given_up.early == free.early
    assert given_up.error is not None
    assert given_up.error.startswith(f"futile: loss of {free.early.value:.6g} after a quarter of the fine-tune, above")
    assert given_up.seconds > 0
    off, _ = outcome_of(False, bar=-1.0)
    assert off.state == free.state, "without futility there is no look, and no bar"


def test_a_metric_that_fails_early_decides_nothing() -> None:
    plain, later = outcome_of(False)[0], outcome_of(True, bar=-1.0, fails=1)[0]
    assert later.early is None and later.state == plain.state and later.measurement == plain.measurement
    failed = outcome_of(True, fails=2)[0]
    assert not failed.pruned and failed.error is not None
    assert failed.error.startswith("TaskError: metric() of task 'test' raised RuntimeError: not now")


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
