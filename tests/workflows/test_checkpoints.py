from __future__ import annotations

from pathlib import Path

from mobo_mpq.workflows.checkpoints import Checkpoints


def test_only_the_front_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 1e6)
    assert all(checkpoints.save(number, bytes([number]) * 10) for number in (1, 2, 3))
    checkpoints.keep_only({1, 3})
    assert [checkpoints.load(number) for number in (1, 2, 3)] == [b"\x01" * 10, None, b"\x03" * 10]


def test_a_network_that_replaces_itself_counts_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 15)
    assert checkpoints.save(1, b"x" * 10)
    assert checkpoints.save(1, b"y" * 12)
    assert checkpoints.load(1) == b"y" * 12


def test_their_sum_is_capped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 25)
    assert [checkpoints.save(number, b"x" * 10) for number in (1, 2, 3)] == [True, True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.safetensors", "2.safetensors"]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", 100)
    checkpoints.keep_only({1})
    assert checkpoints.load(1) is None
    assert checkpoints.save(1, b"x" * 10)
    assert checkpoints.load(1) == b"x" * 10
