"""What a strategy has seen, as the surrogate takes it: a signal to model, and its link to the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.fitting import Data

POWERS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
_LEAST_LINKED = 6


@dataclass(frozen=True)
class Link:
    """``loss = offset + factor signal^power``: how the modelled signal becomes the loss (ours).

    The identity, unless the signal is a divergence, which grows with the loss, smoothly and with far less noise.

    Attributes:
        offset: the loss at no divergence, in units of the loss.
        factor: 0 or more.
        power: one of :data:`POWERS`.
    """

    offset: float = 0.0
    factor: float = 1.0
    power: float = 1.0

    def loss(self, signal: Floats) -> Floats:
        """The loss at a signal; a divergence is positive."""
        if self.power == 1.0:
            return np.asarray(self.offset + self.factor * signal)
        return np.asarray(self.offset + self.factor * np.maximum(signal, 1e-12) ** self.power)

    def signal(self, loss: float) -> float:
        """The divergence that stands for a loss; 0 for a loss that is less than that of no divergence.

        Not of a link that does not rise.
        """
        return float(max((loss - self.offset) / self.factor, 0.0) ** (1.0 / self.power))

    def slope(self, signal: Floats, least: float) -> Floats:
        """Derivative of the loss, at signals of at least ``least``: steep powers have none at 0."""
        if self.power == 1.0:
            return np.full_like(signal, self.factor)
        return np.asarray(self.factor * self.power * np.maximum(signal, least) ** (self.power - 1.0))

    @classmethod
    def between(cls, divergence: Floats, loss: Floats) -> Link:
        """The least-squares link, of the best of :data:`POWERS`; a loss does not fall with the divergence."""
        best: tuple[float, Link] | None = None
        for power in POWERS:
            x = np.maximum(divergence, 1e-12) ** power
            spread = float(np.square(x - x.mean()).sum())
            factor = float(((x - x.mean()) * (loss - loss.mean())).sum() / spread) if spread > 0 else 0.0
            link = cls(float(loss.mean() - factor * x.mean()), factor, power)
            error = float(np.square(loss - link.loss(divergence)).sum())
            if factor > 0 and (best is None or error < best[0]):
                best = error, link
        return best[1] if best else cls(float(loss.mean()), 0.0)


@dataclass(frozen=True, eq=False)
class Observations:
    """Complete trials, in the order in which they finished.

    Attributes:
        levels: ``n x d``.
        loss: n, the quality with the sign that makes it one to minimise.
        divergence: n, or ``None`` where some trial has none.
        reference: worst loss of interest.
        exact: n, whether the loss has no noise.
    """

    levels: Levels
    loss: Floats
    divergence: Floats | None
    reference: float
    exact: NDArray[np.bool_]

    def first(self, count: int) -> Observations:
        """The first so many."""
        return Observations(
            self.levels[:count],
            self.loss[:count],
            None if self.divergence is None else self.divergence[:count],
            self.reference,
            self.exact[:count],
        )

    @property
    def span(self) -> float:
        """From the least loss to the reference; their spread where nothing is better than the reference."""
        span = self.reference - float(self.loss.min())
        return span if span > 0 else max(float(np.ptp(self.loss)), 1e-12)

    def near(self) -> NDArray[np.intp]:
        """Indices of the policies that are not much worse than the reference, or of the best few."""
        near = np.flatnonzero(self.loss <= self.reference + self.span)
        return near if len(near) >= _LEAST_LINKED else np.sort(np.argsort(self.loss, kind="stable")[:_LEAST_LINKED])

    def direct(self) -> tuple[Data, Link]:
        """The loss itself as the signal."""
        knee = max(self.reference, float(self.loss.min())) + 0.5 * self.span
        return self._data(self.loss, knee, self.span), Link()

    def by_divergence(self) -> tuple[Data, Link] | None:
        """The divergence as the signal, where it is known and says something about the loss."""
        if self.divergence is None or len(self.loss) < _LEAST_LINKED:
            return None
        near = self.near()
        link = Link.between(self.divergence[near], self.loss[near])
        if link.factor <= 0:
            return None
        knee = link.signal(max(self.reference, float(self.loss.min())) + 0.5 * self.span)
        span = max(knee - float(self.divergence.min()), 1e-12)
        return self._data(self.divergence, knee, span), link

    def _data(self, signal: Floats, knee: float, span: float) -> Data:
        return Data(self.levels, signal, bool(self.exact.all()), self.loss, knee, span)
