"""How much a layer's gradient is enlarged on its way down: adaptive loss scaling.

Zhao, Vogel and Ahmed, "Adaptive Loss Scaling for Mixed Precision Training", arXiv 1910.12385. Scales are powers of two:
multiplying by one rounds nothing, so that dividing it out again gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

SMALLEST = 6e-8
"""u_min: the smallest positive number of float16 (2**-24), rounded as in the paper."""
LARGEST = 6e4
"""u_max: a little below the largest number of float16 (65504)."""
SHARE = 1e-3
"""p: the share of products that may fall below :data:`SMALLEST`."""
LARGEST_FACTOR = 16.0
"""Of one layer."""
LARGEST_TOTAL = 1024.0
"""Of all layers above together, and the scale of the loss."""

_QUANTILE = NormalDist().inv_cdf((1.0 + SHARE) / 2.0)  # sqrt(2) * erfinv(SHARE) = 0.00125331


@dataclass(frozen=True, slots=True)
class Spread:
    """How large the elements of a tensor are.

    Attributes:
        rms: root mean square: ``sqrt(variance + mean**2)``.
        largest: of the absolute values.
    """

    rms: float
    largest: float

    @classmethod
    def of(cls, tensor: Tensor) -> Spread:
        """Measured in double precision, in which squares of the smallest float16 are no zeros."""
        if not tensor.numel():
            return cls(0.0, 0.0)
        norm = torch.linalg.vector_norm(tensor, dtype=torch.float64)
        norm, largest = torch.stack([norm, tensor.abs().amax().double()]).tolist()  # one wait for the device
        return cls(norm / math.sqrt(tensor.numel()), largest)

    def times(self, factor: float) -> Spread:
        """That of the tensor times a positive number."""
        return Spread(self.rms * factor, self.largest * factor)


def power_of_two(number: float) -> float:
    """The largest power of two that is not above a positive number.

    >>> power_of_two(1.0), power_of_two(1.23), power_of_two(0.23)
    (1.0, 1.0, 0.125)
    """
    return math.ldexp(1.0, math.frexp(number)[1] - 1)


def layer_scale(gradient: Spread, weight: Spread, fan_in: int, carried: float) -> float:
    """The factor on the gradient of a layer's output before the gradient of its input is computed.

    Products of their elements are taken for normal, with the standard deviation ``gradient.rms * weight.rms``. The
    factor is the one at which :data:`SHARE` of them is below :data:`SMALLEST`; it is at least 1, unless a sum of
    ``fan_in`` products could then exceed :data:`LARGEST`, or the total :data:`LARGEST_TOTAL`.

    Departs from the paper in one bound: the enlarged gradient itself must not exceed :data:`LARGEST` either.

    Args:
        gradient: of the layer's output, as it arrives.
        weight: of the layer.
        fan_in: products that are added up for one element of the input's gradient: outputs per group times positions
            of the kernel.
        carried: scale of ``gradient``.

    Returns:
        A power of two; 1 where all products are 0, or not finite.
    """
    sd, product = gradient.rms * weight.rms, gradient.largest * weight.largest
    if not 0.0 < sd < math.inf or not product < math.inf:
        return 1.0
    scale = max(SMALLEST / _QUANTILE / sd, 1.0)
    limits = LARGEST / fan_in / product, LARGEST / gradient.largest, LARGEST_TOTAL / carried, LARGEST_FACTOR
    return power_of_two(min(scale, *limits))


def common_scale(gradients: Sequence[Spread], carried: Sequence[float]) -> float:
    """The largest scale among those of several gradients at which their sum cannot overflow.

    Args:
        gradients: to be added, all of one tensor.
        carried: their scales, powers of two.

    Returns:
        A power of two; the largest of ``carried`` where a gradient is not finite: nothing can be saved.
    """
    unscaled = sum(spread.largest / scale for spread, scale in zip(gradients, carried, strict=True))
    if not 0.0 < unscaled < math.inf:
        return max(carried)
    return min(max(carried), power_of_two(LARGEST / unscaled))
