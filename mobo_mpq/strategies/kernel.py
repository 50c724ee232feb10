"""Prior mean and covariance of the loss of a quantization policy, as modules of GPyTorch.

::

    loss(x) = h(f(x)) + residual(x),    f(x) = m + a sum_v T_v(x_v) + sum_v c_v(x_v)
    T_v(l)  = exp(kappa size_v + rho fading_v(l))  less its value at the highest level, scaled to sum_v T_v(0) = 1

with T the expected loss of variable v alone, whose sizes are trusted with the power kappa and whose fading is bent by
rho, one for weights and one for activations. The coefficients c are Gaussian: a common factor per variable of standard
deviation ``a tau T_v``, and a term per level of ``a ripple T_v``. The residual, which holds saturation and interactions,
is an RBF kernel over sqrt(T).

The loss beyond the knee is squeezed by the logarithm h, the observed as well as the expected: two-bit disasters have to
be remembered, but an error of a tenth of them must not drown the differences near the front. The process is Gaussian to
first order of h around the expected loss. (The structure is ours; so is the choice of the priors.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import gpytorch
import numpy as np
import torch
from gpytorch.kernels import Kernel
from gpytorch.means import Mean
from gpytorch.priors import NormalPrior
from torch import Tensor

from mobo_mpq.strategies.features import Features


DEVIATION = {True: 0.3, False: 1.0}
"""Prior standard deviation of what is learned about the logarithm of a size, measured or not."""


class LogPrior(NamedTuple):
    """Normal prior of a logarithm: its mode (not as a logarithm) and its standard deviation."""

    mode: float
    sd: float


class Squeeze(NamedTuple):
    """``h(f) = f`` up to the knee, ``knee + span log(1 + (f - knee) / span)`` beyond it."""

    knee: float
    span: float

    def __call__(self, f: Tensor) -> Tensor:
        """The squeezed value."""
        beyond = (f - self.knee).clamp_min(0.0)
        return torch.minimum(f, torch.full_like(f, self.knee)) + self.span * torch.log1p(beyond / self.span)

    def slope(self, f: Tensor) -> Tensor:
        """Derivative."""
        return 1.0 / (1.0 + (f - self.knee).clamp_min(0.0) / self.span)


class Sensitivities(gpytorch.Module):  # type: ignore[misc]
    """The features T, and the hyper-parameters that bend them."""

    size: Tensor
    fading: Tensor
    is_weight: Tensor
    sizes: Tensor

    def __init__(self, features: Features, squeeze: Squeeze) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.register_parameter("constant", torch.nn.Parameter(torch.zeros((), dtype=torch.float64)))
        self.register_prior("constant_prior", NormalPrior(0.0, 1.0), "constant")
        self.register_buffer("size", torch.from_numpy(features.size - features.size.mean()))
        self.register_buffer("fading", torch.from_numpy(features.fading))
        self.register_buffer("is_weight", torch.from_numpy(features.is_weight))
        _parameter(self, "log_scale", LogPrior(4.0, 1.5))
        _parameter(self, "log_rho_weight", LogPrior(1.0, 0.25))
        _parameter(self, "log_rho_activation", LogPrior(1.0, 0.25))
        deviation = torch.zeros(len(features.size), dtype=torch.float64)
        sd = torch.full_like(deviation, DEVIATION[features.measured])
        self.register_parameter("deviation", torch.nn.Parameter(deviation.clone()))
        self.register_prior("deviation_prior", NormalPrior(deviation, sd), "deviation")
        self.trusted = features.measured
        if self.trusted:
            _parameter(self, "trust", LogPrior(math.exp(0.8), 0.3))

    def table(self) -> Tensor:  # d x levels
        """T of every variable and level."""
        rho = torch.where(self.is_weight, self.log_rho_weight.exp(), self.log_rho_activation.exp())
        trust = self.trust if self.trusted else 1.0
        size = trust * self.size + self.deviation
        raw = (size[:, None] + rho[:, None] * self.fading).exp()
        lowered = raw - raw[:, -1:]
        return lowered / lowered[:, 0].sum()

    def expected(self, t: Tensor) -> Tensor:  # (..., d) -> (...)
        """The loss before the squeeze, of policies given by their T."""
        return self.constant + self.log_scale.exp() * t.sum(-1)

    def forward(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d)
        """T at levels."""
        return self.table()[torch.arange(len(self.size)), x.long()]


class StructuredMean(Mean):  # type: ignore[misc]
    """``h(m + a sum_v T_v(x_v))``."""

    def __init__(self, sensitivities: Sensitivities) -> None:
        super().__init__()
        self.sensitivities = sensitivities

    def forward(self, x: Tensor) -> Tensor:  # (..., n, d) -> (..., n)
        """The expected loss, squeezed."""
        return self.sensitivities.squeeze(self.sensitivities.expected(self.sensitivities(x)))


class StructuredKernel(Kernel):  # type: ignore[misc]
    """Covariance of the coefficients' terms and of the residual."""

    def __init__(self, sensitivities: Sensitivities) -> None:
        super().__init__()
        self.sensitivities = sensitivities
        measured = sensitivities.trusted
        _parameter(self, "log_tau", LogPrior(0.5, 0.5))
        _parameter(self, "log_ripple", LogPrior(0.1, 0.7))
        _parameter(self, "log_residual", LogPrior(0.1, 1.0))
        _parameter(self, "log_length", LogPrior(0.5, 0.5))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """``(..., n, d)`` and ``(..., m, d)`` -> ``(..., n, m)``, or ``(..., n)`` of a diagonal."""
        t1, t2 = self.sensitivities(x1), self.sensitivities(x2)
        own = self.sensitivities
        scale = own.log_scale.exp()
        w1, w2 = (own.squeeze.slope(own.expected(t)) for t in (t1, t2))
        tau, ripple = (scale * self.log_tau.exp()).square(), (scale * self.log_ripple.exp()).square()
        u1, u2 = (t.clamp_min(1e-12).sqrt() / self.log_length.exp() for t in (t1, t2))
        if diag:
            same = (x1 == x2).to(t1)
            linear = tau * (t1 * t2).sum(-1) + ripple * (t1 * t2 * same).sum(-1)
            return w1 * w2 * linear + (2 * self.log_residual).exp() * (-0.5 * (u1 - u2).square().sum(-1)).exp()
        levels = self.sensitivities.fading.shape[-1]
        h1, h2 = (_one_hot(t, x, levels) for t, x in ((t1, x1), (t2, x2)))
        squared = (
            u1.square().sum(-1)[..., :, None] + u2.square().sum(-1)[..., None, :] - 2 * u1 @ u2.transpose(-1, -2)
        ).clamp_min(0)
        linear = tau * t1 @ t2.transpose(-1, -2) + ripple * h1 @ h2.transpose(-1, -2)
        slopes = w1[..., :, None] * w2[..., None, :]
        return slopes * linear + (2 * self.log_residual).exp() * (-0.5 * squared).exp()


