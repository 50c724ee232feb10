import hashlib
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError, TaskError
from mobo_mpq.objectives.tasks import LoadedTask, cache, load_task
from mobo_mpq.objectives.tasks.text import ALPHABET, FILES, OTHER, SYMBOLS, Config, Text, TextNet, encode

TINY = Config(width=8, heads=2, blocks=1, float_steps=20, train_sequences=16, eval_sequences=16)


@pytest.fixture(scope="module")
def task() -> LoadedTask:
    return load_task("text")


def test_files_are_in_one_split_each() -> None:
    names = [name for split in FILES.values() for name in split]
    assert len(names) == len(set(names))


def test_manifest_names_and_hashes_what_is_read(tmp_path: Path) -> None:
    for split in FILES.values():
        (tmp_path / f"{split[0]}.py").write_text("x = 1\n" * 2000)
    manifest = Text(TINY, tmp_path).manifest
    digest = hashlib.sha256(b"x = 1\n" * 2000).hexdigest()
    assert manifest == {f"{split}/{names[0]}.py": digest for split, names in FILES.items()}


def test_library_without_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the train split of task 'text' found 0 of .*expected the source of Python"):
        Text(TINY, tmp_path)


def test_encoding() -> None:
    ids = encode("a\n~é\t ")
    assert ids.tolist() == [ALPHABET.index("a"), 0, SYMBOLS - 2, OTHER, OTHER, ALPHABET.index(" ")]


def test_targets_are_the_next_characters(task: LoadedTask) -> None:
    assert task.test is not None
    for loader in (task.train, task.val, task.test):
        ids, target = next(iter(loader))
        assert ids.shape == target.shape and ids.shape[1] == Config().context
        assert torch.equal(ids[:, 1:], target[:, :-1])


def test_network_is_causal() -> None:
    torch.manual_seed(0)
    net = TextNet(16, 2, 2).eval()
    ids = torch.randint(0, SYMBOLS, (1, 64))
    changed = ids.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % SYMBOLS
    a, b = net(ids), net(changed)
    assert a.shape == (1, 64, SYMBOLS)
    assert torch.equal(a[:, :40], b[:, :40])
    assert not torch.equal(a[:, 40:], b[:, 40:])


def test_metric_of_a_uniform_guess_is_the_size_of_the_alphabet(task: LoadedTask) -> None:
    class Guess(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.zeros(*ids.shape, SYMBOLS)

    measured = task.measure(Guess(), task.val)
    assert measured.value == pytest.approx(math.log2(SYMBOLS))
    assert measured.stderr == pytest.approx(0.0, abs=1e-9)
    assert task.metric(Guess(), task.val) == measured.value


def test_diverged_network_is_an_error(task: LoadedTask) -> None:
    class Nan(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return torch.full((*ids.shape, SYMBOLS), torch.nan)

    with pytest.raises(TaskError, match="metric 'bits_per_char' of task 'text' returned .*nan.*finite float"):
        task.measure(Nan(), task.val)


def test_loss_of_the_task_is_that_of_training(task: LoadedTask) -> None:
    logits = torch.zeros(2, 3, SYMBOLS)
    assert task.loss(logits, torch.zeros(2, 3, dtype=torch.long)).item() == pytest.approx(math.log(SYMBOLS))


def test_training_repeats_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    states = []
    for folder in ("a", "b"):
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / folder))
        states.append(Text(TINY).model().state_dict())
    monkeypatch.setattr(Text, "_train", None)
    states.append(Text(TINY).model().state_dict())
    for other in states[1:]:
        assert all(torch.equal(states[0][key], other[key]) for key in states[0])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_example(task: LoadedTask) -> None:
    assert isinstance(task.example, Tensor) and task.example.shape == (1, Config().context)


@pytest.mark.slow
def test_float_network_has_learned(task: LoadedTask) -> None:
    measured = task.measure(task.model(), task.val)
    assert measured.value < 2.4  # a count of single characters gives about 4.6
