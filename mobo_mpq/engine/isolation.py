"""Threads, random state and warnings of a proposal, kept apart from everybody else's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from botorch.exceptions.warnings import BotorchWarning
from linear_operator.utils.warnings import NumericalWarning
from threadpoolctl import ThreadpoolController


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """One thread and a random state of its own for torch, both restored; no warnings about numerics.

    Threads would make sums, and so proposals, depend on the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def _blas() -> ThreadpoolController:
    """NumPy's linear algebra has threads of its own; finding them takes milliseconds, so it is done once."""
    return ThreadpoolController()
