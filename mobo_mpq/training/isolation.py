"""Random numbers and threads of one computation, kept apart from everybody else's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(seed: int, threads: int | None = None) -> Iterator[None]:
    """Seed torch, NumPy and Python's ``random`` for a block, and put all three and torch's threads back afterwards.

    A user's data set may augment by any of the three.

    Args:
        seed: of the global generators within the block; NumPy's takes its lower 32 bits.
        threads: used within the block; ``None`` leaves the caller's. Sums are only bit-identical between runs of the
            same number of threads.
    """
    before = torch.get_num_threads()
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            np.random.set_state(of_numpy)
            random.setstate(of_python)
