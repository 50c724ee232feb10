"""Fits the hyper-parameters of the loss's Gaussian process, by BoTorch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from botorch.exceptions.warnings import BotorchWarning, OptimizationWarning
from botorch.models import SingleTaskGP
from botorch.optim.closures.core import ForwardBackwardClosure
from botorch.optim.core import OptimizationResult, OptimizationStatus
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.constraints import GreaterThan
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from linear_operator.utils.errors import NotPSDError
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.features import Features
from mobo_mpq.engine.kernel import Sensitivities, StructuredKernel, StructuredMean
from mobo_mpq.engine.likelihood import NegativeLogPosterior
from mobo_mpq.engine.squeeze import Squeeze

State = Mapping[str, Tensor]

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
        return Squeeze(self.knee, self.span)(self.signal)

    @cached_property
    def standardised(self) -> Floats:
        """n, the squeezed signal with mean 0 and standard deviation 1."""
        return (self.squeezed - self.shift) / self.unit

    @cached_property
    def squeeze(self) -> Squeeze:
        """In standardised units."""
        return Squeeze((self.knee - self.shift) / self.unit, self.span / self.unit)

    @cached_property
    def shift(self) -> float:
        """Of the standardisation."""
        return float(self.squeezed.mean())

    @cached_property
    def unit(self) -> float:
        """Of the standardisation; the span where all are alike."""
        sd = float(self.squeezed.std())
        return sd if sd > 1e-12 * abs(self.shift) else self.span


@dataclass(frozen=True, eq=False)
class Fit:
    """Hyper-parameters.

    Attributes:
        count: of the observations that they were fitted to.
        state: by name.
        status: ``converged``, ``iterations``, ``time limit``, ``stalled`` where the line search found nothing better,
            or ``failed``: then they are those of the fit before.
    """

    count: int
    state: State
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
            self._fits.append(Fit(size, state_of(model), status))
        return next((fit for fit in reversed(self._fits) if fit.count <= count), None)

    def statuses(self) -> list[str]:
        """How all fits ended, see :class:`Fit`."""
        return [fit.status for fit in self._fits]


def _sizes(count: int) -> list[int]:
    """Sizes of the fits for up to ``count`` observations."""
    sizes, size = [], FIRST
    while size <= count:
        sizes.append(size)
        size = max(size + 1, math.ceil(size * GROWTH))
    return sizes


def build(features: Features, data: Data, state: State | None = None) -> SingleTaskGP:
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
        _load(model, state)
    return model


def state_of(model: SingleTaskGP) -> State:
    """A copy of the hyper-parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _load(model: SingleTaskGP, state: State) -> None:
    """Take over all that the model has: exact observations have no noise to know, later ones may."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(state[name])


def optimise(model: SingleTaskGP, start: State | None, iterations: int = MAX_ITERATIONS) -> str:
    """Maximise the posterior of the hyper-parameters; on failure they stay where they were.

    Args:
        model: from :func:`build`.
        start: hyper-parameters of an earlier fit, to begin with.
        iterations: at most.

    Returns:
        How it ended: see :class:`Fit`.
    """
    if start is not None:
        _load(model, start)
    before = state_of(model)
    mll = ExactMarginalLogLikelihood(model.likelihood, model).train()
    parameters = dict(mll.named_parameters())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizationWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            result = fit_gpytorch_mll_scipy(
                mll,
                parameters=parameters,
                closure=ForwardBackwardClosure(NegativeLogPosterior(model), parameters),
                options={"maxiter": iterations, "ftol": 1e-6},
                timeout_sec=TIME_LIMIT_S,
            )
        status = _status(result, model)
    except NotPSDError:
        status = "failed"
    if status == "failed":
        _load(model, before)
    mll.eval()
    return status


def _status(result: OptimizationResult, model: SingleTaskGP) -> str:
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    if not finite or not math.isfinite(float(result.fval)):
        return "failed"
    if result.status is OptimizationStatus.SUCCESS:
        return "converged"
    if result.status is OptimizationStatus.FAILURE:
        return "stalled"
    return "time limit" if "timed out" in (result.message or "") else "iterations"
