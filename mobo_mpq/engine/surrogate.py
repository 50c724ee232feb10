"""The fitted process on the loss of a policy, in closed form. Costs are known: they are never modelled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from botorch.models import SingleTaskGP

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.fitting import Data
from mobo_mpq.engine.kernel import LEAST, Parameters
from mobo_mpq.engine.observations import Link

_LEAST_EIGENVALUE = 1e-9
LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The fitted process in closed form, by table look-ups: the same numbers as the model's posterior.

    Everything here is about the signal, in its own units, minimised.

    Attributes:
        model: BoTorch's, over the standardised signal.
        data: what it is conditioned on.
        link: from the signal to the loss.
    """

    model: SingleTaskGP
    data: Data
    link: Link = Link()

    @property
    def levels(self) -> Levels:  # n x d
        """The observed policies."""
        return self.data.levels

    @cached_property
    def shift(self) -> float:
        """Of the standardisation."""
        return self.data.shift

    @cached_property
    def unit(self) -> float:
        """Of the standardisation."""
        return self.data.unit

    @cached_property
    def parameters(self) -> Parameters:
        """Hyper-parameters, of the standardised signal."""
        return Parameters.of(self.model.covar_module)

    @cached_property
    def noise(self) -> float:
        """Variance of the standardised observations."""
        return float(self.model.likelihood.noise.detach().mean())

    @property
    def noise_sd(self) -> float:
        """Standard deviation of an observation, in units of the signal."""
        return math.sqrt(self.noise) * self.unit

    # --- tables -----------------------------------------------------------------------------------------------------

    @property
    def _t(self) -> Floats:  # d x levels
        return self.parameters.table

    @cached_property
    def _u(self) -> Floats:  # d x levels
        return np.sqrt(np.maximum(self._t, LEAST)) / self.parameters.length

    def _of(self, table: Floats, levels: Levels) -> Floats:  # (..., d) -> (..., d)
        return table[np.arange(table.shape[0]), levels]

    def _expected(self, levels: Levels) -> Floats:  # c x d -> c
        p = self.parameters
        return np.asarray(p.constant + p.scale * self._of(self._t, levels).sum(-1))

    def prior_mean(self, levels: Levels) -> Floats:  # c x d -> c
        """Standardised mean before any observation."""
        return self.data.squeeze(self._expected(levels))

    def _slope(self, levels: Levels) -> Floats:  # c x d -> c
        return self.data.squeeze.slope(self._expected(levels))

    @cached_property
    def _slopes(self) -> Floats:  # n
        return self._slope(self.levels)

    def prior_variance(self, levels: Levels) -> Floats:  # c x d -> c
        """Standardised variance before any observation."""
        p = self.parameters
        squares = np.square(self._of(self._t, levels)).sum(-1)
        linear = p.scale**2 * (p.tau**2 + p.ripple**2) * squares
        return np.asarray(np.square(self._slope(levels)) * linear + p.residual**2)

    @cached_property
    def _look_up(self) -> tuple[Floats, Floats]:  # d x levels x n, twice
        """What each level of each variable adds to the linear covariance with each observed policy.

        And, second, to the squared distance from it.
        """
        p, t = self.parameters, self._t
        at = self._of(t, self.levels).T  # d x n
        same = self.levels.T[:, None] == np.arange(t.shape[1])[None, :, None]
        linear = p.scale**2 * t[:, :, None] * at[:, None] * (p.tau**2 + p.ripple**2 * same)
        squared = np.square(self._u[:, :, None] - self._of(self._u, self.levels).T[:, None])
        return linear, squared

    def rows(self, levels: Levels, base: Levels, of: Levels) -> Floats:  # c x d, b x d, c -> c x n
        """Covariance with the observed policies of policies that differ little from some base policies.

        Args:
            levels: of the candidates.
            base: near them.
            of: for each candidate, the base that it is near to.
        """
        linear, squared = self._look_up
        every = np.arange(base.shape[1])
        at_base = [
            sum((table[v, base[:, v]] for v in every), np.zeros((len(base), table.shape[2])))
            for table in (linear, squared)
        ]
        total, distance = (table[of] for table in at_base)
        candidate, variable = np.nonzero(levels != base[of])
        if len(candidate):
            new, old = levels[candidate, variable], base[of[candidate], variable]
            first = np.flatnonzero(np.r_[True, candidate[1:] != candidate[:-1]])
            for table, where in ((linear, total), (squared, distance)):
                where[candidate[first]] += np.add.reduceat(table[variable, new] - table[variable, old], first, axis=0)
        smooth: Floats = self.parameters.residual**2 * np.exp(-0.5 * np.maximum(distance, 0.0))
        return self._slope(levels)[:, None] * self._slopes * total + smooth

    def covariance(self, left: Levels, right: Levels) -> Floats:  # c x d, n x d -> c x n
        """Standardised prior covariance."""
        p = self.parameters
        t1, t2 = self._of(self._t, left), self._of(self._t, right)
        h1, h2 = self._one_hot(left), self._one_hot(right)
        linear = p.tau**2 * (t1 @ t2.T) + p.ripple**2 * (h1 @ h2.T)
        slopes = self._slope(left)[:, None] * self._slope(right)
        return p.scale**2 * slopes * linear + self._residual(left, right)

    def _residual(self, left: Levels, right: Levels) -> Floats:  # c x d, n x d -> c x n
        u1, u2 = self._of(self._u, left), self._of(self._u, right)
        squared = np.square(u1).sum(-1)[:, None] + np.square(u2).sum(-1)[None] - 2 * u1 @ u2.T
        return np.asarray(self.parameters.residual**2 * np.exp(-0.5 * np.maximum(squared, 0.0)))

    def _one_hot(self, levels: Levels) -> Floats:
        spread = np.zeros((*levels.shape, self._t.shape[1]))
        np.put_along_axis(spread, levels[..., None], self._of(self._t, levels)[..., None], axis=-1)
        return spread.reshape(*levels.shape[:-1], -1)

    # --- posterior --------------------------------------------------------------------------------------------------

    @cached_property
    def eigen(self) -> tuple[Floats, Floats]:
        """Eigenvalues, clamped, and vectors of the covariance of the observed policies."""
        values, vectors = np.linalg.eigh(self.covariance(self.levels, self.levels))
        return np.maximum(values, _LEAST_EIGENVALUE * max(float(values[-1]), 1e-300)), vectors

    @cached_property
    def projected(self) -> Floats:  # n
        """What the observations are above the prior mean, standardised, along the eigenvectors."""
        return self.eigen[1].T @ (self.data.standardised - self.prior_mean(self.levels))

    @cached_property
    def weights(self) -> Floats:  # n
        """``mean(x) = prior_mean(x) + covariance(x, levels) @ weights``."""
        values, vectors = self.eigen
        return vectors @ (self.projected / (values + self.noise))

    def mean(self, levels: Levels) -> Floats:  # c x d -> c
        """Posterior mean of the signal."""
        standard = self.prior_mean(levels) + self.covariance(levels, self.levels) @ self.weights
        return standard * self.unit + self.shift

    def posterior(self, levels: Levels) -> tuple[Floats, Floats]:  # c x d -> c, c
        """Mean and standard deviation of the signal itself, without noise."""
        rows = self.covariance(levels, self.levels)
        return self.mean_of(levels, rows), self.sd_of(levels, rows)

    def mean_of(self, levels: Levels, rows: Floats) -> Floats:  # c x d, c x n -> c
        """Posterior mean of the signal, given the covariance with the observed policies."""
        return (self.prior_mean(levels) + rows @ self.weights) * self.unit + self.shift

    @cached_property
    def _explaining(self) -> Floats:  # n x n
        values, vectors = self.eigen
        return vectors / np.sqrt(values + self.noise)

    def sd_of(self, levels: Levels, rows: Floats) -> Floats:  # c x d, c x n -> c
        """Posterior standard deviation of the signal, likewise."""
        explained = np.square(rows @ self._explaining).sum(-1)
        variance = np.maximum(self.prior_variance(levels) - explained, LEAST_VARIANCE)
        return np.asarray(np.sqrt(variance) * self.unit)

    def near(self, levels: Levels, base: Levels, of: Levels) -> tuple[Floats, Floats]:  # -> c, c
        """Mean and standard deviation of the signal at policies near some base policies, roughly.

        The base's own, and the difference of the additive part: what a move costs to look at does not grow with n.

        Args:
            levels: ``c x d``, of the candidates.
            base: ``b x d``, near them.
            of: c, for each candidate, the base that it is near to.
        """
        mean, sd = self.posterior(base)
        table = self.additive()
        of_base = self._of(table, base).sum(-1)
        return mean[of] + self._of(table, levels).sum(-1) - of_base[of], sd[of]

    def additive(self) -> Floats:  # d x levels
        """What each level of each variable adds to the posterior mean of the signal before the squeeze, in its units.

        The residual is left out.
        """
        return self._additive_mean

    @cached_property
    def _additive_mean(self) -> Floats:  # d x levels
        return self._additive(self.weights, 1.0)

    def additive_draws(self, draws: int, rng: np.random.Generator) -> list[Floats]:  # draws of d x levels
        """Draws of :meth:`additive` from the posterior, by Matheron's rule: a draw of the prior, then the correction.

        Where the residual of the observations is drawn along, so that it explains its share of them.
        """
        p, t = self.parameters, self._t
        values, vectors = self.eigen
        residual = self._residual_root
        tables = []
        for _ in range(draws):
            factor = 1.0 + p.tau * rng.standard_normal((len(t), 1)) + p.ripple * rng.standard_normal(t.shape)
            linear = self._slopes * p.scale * self._of(t * (factor - 1.0), self.levels).sum(-1)
            noise = math.sqrt(self.noise) * rng.standard_normal(len(values))
            drawn = linear + residual @ rng.standard_normal(len(values)) + noise
            correction = vectors @ ((self.projected - vectors.T @ drawn) / (values + self.noise))
            tables.append(self._additive(correction, factor))
        return tables

    @cached_property
    def _residual_root(self) -> Floats:  # n x n
        return np.asarray(
            np.linalg.cholesky(self._residual(self.levels, self.levels) + 1e-9 * np.eye(len(self.levels)))
        )

    def _additive(self, weights: Floats, factor: Floats | float) -> Floats:  # n -> d x levels
        p, t = self.parameters, self._t
        at = self._of(t, self.levels) * (weights * self._slopes)[:, None]  # n x d
        own = np.stack([np.where(self.levels == level, at, 0.0).sum(0) for level in range(t.shape[1])], axis=-1)
        correction = p.scale**2 * t * (p.tau**2 * at.sum(0)[:, None] + p.ripple**2 * own)
        return np.asarray((p.scale * t * factor + correction) * self.unit)

    def to_loss(self, mean: Floats, sd: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the loss, from those of the signal, to first order."""
        slope = self.link.slope(mean, 0.25 * float(np.abs(self.data.signal).min()))
        return self.link.loss(mean), np.abs(slope) * sd

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """Prediction of each observation from all others, and its standard deviation with noise, by the closed form.

        The hyper-parameters are those of all observations (Rasmussen and Williams, 2006, section 5.4.2).
        """
        values, vectors = self.eigen
        inverse_diagonal = (np.square(vectors) / (values + self.noise)).sum(-1)
        error = self.weights / inverse_diagonal
        return self.data.squeezed - error * self.unit, self.unit / np.sqrt(inverse_diagonal)

    def error(self) -> float:
        """Root mean square error of the losses predicted from all other observations, near and above the reference."""
        near = self.data.signal <= self.data.knee
        predicted = self.link.loss(self.leave_one_out()[0])
        return float(np.sqrt(np.mean(np.square(predicted - self.data.loss)[near]))) if near.any() else float("inf")
