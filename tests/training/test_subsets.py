"""A share of the data: fixed, of every class alike, and as the loader would give it."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mobo_mpq.training.data import batch_count, passes
from mobo_mpq.training.subsets import subset


def loader_of(target: Tensor, batch_size: int = 16, **options: Any) -> DataLoader[Any]:
    x = torch.arange(len(target), dtype=torch.float32)[:, None]
    return DataLoader(TensorDataset(x, target), batch_size=batch_size, generator=torch.Generator(), **options)


def rows_of(loader: Any) -> list[int]:
    return sorted(int(one) for x, _ in loader for one in x[:, 0])


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
)
def test_every_class_has_its_share(sizes: list[int], fraction: float, seed: int) -> None:
    target = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    kept = subset(loader_of(target, shuffle=True), fraction, seed)
    rows = rows_of(kept)
    total = sum(sizes)
    assert len(rows) == len(set(rows)) == math.ceil(fraction * total - 1e-9)
    counts = Counter(target[rows].tolist())
    for label, size in enumerate(sizes):
        assert abs(counts[label] - size * len(rows) / total) < 1.0 + 1e-9


def test_all_of_it_is_the_loader_itself() -> None:
    loader = loader_of(torch.zeros(8, dtype=torch.long))
    assert subset(loader, 1.0, 0) is loader


def test_the_share_depends_on_the_seed_alone() -> None:
    target = torch.arange(200) % 7
    state = torch.random.get_rng_state()
    first, again, other = (rows_of(subset(loader_of(target, shuffle=True), 0.2, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("target", [torch.rand(50), torch.zeros(50, 3, dtype=torch.long)], ids=["floats", "rows"])
def test_targets_that_are_no_classes(target: Tensor) -> None:
    assert len(rows_of(subset(loader_of(target), 0.3, 0))) == 15


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_is_the_loaders(shuffle: bool) -> None:
    """A sequential loader goes on to be one; a shuffling one draws each pass anew, from all that was kept."""
    kept = subset(loader_of(torch.arange(100) % 5, shuffle=shuffle), 0.3, 0)
    assert batch_count(kept) == 2
    stream = passes(kept, seed=3)
    first, second = (torch.cat([next(stream)[0] for _ in range(2)])[:, 0].tolist() for _ in range(2))
    assert sorted(first) == sorted(second)
    assert (first == second == sorted(first)) is not shuffle


def test_fewer_samples_than_a_batch_are_a_batch() -> None:
    kept = subset(loader_of(torch.zeros(40, dtype=torch.long), batch_size=32, drop_last=True), 0.1, 0)
    assert [len(x) for x, _ in kept] == [4]


class Augments:
    """A loader whose batches come from torch's global generator."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.rand(3) for _ in range(4))


def test_what_a_loader_draws_depends_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first = subset(Augments(), 0.5, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    again, other = subset(Augments(), 0.5, 1), subset(Augments(), 0.5, 2)
    assert torch.equal(torch.stack([*first]), torch.stack([*again]))
    assert not torch.equal(torch.stack([*first]), torch.stack([*other]))


def test_other_loaders_give_their_first_batches() -> None:
    batches = [{"x": torch.full((2,), float(i))} for i in range(10)]
    assert subset(batches, 0.25, 0) == batches[:3]
