"""How sure a mean is, when only its groups are independent."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobo_mpq.seeding import rng


def grouped_mean(scores: ArrayLike, group: int = 1) -> NDArray[np.float64]:
    """Means of consecutive groups of ``group`` scores, which must fill the groups.

    Args:
        scores: one per sample.
        group: samples per group, such as the augmentations of one image.
    """
    values = np.asarray(scores, dtype=np.float64)
    return values.reshape(-1, group).mean(axis=1)


def standard_error(groups: ArrayLike, resamples: int = 1000, seed: int = 0) -> float:
    """Standard error of the mean over ``groups``, by the bootstrap (Efron 1979).

    Args:
        groups: one value per independent group.
        resamples: means that are drawn.
        seed: of the draw, so that a measurement repeats.
    """
    values = np.asarray(groups, dtype=np.float64)
    # How often each group is drawn is all that a resampled mean depends on.
    counts = rng(seed, "bootstrap").multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    return float((counts @ values / len(values)).std(ddof=1))
