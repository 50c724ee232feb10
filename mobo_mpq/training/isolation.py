"""Random numbers and threads of one computation, kept apart from everybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def isolated(seed: int, threads: int | None = None) -> Iterator[None]:
    """Seed torch for a block, and put its generators and its thread count back afterwards.

    Args:
        seed: of torch's global generators within the block.
        threads: used within the block; ``None`` leaves the caller's. Sums are only bit-identical between runs of the
            same number of threads.
    """
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
