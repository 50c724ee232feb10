from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mobo_mpq.objectives.tasks import LoadedTask, cache, load_task
from mobo_mpq.objectives.tasks.digits import Config, Digits, DigitsNet, augment, split_images

TINY = Config(channels=4, train_copies=1, epochs=1)


@pytest.fixture(scope="module")
def task() -> LoadedTask:
    return load_task("digits")


def test_split_is_by_image_in_equal_shares() -> None:
    split = split_images(0)
    assert [len(split[key]) for key in ("train", "val", "test")] == [1077, 360, 360]
    assert len(set(np.concatenate(list(split.values())))) == 1797


def test_augmentations_are_shifted_copies() -> None:
    clean = Config(noise=0.0)
    images, labels = augment(np.arange(5), 3, clean, "a")
    assert images.shape == (15, 1, 16, 16)
    assert labels.tolist() == np.repeat([0, 1, 2, 3, 4], 3).tolist()
    assert images.min() >= 0.0 and images.max() <= 1.0
    plain, _ = augment(np.arange(5), 1, replace(clean, shift=0), "a")
    reach = clean.shift
    padded = torch.nn.functional.pad(plain, (reach,) * 4)
    windows = padded.unfold(2, 16, 1).unfold(3, 16, 1)  # (5, 1, 5, 5, 16, 16): every shift there is
    for copy, image in enumerate(images):
        same = (windows[copy // 3, 0] == image[0]).all(-1).all(-1)
        assert same.any()


def test_noise_has_the_stated_size() -> None:
    base, _ = augment(np.arange(200), 4, Config(shift=0, noise=0.0), "a")
    noisy, _ = augment(np.arange(200), 4, Config(shift=0), "a")
    middle = (noisy - base)[(base > 0.45) & (base < 0.55)]  # where clipping is rare
    assert middle.std().item() == pytest.approx(Config().noise, rel=0.05)


def test_eight_layers_and_the_shape_of_the_output() -> None:
    net = DigitsNet().eval()
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 8
    assert sum(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in layers) == 3
    assert net(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def test_float_accuracy_is_high_but_not_perfect(task: LoadedTask) -> None:
    model = task.model()
    for loader in (task.val, task.test):
        assert loader is not None
        measured = task.measure(model, loader)
        assert 0.95 <= measured.value <= 0.99
        assert measured.value == task.metric(model, loader)
        assert measured.stderr is not None and 0.002 < measured.stderr < 0.01


def test_standard_error_counts_base_images(task: LoadedTask) -> None:
    class FirstCopyOnly(nn.Module):
        """Right on whole base images alone: the copies of an image agree."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = torch.arange(len(x)) // 4
            return torch.nn.functional.one_hot(torch.where(rows % 2 == 0, labels[: len(x)], 10), 11).double()

    loader = torch.utils.data.DataLoader(task.val.dataset, batch_size=1440)  # type: ignore[attr-defined]
    labels = loader.dataset.tensors[1]  # type: ignore[attr-defined]
    value, error = task.measure(FirstCopyOnly(), loader).value, task.measure(FirstCopyOnly(), loader).stderr
    assert value == 0.5
    assert error == pytest.approx(0.5 / np.sqrt(360), rel=0.1)


def test_loaders_repeat_and_leave_the_global_generator_alone(task: LoadedTask) -> None:
    before = torch.get_rng_state()
    other = Digits()
    for mine, theirs in ((task.val, other.val), (task.test, other.test), (task.train, other.train)):
        for a, b in zip(mine, theirs, strict=True):  # type: ignore[call-overload]
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(next(iter(other.train))[0], next(iter(other.train))[0])  # a new order on each pass


def test_training_repeats_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    states = []
    for folder in ("a", "b"):
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / folder))
        states.append(Digits(TINY).model().state_dict())
    monkeypatch.setattr(Digits, "_train", None)  # from now on, the cache or nothing
    states.append(Digits(TINY).model().state_dict())
    for other in states[1:]:
        assert all(torch.equal(states[0][key], other[key]) for key in states[0])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
