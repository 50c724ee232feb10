"""Prior mean and covariance of the loss of a quantization policy, as modules of GPyTorch.

::

    loss(x) = h(f(x)) + residual(x),    f(x) = m + a sum_v T_v(x_v) + sum_v c_v(x_v)
    T_v(l)  = exp(kappa size_v + deviation_v + rho fading_v(l))
              less its value at the highest level, scaled to sum_v T_v(0) = 1

with T the expected loss of variable v alone, whose size is trusted with the power kappa and corrected by what is
learned of it, and whose fading is bent by rho, one for weights and one for activations. The coefficients c are
Gaussian: a common factor per variable of standard deviation ``a tau T_v``, and a term per level of ``a ripple T_v``.
The residual, which holds saturation and interactions, is an RBF kernel over sqrt(T).

The loss beyond the knee is squeezed by the logarithm h, the observed as well as the expected: two-bit disasters have to
be remembered, but an error of a tenth of them must not drown the differences near the front. The process is Gaussian to
first order of h around the expected loss. (The structure is ours; so is the choice of the priors.)

Inputs are levels, ``... x n x d``, as floats; the loss is standardised.
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
from numpy.typing import NDArray
from torch import Tensor

from mobo_mpq.engine.features import Features
from mobo_mpq.engine.squeeze import Squeeze

DEVIATION = {True: 0.212, False: 0.707}
"""Prior standard deviation of what is learned about the logarithm of a size, measured or not."""

LEAST = 1e-12
"""A T counts as no less under the square root, whose slope has no bound at 0."""


class LogPrior(NamedTuple):
    """Normal prior of a logarithm: its mode (not as a logarithm) and its standard deviation."""

    mode: float
    sd: float


class Located(NamedTuple):
    """What the tables say at some policies.

    Attributes:
        spread: ``... x n x (d levels)``, T where a policy has its level, 0 elsewhere.
        t: ``... x n x d``, T at the levels.
        expected: ``... x n``, the expected loss before the squeeze.
    """

    spread: Tensor
    t: Tensor
    expected: Tensor


class Sensitivities(gpytorch.Module):
    """The features T, and the hyper-parameters that bend them.

    Args:
        features: tables of the space.
        squeeze: of the loss, in standardised units.
    """

    size: Tensor
    fading: Tensor
    is_weight: Tensor

    def __init__(self, features: Features, squeeze: Squeeze) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.register_parameter("constant", torch.nn.Parameter(torch.zeros((), dtype=torch.float64)))
        self.register_prior("constant_prior", NormalPrior(0.0, 0.707), "constant")
        self.register_buffer("size", torch.from_numpy(features.size - features.size.sum() / max(len(features.size), 1)))
        self.register_buffer("fading", torch.from_numpy(features.fading))
        self.register_buffer("is_weight", torch.from_numpy(features.is_weight))
        _parameter(self, "log_scale", LogPrior(4.0, 1.06))
        _parameter(self, "log_rho_weight", LogPrior(1.0, 0.177))
        _parameter(self, "log_rho_activation", LogPrior(1.0, 0.177))
        deviation = torch.zeros(len(features.size), dtype=torch.float64)
        sd = torch.full_like(deviation, DEVIATION[features.measured])
        self.register_parameter("deviation", torch.nn.Parameter(deviation.clone()))
        self.register_prior("deviation_prior", NormalPrior(deviation, sd), "deviation")
        self.trusted = features.measured
        if self.trusted:
            _parameter(self, "trust", LogPrior(math.exp(0.8), 0.212))

    def table(self) -> Tensor:  # d x levels
        """T of every variable and level."""
        rho = torch.where(self.is_weight, self.log_rho_weight.exp(), self.log_rho_activation.exp())
        trust = self.trust if self.trusted else 1.0
        size = trust * self.size + self.deviation
        raw = (size[:, None] + rho[:, None] * self.fading).exp()
        lowered = raw - raw[:, -1:]
        return lowered / lowered[:, 0].sum()

    def one_hot(self, x: Tensor) -> Tensor:  # (..., d) -> (..., d, levels)
        """1 where a policy has its level: it depends on the policies alone."""
        levels = torch.arange(self.fading.shape[-1], dtype=x.dtype)
        return (x[..., None] == levels).to(self.fading)

    def at(self, one_hot: Tensor) -> Located:  # (..., n, d, levels)
        """What the tables say at policies."""
        spread = one_hot * self.table()
        t = spread.sum(-1)
        return Located(spread.flatten(-2), t, self.constant + self.log_scale.exp() * t.sum(-1))

    def forward(self, x: Tensor) -> Located:  # (..., n, d)
        """What the tables say at levels."""
        return self.at(self.one_hot(x))


class StructuredMean(Mean):
    """``h(m + a sum_v T_v(x_v))``."""

    def __init__(self, sensitivities: Sensitivities) -> None:
        super().__init__()
        self.sensitivities = sensitivities

    def forward(self, x: Tensor) -> Tensor:  # (..., n, d) -> (..., n)
        """The expected loss, squeezed."""
        return self.at(self.sensitivities(x))

    def at(self, located: Located) -> Tensor:  # -> (..., n)
        """The same of policies that have been looked up."""
        return self.sensitivities.squeeze(located.expected)


class StructuredKernel(Kernel):
    """Covariance of the coefficients' terms and of the residual."""

    def __init__(self, sensitivities: Sensitivities) -> None:
        super().__init__()
        self.sensitivities = sensitivities
        _parameter(self, "log_tau", LogPrior(0.5, 0.5))
        _parameter(self, "log_ripple", LogPrior(0.1, 0.7))
        _parameter(self, "log_residual", LogPrior(0.1, 1.0))
        _parameter(self, "log_length", LogPrior(0.5, 0.5))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **_: Any) -> Tensor:
        """``(..., n, d)`` and ``(..., m, d)`` -> ``(..., n, m)``, or ``(..., n)`` of a diagonal."""
        first = self.sensitivities(x1)
        second = first if x2 is x1 else self.sensitivities(x2)
        (linear1, u1), (linear2, u2) = self._coordinates(first), self._coordinates(second)
        variance = (2 * self.log_residual).exp()
        if diag:
            return (linear1 * linear2).sum(-1) + variance * (-0.5 * (u1 - u2).square().sum(-1)).exp()
        return linear1 @ linear2.transpose(-1, -2) + variance * _rbf(u1, u2, u1 @ u2.transpose(-1, -2))

    def gram(self, located: Located) -> Tensor:  # -> (n, n)
        """Covariance of policies with themselves, faster to differentiate."""
        linear, u = self._coordinates(located)
        return _gram(linear) + (2 * self.log_residual).exp() * _rbf(u, u, _gram(u))

    def _coordinates(self, located: Located) -> tuple[Tensor, Tensor]:
        """Where policies are in the space whose inner product is the linear part, and in that of the residual."""
        own = self.sensitivities
        size = (own.squeeze.slope(located.expected) * own.log_scale.exp())[..., None]
        linear = size * torch.cat([self.log_tau.exp() * located.t, self.log_ripple.exp() * located.spread], dim=-1)
        return linear, located.t.clamp_min(LEAST).sqrt() / self.log_length.exp()


