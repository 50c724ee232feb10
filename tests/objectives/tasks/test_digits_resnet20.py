from pathlib import Path

import pytest
import torch

import mobo_mpq as mm
from mobo_mpq.export.onnx_qdq import export_onnx
from mobo_mpq.export.verify import verify_onnx
from mobo_mpq.graph import Network
from mobo_mpq.objectives.tasks import LoadedTask, cache, load_task
from mobo_mpq.objectives.tasks.digits import Config, Digits
from mobo_mpq.objectives.tasks.digits_resnet20 import DigitsResNet20
from mobo_mpq.testing import networks
from mobo_mpq.testing.networks import traced
from mobo_mpq.training.recipes import TrainingContext, run_recipe
from mobo_mpq.trial import Recipe

TINY = Config(channels=4, train_copies=1, eval_copies=1, epochs=1)
LAYERS = traced(DigitsResNet20().network, 1, 16, 16).layers


def test_is_built_in_and_says_what_it_is() -> None:
    task = load_task("digits-resnet20")
    assert (task.name, task.address, task.metric_name) == ("digits-resnet20", "digits-resnet20", "accuracy")
    assert "digits-resnet20" in task.about and "ResNet-20" in task.about


def test_data_are_those_of_digits() -> None:
    for split in ("train", "val", "test"):
        mine, theirs = next(iter(getattr(DigitsResNet20(), split))), next(iter(getattr(Digits(), split)))
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_twenty_layers_and_two_shortcuts_at_a_quarter_of_the_paper_s_operations() -> None:
    paper = traced(networks.resnet20, 3, 16, 16).layers
    assert len(LAYERS) == len(paper) == 20 + 2
    assert sum(layer.num_weights for layer in LAYERS) == sum(layer.num_weights for layer in paper) - 2 * 9 * 16
    assert sum(layer.num_weights for layer in LAYERS) == 270_608
    inner = [layer.name for layer in LAYERS[1:-1]]  # all but the stem, which sees one channel, and the classifier
    macs = [{layer.name: layer.macs for layer in found} for found in (LAYERS, paper)]
    assert all(4 * macs[0][name] == macs[1][name] for name in inner)


def test_a_stream_of_a_stage_is_one_decision() -> None:
    space = mm.SearchSpace.from_layers(LAYERS, mm.load_target("mpic"), weight_bits=(2, 4, 8), activation_bits=(2, 4, 8))
    activations = [variable for variable in space.variables if variable.role == "activation"]
    # the image, the streams of three stages, the tensor inside each of nine blocks, the average over the image
    assert len(activations) == 1 + 3 + 9 + 1
    # layers that read a stream: the first of each of three blocks, and what the next stage begins with
    assert sorted(len(variable.layers) for variable in activations) == [1] * 11 + [2, 4, 5]
    assert space.cardinality == 3 ** (22 + 14)


def test_training_repeats_and_is_kept_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    states = []
    for folder in ("a", "b"):
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / folder))
        states.append(DigitsResNet20(TINY).model().state_dict())
    Digits(TINY).model()
    kept = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "b").iterdir())
    assert kept == ["digits", "digits-resnet20"]
    monkeypatch.setattr(DigitsResNet20, "_train", None)  # from now on, the cache or nothing
    states.append(DigitsResNet20(TINY).model().state_dict())
    for other in states[1:]:
        assert all(torch.equal(states[0][key], other[key]) for key in states[0])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_weights_are_trained_anew_when_the_network_s_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    DigitsResNet20(TINY).model()
    changed = tmp_path / "networks.py"
    changed.write_text("another network")
    sources = tuple(str(changed) if path == networks.__file__ else path for path in DigitsResNet20.sources)
    assert sources != DigitsResNet20.sources
    monkeypatch.setattr(DigitsResNet20, "sources", sources)
    DigitsResNet20(TINY).model()
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_runs_in_onnx_runtime_as_it_does_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    task = LoadedTask.of(DigitsResNet20(TINY), "tiny", "tiny")
    network = Network.from_model(task.model(), task.example)
    inputs = [batch[0] for batch in task.val]
    # below 8 bits ONNX Runtime computes in float, so that even a network that has hardly learned agrees exactly
    policy = mm.Policy.uniform(network.layers, 4, 4)
    found = run_recipe(Recipe("ptq"), TrainingContext(network, task.train, task.loss, inputs[:1]), policy, seed=0)
    path = tmp_path / "model.onnx"
    export_onnx(found, task.example, path)
    verified = verify_onnx(path, found, task.val)
    assert verified.samples == 360
    assert verified.max_abs_difference < 1e-4


@pytest.mark.slow
def test_float_accuracy_is_high_but_not_perfect() -> None:
    task = load_task("digits-resnet20")
    model = task.model()
    for loader in (task.val, task.test):
        assert loader is not None
        assert 0.97 <= task.metric(model, loader) <= 0.995
