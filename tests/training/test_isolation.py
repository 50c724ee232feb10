import random

import numpy as np
import pytest
import torch

from mobo_mpq.training.isolation import isolated


def test_numbers_follow_the_seed_and_leave_no_trace() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    drawn = []
    for seed in (1, 1, 2):
        with isolated(seed, threads=1):
            assert torch.get_num_threads() == 1
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_everything_is_put_back_after_an_error() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), isolated(0, threads=threads + 1):
        torch.rand(3)
        raise ValueError("inside")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_numpy_and_python_are_seeded_and_put_back_too() -> None:
    before = np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index, union-attr]
    drawn = []
    for seed in (2**63 - 1, 2**63 - 1, 0):
        with isolated(seed):
            drawn.append((float(np.random.rand()), random.random()))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[2][0] and drawn[0][1] != drawn[2][1]
    with pytest.raises(ValueError, match="inside"), isolated(0):
        raise ValueError("inside")
    assert before == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index, union-attr]
