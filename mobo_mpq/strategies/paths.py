"""Joint draws of the losses of policies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.strategies.surrogate import LEAST_VARIANCE, Surrogate

Levels = NDArray[np.intp]
Floats = NDArray[np.float64]


class Paths:
    """Draws of the loss at the observed policies and at further ones, and what any other policy is, given a draw.

    In the eigenvectors of the covariance the losses of the observed policies are independent a posteriori, so that a
    draw costs a product of matrices; further policies extend the whitened basis by one row each.

    Args:
        surrogate: fitted.
        draws: how many.
        rng: of the draws.

    Attributes:
        values: ``draws x (n + further)``, in units of the loss.
        mean: ``n + further``, posterior means.
    """

    def __init__(self, surrogate: Surrogate, draws: int, rng: np.random.Generator) -> None:
        self.surrogate = surrogate
        values, vectors = surrogate.eigen
        shrunk = values / (values + surrogate.noise)
        sd = np.sqrt(shrunk * surrogate.noise)
        noise = rng.standard_normal((draws, len(values)))
        self._basis = vectors / np.sqrt(values)  # whitens rows of the covariance
        whitened = (surrogate.projected * shrunk + sd * noise) / np.sqrt(values)  # draws x n
        self._white = whitened
        self._mean_white = surrogate.projected * shrunk / np.sqrt(values)
        prior = surrogate.prior_mean(surrogate.levels)
        self._further: list[tuple[Levels, Floats, float]] = []
        self.values = self._outward(prior + (whitened * np.sqrt(values)) @ vectors.T)
        self.mean = self._outward(prior + vectors @ (surrogate.projected * shrunk))

    def _outward(self, standard: Floats) -> Floats:
        return self.surrogate.link.loss(standard * self.surrogate.unit + self.surrogate.shift)

    def _whitened(self, levels: Levels, rows: Floats) -> Floats:  # c x d, c x n -> c x (n + further)
        """Covariances with the observed and the further policies, whitened."""
        rows = rows @ self._basis
        for point, whitened, sd in self._further:
            own = self.surrogate.covariance(levels, point[None])[:, 0]
            rows = np.column_stack([rows, (own - rows @ whitened) / sd])
        return rows

    def conditional(self, levels: Levels, rows: Floats) -> tuple[Floats, Floats]:  # c x d, c x n -> draws x c, c
        """Mean given each draw, and standard deviation, in units of the loss."""
        whitened = self._whitened(levels, rows)
        variance = self.surrogate.prior_variance(levels) - np.square(whitened).sum(-1)
        mean = self.surrogate.prior_mean(levels) + self._white @ whitened.T
        sd = np.sqrt(np.maximum(variance, LEAST_VARIANCE)) * self.surrogate.unit
        signal = mean * self.surrogate.unit + self.surrogate.shift
        loss, spread = self.surrogate.to_loss(signal, sd)
        return loss, spread

    def add(self, levels: Levels, rng: np.random.Generator) -> None:  # d
        """One more policy, with a loss sampled in every draw."""
        rows = self._whitened(levels[None], self.surrogate.covariance(levels[None], self.surrogate.levels))[0]
        prior = float(self.surrogate.prior_mean(levels[None])[0])
        variance = float(self.surrogate.prior_variance(levels[None])[0]) - float(np.square(rows).sum())
        sd = float(np.sqrt(max(variance, LEAST_VARIANCE)))
        new = rng.standard_normal(len(self._white))
        values = prior + self._white @ rows + sd * new
        mean = prior + float(self._mean_white @ rows)
        self._further.append((levels, rows, sd))
        self._white = np.column_stack([self._white, new])
        self._mean_white = np.r_[self._mean_white, 0.0]
        self.values = np.column_stack([self.values, self._outward(values)])
        self.mean = np.r_[self.mean, self._outward(np.array(mean))]