def _one_hot(t: Tensor, x: Tensor, levels: int) -> Tensor:  # (..., d) -> (..., d * levels)
    spread = torch.zeros(*t.shape, levels, dtype=t.dtype)
    return spread.scatter(-1, x.long()[..., None], t[..., None]).flatten(-2)


def _parameter(module: gpytorch.Module, name: str, prior: LogPrior) -> None:
    value = torch.tensor(math.log(prior.mode), dtype=torch.float64)
    module.register_parameter(name, torch.nn.Parameter(value.clone()))
    module.register_prior(f"{name}_prior", NormalPrior(value, torch.tensor(prior.sd, dtype=torch.float64)), name)


def tables(kernel: StructuredKernel) -> dict[str, Any]:
    """Hyper-parameters as numbers, for prediction without autograd."""
    with torch.no_grad():
        s = kernel.sensitivities
        return {
            "table": s.table().numpy(),
            "constant": float(s.constant),
            "scale": float(s.log_scale.exp()),
            "tau": float(kernel.log_tau.exp()),
            "ripple": float(kernel.log_ripple.exp()),
            "residual": float(kernel.log_residual.exp()),
            "length": float(kernel.log_length.exp()),
            "rho_weight": float(s.log_rho_weight.exp()),
            "rho_activation": float(s.log_rho_activation.exp()),
            "trust": float(s.trust) if s.trusted else None,
        }
