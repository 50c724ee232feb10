"""Pareto sets and hypervolumes, for any number of objectives, all maximised."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobo_mpq.errors import InputError


def _points(points: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, array.shape[-1] if array.ndim == 2 else 0)
    if array.ndim != 2:
        raise InputError(f"points have shape {array.shape}; expected n x m, one row per point")
    if np.isnan(array).any():
        raise InputError("points hold NaN; drop failed trials before asking for a Pareto set or a hypervolume")
    return array


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:  # n x m -> n
    """Mask of the points that no other point beats: as good in all objectives and better in one.

    Equal points do not beat each other: both stay.

    Raises:
        InputError: when the points are not ``n x m``, or hold NaN.
    """
    array = _points(points)
    if len(array) == 0:
        return np.zeros(0, dtype=np.bool_)
    mask: NDArray[np.bool_] = moocore.is_nondominated(array, maximise=True, keep_weakly=True)
    return mask


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:  # n x m, m -> ()
    """Volume that the points dominate above ``reference`` (Zitzler and Thiele, 1998), computed by moocore.

    Points that do not exceed the reference in every objective add nothing.

    Raises:
        InputError: when shapes disagree, or a value is NaN.
    """
    array, corner = _points(points), np.asarray(reference, dtype=np.float64)
    if len(array) == 0:
        return 0.0
    if corner.shape != (array.shape[1],):
        raise InputError(
            f"the reference has shape {corner.shape}, the points {array.shape}; expected one number per objective"
        )
    return float(moocore.hypervolume(array, ref=corner, maximise=True))
