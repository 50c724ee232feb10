"""What a fit maximises: the posterior density of the hyper-parameters, as one plain expression.

The same number as ``ExactMarginalLogLikelihood`` of GPyTorch, but that every prior counts once: mean and kernel share
the sensitivities, and GPyTorch counts those of both. There it passes through lazy tensors, and its gradient through the
factorisation; in closed form the gradient needs the inverse alone (Rasmussen and Williams, 2006, equation 5.9).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from botorch.models import SingleTaskGP
from gpytorch.priors import NormalPrior
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

_LOG_2_PI = math.log(2 * math.pi)


class GaussianLogDensity(torch.autograd.Function):
    """``log N(error; 0, covariance)``, of an n and an ``n x n``."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, covariance: Tensor) -> Tensor:  # n, n x n -> ()
        """The value.

        Raises:
            NotPSDError: when the covariance is not positive definite, even with some jitter.
            NanError: when it is not a number.
        """
        factor = psd_safe_cholesky(covariance)
        weights = torch.cholesky_solve(error[:, None], factor)[:, 0]
        ctx.save_for_backward(factor, weights)
        return -0.5 * (error @ weights + len(error) * _LOG_2_PI) - factor.diagonal().log().sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """With respect to the error and the covariance."""
        (grad,) = grads
        factor, weights = ctx.saved_tensors
        return -grad * weights, 0.5 * grad * (torch.outer(weights, weights) - torch.cholesky_inverse(factor))


class NegativeLogPosterior:
    """Minus the logarithm of the hyper-parameters' posterior density, per observation, up to a constant.

    Args:
        model: with :class:`~mobo_mpq.engine.kernel.StructuredMean` and its kernel.
    """

    def __init__(self, model: SingleTaskGP) -> None:
        self.model = model
        self._one_hot = model.mean_module.sensitivities.one_hot(model.train_inputs[0])
        unique = {id(prior): (prior, value, module) for _, module, prior, value, _ in model.named_priors()}.values()
        self._others = [one for one in unique if not isinstance(one[0], NormalPrior)]
        self._normal = [one for one in unique if isinstance(one[0], NormalPrior)]
        self._mean = torch.cat([prior.loc.reshape(-1) for prior, _, _ in self._normal])
        self._sd = torch.cat([prior.scale.reshape(-1) for prior, _, _ in self._normal])

    def __call__(self) -> Tensor:  # ()
        """The value at the model's current hyper-parameters, for autograd."""
        model, n = self.model, len(self._one_hot)
        located = model.mean_module.sensitivities.at(self._one_hot)
        covariance = model.covar_module.gram(located) + torch.diag_embed(model.likelihood.noise.expand(n))
        density = GaussianLogDensity.apply(model.train_targets - model.mean_module.at(located), covariance)
        return -(density + self._log_prior()) / n

    def _log_prior(self) -> Tensor:
        """Up to the constants of the normal ones, which are taken together."""
        values = torch.cat([value(module).reshape(-1) for _, value, module in self._normal])
        normal = -0.5 * ((values - self._mean) / self._sd).square().sum()
        return sum((prior.log_prob(value(module)).sum() for prior, value, module in self._others), normal)
