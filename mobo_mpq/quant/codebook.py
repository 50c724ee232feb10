"""Weights as entries of a code book: 2^bits values for each tensor, found by k-means.

Han, Mao and Dally, "Deep Compression", ICLR 2016, arXiv 1510.00149, as HAQ (Wang et al., CVPR 2019) searches with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec
from mobo_mpq.quant.base import Scheme, TensorQuantizer, register_scheme
from mobo_mpq.quant.functional import OFF_BITS
from mobo_mpq.quant.observers import Observer

ENTRY_BYTES = 4
"""Of a centroid: they are kept in float32."""

_SEED = 0
"""Of the centroids that k-means++ starts from: the same for every trial, so that bits alone decide."""


@register_scheme("kmeans")
@dataclass(frozen=True)
class CodebookScheme(Scheme):
    """A code book for each weight tensor; not for activations, whose values would have to be looked up at run time.

    Attributes:
        iterations: of Lloyd's algorithm, at most.

    Raises:
        InputError: when ``iterations`` is no whole number above 0.
    """

    iterations: int = 50

    def __post_init__(self) -> None:
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise InputError(f"k-means has {self.iterations!r} iterations; expected a whole number above 0")

    def build(self, bits: int, shape: Sequence[int], axis: int | None) -> TensorQuantizer:
        """See :func:`mobo_mpq.quant.base.build_quantizer`."""
        if not shape:
            raise InputError("scheme 'kmeans' does not fit an activation; choose 'uniform' or 'lsq' for activations")
        return CodebookQuantizer(self, bits, tuple(shape))


class CodebookQuantizer(TensorQuantizer):
    """Every weight is one of 2^bits centroids, and stays with it: training moves the centroids, not the weights.

    The gradient of a centroid is the mean of those of its members. So a step moves it as the mean of its members would
    move, had each taken the step by itself: HAQ's fine-tune, which puts the mean in their place after every step.

    Args:
        scheme: how centroids are found.
        bits: 2 to 8.
        shape: of the weight.
    """

    labels: Tensor

    def __init__(self, scheme: CodebookScheme, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits)
        self.scheme = scheme
        self.centroids = nn.Parameter(torch.full((2**bits,), torch.nan))
        self.register_buffer("labels", torch.zeros(shape, dtype=torch.uint8))

    def fit(self, observer: Observer) -> None:
        """Find the centroids; the tensor's own labels are those of :meth:`calibrate`."""
        observer.extremes()  # which refuses what is not finite
        found = centroids_of(observer.values().flatten(), 2**self.bits, self.scheme.iterations)
        with torch.no_grad():
            self.centroids.copy_(found)

    def calibrate(self, x: Tensor) -> None:
        """Find the centroids of ``x``, and the one that is nearest to each of its values."""
        super().calibrate(x)
        self.labels.copy_(self.nearest(x.detach()))

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """Index of the nearest centroid, which are in increasing order; the lower one of two that are as near."""
        between = (self.centroids[1:] + self.centroids[:-1]) / 2
        return torch.bucketize(x, between)

    @property
    def members(self) -> Tensor:
        """How many weights each centroid has, ``(2^bits,)``."""
        return torch.bincount(self.labels.flatten().long(), minlength=len(self.centroids))

    def quantize(self, x: Tensor) -> Tensor:
        """The centroids of ``x``, which is the weight that was calibrated; what it holds by now is of no meaning."""
        fixed = self.centroids.detach()
        values = fixed + (self.centroids - fixed) / self.members.clamp(min=1)  # the value itself, a mean as gradient
        return values[self.labels.long()]


def centroids_of(values: Tensor, count: int, iterations: int) -> Tensor:  # n -> count
    """Centroids by k-means++ and Lloyd's algorithm, in increasing order.

    Where there are fewer distinct values, those are the centroids, and the last fills the rest.

    Args:
        values: finite.
        count: of the centroids.
        iterations: at most.
    """
    from sklearn.cluster import KMeans  # heavy
    from sklearn.exceptions import ConvergenceWarning

    distinct = values.unique()
    if len(distinct) <= count:
        return torch.cat([distinct, distinct[-1:].expand(count - len(distinct))])
    model = KMeans(count, init="k-means++", n_init=1, max_iter=iterations, random_state=_SEED, algorithm="lloyd")
    with warnings.catch_warnings(), _threads().limit(limits=1):  # sums of several threads depend on how many they are
        warnings.simplefilter("ignore", ConvergenceWarning)  # of values that differ in their last digits alone
        model.fit(values.detach().cpu().double().numpy()[:, None])
    found = torch.from_numpy(np.sort(model.cluster_centers_[:, 0]))
    return found.to(values)


@cache
def _threads() -> ThreadpoolController:
    """Finding them takes milliseconds, so it is done once, when scikit-learn has brought its own."""
    return ThreadpoolController()


def codebook_bytes(layer: LayerSpec, weight_bits: int) -> float:
    """Bytes of a layer's code book; 0 where the weight stays in float, or there is none."""
    if weight_bits in OFF_BITS:
        return 0.0
    return float(ENTRY_BYTES * min(2**weight_bits, layer.num_weights))
