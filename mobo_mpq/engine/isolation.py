"""Threads, random state and warnings of a proposal, kept apart from everybody else's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from botorch.exceptions.warnings import BotorchWarning
from linear_operator.utils.warnings import NumericalWarning
from threadpoolctl import ThreadpoolController

from mobo_mpq.training import isolation as training_isolation


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """One thread, for NumPy's linear algebra too, and random states of its own, all restored; no numerical warnings.

    Threads would make sums, and so proposals, depend on the machine.
    """
    with _blas().limit(limits=1), training_isolation.isolated(seed, threads=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)
        warnings.simplefilter("ignore", NumericalWarning)
        yield


@cache
def _blas() -> ThreadpoolController:
    """NumPy's linear algebra has threads of its own; finding them takes milliseconds, so it is done once."""
    return ThreadpoolController()