def _rbf(u1: Tensor, u2: Tensor, inner: Tensor) -> Tensor:  # (..., n, d), (..., m, d), (..., n, m) -> (..., n, m)
    norms1, norms2 = (0.5 * u.square().sum(-1) for u in (u1, u2))
    return (inner - norms1[..., :, None] - norms2[..., None, :]).clamp_max(0.0).exp()


class _Gram(torch.autograd.Function):
    """``a a^T``: autograd does not see that both factors are one, and multiplies twice on the way back."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:  # n x k -> n x n
        ctx.save_for_backward(a)
        return a @ a.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,) = grads
        (a,) = ctx.saved_tensors
        return (grad + grad.T) @ a


def _gram(a: Tensor) -> Tensor:  # n x k -> n x n
    product: Tensor = _Gram.apply(a)
    return product


def _parameter(module: gpytorch.Module, name: str, prior: LogPrior) -> None:
    value = torch.tensor(math.log(prior.mode), dtype=torch.float64)
    module.register_parameter(name, torch.nn.Parameter(value.clone()))
    module.register_prior(f"{name}_prior", NormalPrior(value, torch.tensor(prior.sd, dtype=torch.float64)), name)


class Parameters(NamedTuple):
    """Hyper-parameters as numbers, of the standardised loss: for prediction without autograd.

    Attributes:
        table: ``d x levels``, T.
        constant: m.
        scale: a.
        tau: of the coefficients, per variable.
        ripple: of the coefficients, per level.
        residual: standard deviation of the residual.
        length: its scale, in units of sqrt(T).
        rho_weight: how much faster than expected the loss of weights fades.
        rho_activation: likewise of activations.
        trust: kappa; ``None`` without sensitivities.
    """

    table: NDArray[np.float64]
    constant: float
    scale: float
    tau: float
    ripple: float
    residual: float
    length: float
    rho_weight: float
    rho_activation: float
    trust: float | None

    @classmethod
    def of(cls, kernel: StructuredKernel) -> Parameters:
        """As they are now."""
        with torch.no_grad():
            own = kernel.sensitivities
            return cls(
                table=own.table().numpy(),
                constant=float(own.constant),
                scale=float(own.log_scale.exp()),
                tau=float(kernel.log_tau.exp()),
                ripple=float(kernel.log_ripple.exp()),
                residual=float(kernel.log_residual.exp()),
                length=float(kernel.log_length.exp()),
                rho_weight=float(own.log_rho_weight.exp()),
                rho_activation=float(own.log_rho_activation.exp()),
                trust=float(own.trust) if own.trusted else None,
            )
