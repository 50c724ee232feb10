"""Independent random streams, by name.

A stream depends on the seed and its labels alone, never on what was drawn before: so a trial gets the same numbers
whatever the order in which trials finish, in every process and under every hash seed.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed of its own for ``labels``."""
    text = repr((int(seed), *labels)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def rng(seed: int, *labels: str | int) -> np.random.Generator:
    """A NumPy generator of its own for ``labels``.

    >>> rng(0, "random", 3).integers(10) == rng(0, "random", 3).integers(10)
    np.True_
    """
    return np.random.default_rng(derive(seed, *labels))
