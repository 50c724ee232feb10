"""A logarithm for what lies beyond the interesting: for observations in NumPy, and for their model in torch."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = TypeVar("Values", NDArray[np.float64], Tensor)


class Squeeze(NamedTuple):
    """``h(f) = f`` up to the knee, ``knee + span log(1 + (f - knee) / span)`` beyond it (ours): smooth to first order.

    Attributes:
        knee: in units of f.
        span: likewise, positive.
    """

    knee: float
    span: float

    def __call__(self, f: Values) -> Values:
        """The squeezed values, of the shape of ``f``."""
        beyond = self._beyond(f)
        log1p = torch.log1p if isinstance(f, Tensor) else np.log1p
        return f - beyond + self.span * log1p(beyond / self.span)

    def slope(self, f: Values) -> Values:
        """Derivative: 1 up to the knee, falling to 0 beyond it."""
        return 1.0 / (1.0 + self._beyond(f) / self.span)

    def _beyond(self, f: Values) -> Values:
        return (f - self.knee).clip(min=0.0)
