from pathlib import Path

import pytest
import torch
from torch import Tensor

from mobo_mpq.errors import InputError
from mobo_mpq.objectives.tasks import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def train() -> dict[str, Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3).T}


def never() -> dict[str, Tensor]:
    raise AssertionError("trained again")


def test_second_use_reads_what_the_first_wrote(folder: Path) -> None:
    first = cache.cached_state("toy", "a" * 64, train)
    second = cache.cached_state("toy", "a" * 64, never)
    assert torch.equal(first["weight"], second["weight"])
    assert [path.name for path in folder.iterdir()] == ["toy-aaaaaaaaaaaaaaaa.safetensors"]


def test_another_key_trains_anew() -> None:
    cache.cached_state("toy", "a" * 64, train)
    with pytest.raises(AssertionError, match="trained again"):
        cache.cached_state("toy", "b" * 64, never)


def test_damaged_file_is_replaced(folder: Path) -> None:
    cache.cached_state("toy", "a" * 64, train)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(cache.cached_state("toy", "a" * 64, train)["weight"], train()["weight"])
    cache.cached_state("toy", "a" * 64, never)


def test_failed_training_leaves_nothing(folder: Path) -> None:
    with pytest.raises(AssertionError):
        cache.cached_state("toy", "a" * 64, never)
    assert list(folder.iterdir()) == []


def test_folder_that_cannot_be_written(folder: Path) -> None:
    folder.write_text("a file, not a folder")
    with pytest.raises(InputError, match="cannot keep the trained weights of 'toy' in .*set MOBO_MPQ_CACHE"):
        cache.cached_state("toy", "a" * 64, never)


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    assert cache.cache_dir().name == "mobo-mpq"


def test_digest_follows_configuration_and_source(tmp_path: Path) -> None:
    source = tmp_path / "task.py"
    source.write_text("a")
    first = cache.digest({"seed": 0}, source)
    assert first == cache.digest({"seed": 0}, source)
    assert first != cache.digest({"seed": 1}, source)
    source.write_text("b")
    assert first != cache.digest({"seed": 0}, source)
