"""A Gaussian process on the quality. Costs are known, so nothing else is modelled."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from botorch.exceptions.warnings import BotorchWarning
from botorch.models import SingleTaskGP
from botorch.models.transforms.input import InputTransform
from botorch.optim.fit import fit_gpytorch_mll_scipy
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator.utils.errors import NanError, NotPSDError
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from mobo_mpq.space import SearchSpace

MAX_ITERATIONS = 50
"""Of L-BFGS: a fit stops by iterations, never by the clock, so that it repeats exactly."""

_SPANS_BELOW = 1.0
_LEAST_VARIANCE = 1e-6  # of a standardised quality; less is refused by GPyTorch


class QuantizationScale(InputTransform, torch.nn.Module):
    """Levels -> the step size 2^-bits, scaled to 0 (highest bits) and 1 (lowest bits).

    Quantization error goes with the step: from 8 bits to 6 nothing happens, from 4 to 2 everything does. On this scale
    one length fits both ends.
    """

    is_one_to_many = False
    table: Tensor

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.transform_on_train = self.transform_on_eval = self.transform_on_fantasize = True
        widest = max(len(variable.choices) for variable in space.variables)
        table = np.zeros((len(space.variables), widest))
        for row, variable in enumerate(space.variables):
            step = np.exp2(-np.array(variable.choices, dtype=np.float64))
            table[row, : len(step)] = (step - step[-1]) / (step[0] - step[-1])
        self.register_buffer("table", torch.from_numpy(table))  # d x levels

    def transform(self, X: Tensor) -> Tensor:  # (..., d) -> (..., d)
        """Look every level up."""
        scaled: Tensor = self.table[torch.arange(len(self.table)), X.long()]
        return scaled


@dataclass(frozen=True)
class Surrogate:
    """A fitted process, and the affine map from the quality (maximised) to its outcomes.

    Attributes:
        model: posterior over ``(quality - mean) / scale`` at levels, ``(..., q, d)``, in float64.
        mean: of the observed qualities.
        scale: their standard deviation.
        levels: ``n x d``, what was observed.
    """

    model: SingleTaskGP
    mean: float
    scale: float
    levels: Tensor

    def standardise(self, quality: float) -> float:
        """From the quality (maximised) to the model's outcomes."""
        return (quality - self.mean) / self.scale


def fit(
    space: SearchSpace,
    levels: np.ndarray[tuple[int, ...], np.dtype[np.intp]],
    quality: Sequence[float],
    stderr: Sequence[float | None],
    reference: float,
) -> Surrogate:
    """Fit BoTorch's default process, an RBF kernel with one length per variable and priors that grow with d.

    The priors are those of Hvarfner et al., 2024. A fit that fails leaves the hyper-parameters at the priors' modes.

    Args:
        space: gives the bits behind the levels.
        levels: ``n x d``, of the evaluated policies.
        quality: n, maximised.
        stderr: n; the noise is inferred when one is not known.
        reference: worst quality of interest, maximised.
    """
    y = clip(np.asarray(quality, dtype=np.float64), reference)
    mean, scale = float(y.mean()), float(y.std())
    if scale <= 1e-12 * max(abs(mean), 1.0):
        scale = 1.0  # all alike: any unit does
    known = [s for s in stderr if s is not None]
    variance = None
    if len(known) == len(y):
        variance = torch.tensor(known, dtype=torch.float64).div(scale).square().clamp_min(_LEAST_VARIANCE)[:, None]
    x = torch.from_numpy(levels.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)  # tiny samples are seldom quite standardised
        model = SingleTaskGP(
            x,
            torch.from_numpy((y - mean) / scale)[:, None],
            train_Yvar=variance,
            outcome_transform=None,
            input_transform=QuantizationScale(space),
        )
    _fit(model)
    return Surrogate(model, mean, scale, x)


def clip(
    quality: np.ndarray[tuple[int, ...], np.dtype[np.float64]], reference: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Raise what lies further below the reference than the best lies above it.

    Two-bit disasters are all equally useless; left alone, they would set the scale and the lengths of the fit, and the
    differences near the front, a hundred times smaller, would pass for noise.
    """
    span = float(quality.max()) - reference
    return np.maximum(quality, reference - _SPANS_BELOW * span) if span > 0 else quality


def _fit(model: SingleTaskGP) -> None:
    mll = ExactMarginalLogLikelihood(model.likelihood, model)
    start = copy.deepcopy(mll.state_dict())
    mll.train()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            fit_gpytorch_mll_scipy(mll, options={"maxiter": MAX_ITERATIONS})
    except (NanError, NotPSDError):
        mll.load_state_dict(start)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in mll.parameters()):
        mll.load_state_dict(start)
    mll.eval()
