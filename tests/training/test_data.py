from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from mobo_mpq.errors import InputError
from mobo_mpq.training import data


def loader(samples: int = 10, size: int = 4, **options: Any) -> DataLoader[Any]:
    rows = torch.arange(float(samples))
    return DataLoader(TensorDataset(rows[:, None], rows.long()), batch_size=size, **options)


def test_split_batch() -> None:
    x, y, z = torch.ones(1), torch.ones(2), torch.ones(3)
    assert data.split_batch((x, y)) == (x, y)
    assert data.split_batch([x, y, z]) == ((x, y), z)
    assert data.split_batch({"x": x, "labels": y}) == ({"x": x, "labels": y}, y)
    assert data.split_batch({"x": x}) == ({"x": x}, None)
    assert data.split_batch(x) == (x, None)
    assert data.split_batch((x,)) == (x, None)


@pytest.mark.parametrize("batch", ["text", 3, ()])
def test_split_batch_of_something_else(batch: Any) -> None:
    with pytest.raises(InputError, match="a batch is a .*expected \\(inputs, target\\), a mapping or a tensor"):
        data.split_batch(batch)


def test_without_labels() -> None:
    assert data.without_labels({"x": 1, "labels": 2}) == {"x": 1}
    assert data.without_labels((1, 2)) == (1, 2)


def test_accepted_by() -> None:
    assert data.accepted_by({"x": 1, "labels": 2}, {"x"}) == {"x": 1}
    assert data.accepted_by((1, 2), set()) == (1, 2)


def test_logits_of() -> None:
    x = torch.ones(1)
    for output in (x, (x, 1), {"logits": x}, SimpleNamespace(logits=x)):
        assert data.logits_of(output) is x
    with pytest.raises(InputError, match="returns a dict without logits; expected .*'loss' of its own"):
        data.logits_of({"x": x})


def test_devices() -> None:
    meta = torch.device("meta")
    moved = data.to_device({"a": [torch.ones(1), (torch.ones(2), 3)]}, meta)
    assert moved["a"][0].device == meta and moved["a"][1][0].device == meta and moved["a"][1][1] == 3
    pair = NamedTuple("pair", [("x", Any), ("y", Any)])(torch.ones(1), 1)
    assert data.to_device(pair, meta)[0].device == meta
    assert data.device_of(nn.Linear(1, 1, device="meta")) == meta
    assert data.device_of(nn.Identity()) == torch.device("cpu")


@given(
    samples=st.integers(1, 20),
    size=st.integers(1, 8),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.none() | st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_shared_loader_gives_the_same_batches(
    samples: int, size: int, shuffle: bool, drop_last: bool, seed: int | None
) -> None:
    def generator() -> torch.Generator | None:
        return None if seed is None else torch.Generator().manual_seed(seed)

    first = loader(samples, size, shuffle=shuffle, drop_last=drop_last, generator=generator())
    shared = data.share(first)
    assert shared is not None
    for array in shared.arrays:
        array.flags.writeable = False  # as an object store gives it back
    second = data.rebuild(shared)
    torch.manual_seed(0)
    expected = list(first)
    torch.manual_seed(0)
    got = list(second)
    assert len(expected) == len(got)
    assert all(torch.equal(a, b) for one, two in zip(expected, got, strict=True) for a, b in zip(one, two, strict=True))


def test_rebuilt_tensors_may_be_written() -> None:
    shared = data.share(loader())
    assert shared is not None
    kept = shared.arrays[0].copy()
    shared.arrays[0].flags.writeable = False
    next(iter(data.rebuild(shared)))[0].zero_()
    for tensor in data.rebuild(shared).dataset.tensors:  # type: ignore[attr-defined]
        tensor.zero_()
    assert np.array_equal(shared.arrays[0], kept)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield torch.ones(1), torch.ones(1)


@pytest.mark.parametrize(
    "other",
    [
        [1, 2],
        DataLoader(Endless(), batch_size=2),
        loader(sampler=SubsetRandomSampler([1, 2])),
        loader(collate_fn=list),
        loader(sampler=torch.utils.data.RandomSampler(range(10), num_samples=3)),  # type: ignore[arg-type]
        DataLoader(TensorDataset(torch.ones(2, dtype=torch.bfloat16))),
    ],
)
def test_other_loaders_are_not_shared(other: Any) -> None:
    assert data.share(other) is None


def take(source: Any, count: int, **options: Any) -> list[list[int]]:
    return [batch[1].tolist() for batch in islice(data.passes(source, **options), count)]


@pytest.mark.parametrize("plain", [True, False])
def test_each_pass_sees_everything_once_in_an_order_of_its_own(plain: bool) -> None:
    extra = {} if plain else {"collate_fn": lambda rows: tuple(torch.stack(c) for c in zip(*rows, strict=True))}
    source = loader(shuffle=True, generator=torch.Generator(), **extra)
    assert (data.share(source) is not None) == plain
    rows = take(source, 6, seed=1)
    first, second = sum(rows[:3], []), sum(rows[3:], [])
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert rows == take(source, 6, seed=1)
    assert rows != take(source, 6, seed=2)


def test_share_of_the_data_is_fixed() -> None:
    rows = take(loader(100, 10, shuffle=True), 6, seed=0, fraction=0.25)
    assert [len(batch) for batch in rows] == [10, 10, 5] * 2
    assert sorted(sum(rows[:3], [])) == sorted(sum(rows[3:], []))
    assert len(set(sum(rows, []))) == 25


def test_loader_in_order_and_short_last_batch() -> None:
    assert take(loader(), 4, seed=0) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert take(loader(drop_last=True), 3, seed=0) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_list_of_batches() -> None:
    batches = [(torch.ones(1), torch.tensor([i])) for i in range(4)]
    assert take(batches, 6, seed=0, fraction=0.5) == [[0], [1], [0], [1], [0], [1]]


def test_batch_count() -> None:
    assert data.batch_count(loader()) == 3
    assert data.batch_count(loader(), 0.5) == 2
    assert data.batch_count(loader(), 1e-9) == 1
    with pytest.raises(InputError, match="the train loader, a DataLoader, has no length"):
        data.batch_count(DataLoader(Endless(), batch_size=2))
    with pytest.raises(InputError, match="the train loader is empty"):
        data.batch_count([])


def test_first_inputs() -> None:
    inputs = data.first_inputs(loader(), 2, seed=0)
    assert [x.flatten().tolist() for x in inputs] == [[0, 1, 2, 3], [4, 5, 6, 7]]  # type: ignore[union-attr]
    assert len(data.first_inputs(loader(), 99, seed=0)) == 3
