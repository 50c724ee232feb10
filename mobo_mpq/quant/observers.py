"""Observers: what range of a tensor the integers shall cover.

A range becomes a scale and a zero point in one place, :func:`scale_and_zero_point`, in which every range is first
widened to hold 0, so that zero padding and ReLU stay exact.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import torch
from torch import Tensor

from mobo_mpq.errors import InputError

SMALLEST_SCALE = float(torch.finfo(torch.float32).eps)
"""Scales stay at or above this, so that their inverse is finite: a tensor of zeros has no scale of its own."""

_SAMPLES = 16384  # values of an activation that a search over ranges looks at
_CHANNEL_SAMPLES = 4096  # values of one channel of a weight
_COARSE, _FINE = 32, 16  # candidates of the two passes of the search
_SMALLEST_FRACTION = 0.02  # of the full range
_CHUNK = 2**19  # elements of candidates x values held at once, so that they stay in the cache


class ObserverKind(StrEnum):
    """How a range is chosen."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    MSE = "mse"


class Observer:
    """Collects what is needed to choose ranges: extremes exactly, values by a bounded and evenly spaced sample.

    Args:
        axis: channel axis, None for one range per tensor.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self._limit = _SAMPLES if axis is None else _CHANNEL_SAMPLES
        self._thinning = 1
        self._parts: list[Tensor] = []
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take in one more batch of the tensor."""
        if not x.numel():
            return
        x = x.detach().to(torch.float32)
        rows = x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).reshape(x.shape[self.axis], -1)
        low, high = rows.amin(1), rows.amax(1)
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)
        stride = -(-rows.shape[1] // self._limit) * self._thinning
        stride += stride % 2 == 0 and stride > 1  # an odd stride meets every channel of a power of two
        self._parts.append(rows[:, ::stride].clone())
        if sum(part.shape[1] for part in self._parts) > 2 * self._limit:
            self._parts = [torch.cat(self._parts, 1)[:, ::2].clone()]
            self._thinning *= 2

    @property
    def empty(self) -> bool:
        """Whether nothing was observed."""
        return self._low is None

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value seen, each ``(channels,)``.

        Raises:
            InputError: when nothing was observed, or something that is not finite.
        """
        if self._low is None or self._high is None:
            raise InputError("no data was observed; pass at least one batch to calibrate()")
        if not bool(torch.isfinite(self._low).all() and torch.isfinite(self._high).all()):
            raise InputError("a tensor to be quantized holds NaN or infinity; check the model and its input")
        return self._low, self._high

    def values(self) -> Tensor:
        """The sample, ``(channels, values)``."""
        return torch.cat(self._parts, 1)


def scale_and_zero_point(low: Tensor, high: Tensor, qmin: int, qmax: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The finest grid that covers ``[low, high]`` and 0.

    Args:
        low: any shape.
        high: of low's shape.
        qmin: smallest integer.
        qmax: largest integer.
        symmetric: whether the zero point is 0.

    Returns:
        Scale, and zero point as int32, both of low's shape.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if symmetric:
        scale = torch.maximum(low / qmin, high / qmax) if qmin < 0 else high / qmax
        return scale.clamp(min=SMALLEST_SCALE), torch.zeros_like(scale, dtype=torch.int32)
    scale = ((high - low) / (qmax - qmin)).clamp(min=SMALLEST_SCALE)
    zero_point = (qmin - torch.round(low / scale)).clamp(qmin, qmax)
    return scale, zero_point.to(torch.int32)


def choose(
    observer: Observer,
    kind: ObserverKind | str,
    qmin: int,
    qmax: int,
    symmetric: bool,
    percentile: float = 99.99,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point, ``(channels,)`` each, for what ``observer`` has seen.

    Args:
        observer: has seen data.
        kind: ``minmax`` covers everything, ``percentile`` all but the rarest values, ``mse`` is of least squared error.
        qmin: smallest integer.
        qmax: largest integer.
        symmetric: whether the zero point is 0.
        percentile: share of the values that ``percentile`` covers, in percent; half of the rest is cut at either end.

    Raises:
        InputError: when nothing finite was observed.
    """
    low, high = observer.extremes()
    if kind == ObserverKind.PERCENTILE:
        low, high = _percentile_range(observer.values(), percentile, symmetric)
    elif kind == ObserverKind.MSE:
        values = observer.values()
        channels = max(1, _CHUNK // (_COARSE * values.shape[1]))
        parts = zip(values.split(channels), low.split(channels), high.split(channels), strict=True)
        ranges = [_mse_range(*part, qmin, qmax, symmetric) for part in parts]
        low, high = (torch.cat(ends) for ends in zip(*ranges, strict=True))
    return scale_and_zero_point(low, high, qmin, qmax, symmetric)


def _percentile_range(values: Tensor, percentile: float, symmetric: bool) -> tuple[Tensor, Tensor]:
    if symmetric:
        bound = torch.quantile(values.abs(), percentile / 100.0, dim=1)
        return torch.maximum(-bound, values.amin(1)), torch.minimum(bound, values.amax(1))
    tail = (1.0 - percentile / 100.0) / 2.0
    return torch.quantile(values, tail, dim=1), torch.quantile(values, 1.0 - tail, dim=1)


def _mse_range(
    values: Tensor, low: Tensor, high: Tensor, qmin: int, qmax: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Shrink both ends together, then, on an affine grid of values of both signs, each end alone."""

    def error(low: Tensor, high: Tensor) -> Tensor:  # both (candidates, channels)
        return _squared_error(values, *scale_and_zero_point(low, high, qmin, qmax, symmetric), qmin, qmax)

    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    fraction = _search(lambda f: error(f * low, f * high), low)
    low, high = fraction * low, fraction * high
    if not symmetric and bool(((low < 0) & (high > 0)).any()):
        high = _search(lambda f: error(low.expand_as(f), f * high), low) * high
        low = _search(lambda f: error(f * low, high.expand_as(f)), low) * low
    return low, high


def _search(error: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """The fraction, per channel, of least error: a coarse geometric pass, then a fine one about its best."""
    step = _SMALLEST_FRACTION ** (1.0 / (_COARSE - 1))
    exponents = torch.arange(_COARSE, dtype=like.dtype, device=like.device)[:, None]
    coarse = (step**exponents).expand(-1, like.numel())  # candidates x channels
    best = coarse.gather(0, error(coarse).argmin(0, keepdim=True))
    towards = torch.linspace(1.0, -1.0, _FINE + 1, dtype=like.dtype, device=like.device)[:, None]
    fine = (best * step**towards).clamp(max=1.0)
    return fine.gather(0, error(fine).argmin(0, keepdim=True))[0]


def _squared_error(values: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Mean squared error of every candidate, ``candidates x channels``, for values ``channels x samples``."""
    chunk = max(1, _CHUNK // values.numel())
    errors = []
    for scales, points in zip(scale.split(chunk), zero_point.split(chunk), strict=True):
        offset = points[:, :, None].to(values.dtype)
        steps = values * (1.0 / scales)[:, :, None]  # candidates x channels x samples
        steps = torch.clamp(steps.round_(), qmin - offset, qmax - offset).mul_(scales[:, :, None])
        errors.append(steps.sub_(values).square_().mean(2))
    return torch.cat(errors)
