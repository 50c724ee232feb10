"""Joint draws of the losses of policies."""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.surrogate import LEAST_VARIANCE, Surrogate


class Paths:
    """Draws of the loss at the observed policies and at further ones, and what any other policy is, given a draw.

    In the eigenvectors of the covariance the losses of the observed policies are independent a posteriori, so that a
    draw costs a product of matrices; further policies extend the whitened basis by a block.

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
        self._blocks: list[tuple[Levels, Floats, Floats]] = []  # policies, whitened, root of what is left
        self.values = self._outward(prior + (whitened * np.sqrt(values)) @ vectors.T)
        self.mean = self._outward(prior + vectors @ (surrogate.projected * shrunk))

    def _outward(self, standard: Floats) -> Floats:
        return self.surrogate.link.loss(standard * self.surrogate.unit + self.surrogate.shift)

    def _whitened(self, levels: Levels, rows: Floats) -> Floats:  # c x d, c x n -> c x (n + further)
        """Covariances with the observed and the further policies, whitened."""
        rows = rows @ self._basis
        for block, whitened, root in self._blocks:
            left = self.surrogate.covariance(levels, block) - rows @ whitened.T
            rows = np.column_stack([rows, solve_triangular(root, left.T, lower=True).T])
        return rows

    def conditional(self, levels: Levels, rows: Floats) -> tuple[Floats, Floats]:  # c x d, c x n -> draws x c, c
        """Mean given each draw, and standard deviation, in units of the loss."""
        whitened = self._whitened(levels, rows)
        variance = self.surrogate.prior_variance(levels) - np.square(whitened).sum(-1)
        mean = self.surrogate.prior_mean(levels) + self._white @ whitened.T
        sd = np.sqrt(np.maximum(variance, LEAST_VARIANCE)) * self.surrogate.unit
        signal = mean * self.surrogate.unit + self.surrogate.shift
        return self.surrogate.to_loss(signal, sd)

    def add(self, levels: Levels, rng: np.random.Generator) -> None:  # p x d
        """Further policies, with losses sampled jointly in every draw."""
        surrogate = self.surrogate
        rows = self._whitened(levels, surrogate.covariance(levels, surrogate.levels))
        left = surrogate.covariance(levels, levels) - rows @ rows.T
        root = _root(left)
        prior, new = surrogate.prior_mean(levels), rng.standard_normal((len(self._white), len(levels)))
        self.values = np.column_stack([self.values, self._outward(prior + self._white @ rows.T + new @ root.T)])
        self.mean = np.r_[self.mean, self._outward(prior + rows @ self._mean_white)]
        self._blocks.append((levels, rows, root))
        self._white = np.column_stack([self._white, new])
        self._mean_white = np.r_[self._mean_white, np.zeros(len(levels))]


def _root(covariance: Floats) -> Floats:  # p x p, lower triangular
    """Cholesky root; what rounding made indefinite, or policies given twice singular, gets a little more variance."""
    least = LEAST_VARIANCE + 1e-9 * float(np.trace(covariance)) / len(covariance)
    while True:
        try:
            return np.asarray(np.linalg.cholesky(covariance + least * np.eye(len(covariance))))
        except np.linalg.LinAlgError:
            least *= 10.0
