"""Fits the hyper-parameters of the loss's Gaussian process, by BoTorch."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from botorch.exceptions.warnings import BotorchWarning, OptimizationWarning
from botorch.models import SingleTaskGP
from botorch.optim.core import OptimizationStatus
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import GreaterThan
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator.utils.errors import NanError, NotPSDError
from linear_operator.utils.warnings import NumericalWarning
from numpy.typing import NDArray

from mobo_mpq.strategies.features import Features
from mobo_mpq.strategies.kernel import Sensitivities, Squeeze, StructuredKernel, StructuredMean

Levels = NDArray[np.intp]
Floats = NDArray[np.float64]

MAX_ITERATIONS = 40
"""Of L-BFGS: a fit stops by iterations, never by the clock, so that it repeats exactly."""

WARM_ITERATIONS = 15
"""Of a fit that starts where an earlier one ended."""

TIME_LIMIT_S = 120.0
"""The last resort. A fit that it stops does not repeat exactly; that is written down."""

FIRST = 6
"""Observations of the first fit."""

GROWTH = 1.2
"""A new fit is made when there are so many times more observations than at the last one."""

_EXACT_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Data:
    """What a process is fitted to.

    Attributes:
        levels: ``n x d``.
        signal: n, minimised.
        exact: whether the signal has no noise.
        loss: n, what the signal stands for.
        knee: beyond this signal, nothing is of interest: it is squeezed.
        span: over which it is squeezed.
    """

    levels: Levels
    signal: Floats
    exact: bool
    loss: Floats
    knee: float
    span: float

    @cached_property
    def squeezed(self) -> Floats:
        """n, what is modelled."""
        beyond = np.maximum(self.signal - self.knee, 0.0)
        return np.asarray(np.minimum(self.signal, self.knee) + self.span * np.log1p(beyond / self.span))

    @cached_property
    def standardised(self) -> Floats:
        """n, the squeezed signal with mean 0 and standard deviation 1."""
        return (self.squeezed - self.shift) / self.unit

    @property
    def squeeze(self) -> Squeeze:
        """In standardised units."""
        return Squeeze((self.knee - self.shift) / self.unit, self.span / self.unit)

    @cached_property
    def shift(self) -> float:
        """Of the standardisation."""
        return float(self.squeezed.mean())

    @cached_property
    def unit(self) -> float:
        """Of the standardisation; 1 where all are alike."""
        sd = float(self.squeezed.std())
        return sd if sd > 1e-12 * max(abs(self.shift), 1.0) else 1.0


@dataclass(frozen=True, eq=False)
class Fit:
    """Hyper-parameters.

    Attributes:
        count: of the observations that they were fitted to.
        state: of the marginal likelihood's module.
        status: ``converged``, ``iterations``, ``time limit`` or ``failed``: then they are those of the fit before.
    """

    count: int
    state: Mapping[str, Any]
    status: str


class Fitter:
    """Fits again whenever the observations have grown enough, each time starting where the last fit ended.

    Hyper-parameters depend on the observations and their order alone, not on when somebody asked: the sizes at which
    fits are made are fixed, and a study that is resumed repeats them.

    Args:
        features: tables of the space.
        data_of: the data that the first so many observations make.
    """

    def __init__(self, features: Features, data_of: Callable[[int], Data]) -> None:
        self.features, self.data_of = features, data_of
        self._fits: list[Fit] = []

    def fit(self, count: int) -> Fit | None:
        """The latest fit to at most ``count`` observations; ``None`` when they are too few."""
        for size in _sizes(count)[len(self._fits) :]:
            before = self._fits[-1] if self._fits else None
            data = self.data_of(size)
            model = build(self.features, data)
            status = optimise(model, before.state, WARM_ITERATIONS) if before else optimise(model, None)
            mll = ExactMarginalLogLikelihood(model.likelihood, model)
            self._fits.append(Fit(size, copy.deepcopy(mll.state_dict()), status))
        return next((fit for fit in reversed(self._fits) if fit.count <= count), None)


def _sizes(count: int) -> list[int]:
    """Sizes of the fits for up to ``count`` observations."""
    sizes, size = [], FIRST
    while size <= count:
        sizes.append(size)
        size = max(size + 1, math.ceil(size * GROWTH))
    return sizes


def build(features: Features, data: Data, state: Mapping[str, Any] | None = None) -> SingleTaskGP:
    """BoTorch's process over the standardised signal with our mean and kernel.

    Args:
        features: tables of the space.
        data: to condition on.
        state: hyper-parameters; the modes of their priors when absent.
    """
    sensitivities = Sensitivities(features, data.squeeze)
    x = torch.from_numpy(data.levels.astype(np.float64))
    y = torch.from_numpy(data.standardised)[:, None]
    likelihood = None
    if not data.exact:
        likelihood = GaussianLikelihood(
            noise_prior=LogNormalPrior(math.log(0.003), 1.5),
            noise_constraint=GreaterThan(_EXACT_VARIANCE, transform=None, initial_value=0.003),
        ).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)  # levels are no points of the unit cube, and need not be
        model = SingleTaskGP(
            x,
            y,
            train_Yvar=torch.full_like(y, _EXACT_VARIANCE) if data.exact else None,
            likelihood=likelihood,
            mean_module=StructuredMean(sensitivities),
            covar_module=StructuredKernel(sensitivities),
            outcome_transform=None,
        )
    if state is not None:
        ExactMarginalLogLikelihood(model.likelihood, model).load_state_dict(state)
    return model


def optimise(model: SingleTaskGP, start: Mapping[str, Any] | None, iterations: int = MAX_ITERATIONS) -> str:
    """Maximise the posterior of the hyper-parameters; on failure they stay where they were.

    Args:
        model: from :func:`build`.
        start: hyper-parameters of an earlier fit, to begin with.
        iterations: at most.

    Returns:
        How it ended: see :class:`Fit`.
    """
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    if start is not None:
        mll.load_state_dict(start)
    before = copy.deepcopy(mll.state_dict())
    mll.train()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", OptimizationWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            result = fit_gpytorch_mll_scipy(
                mll, options={"maxiter": iterations, "ftol": 1e-6}, timeout_sec=TIME_LIMIT_S
            )
        done = result.status is OptimizationStatus.SUCCESS
        status = "converged" if done else "time limit" if "timed out" in (result.message or "") else "iterations"
    except (NanError, NotPSDError):
        status = "failed"
    if not all(bool(torch.isfinite(parameter).all()) for parameter in mll.parameters()):
        status = "failed"
    if status == "failed":
        mll.load_state_dict(before)
    mll.eval()
    return status
