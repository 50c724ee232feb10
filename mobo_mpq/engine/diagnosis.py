"""What a surrogate says about itself, and what it expects of the policies it has seen, in units of the quality."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import rankdata

from mobo_mpq.arrays import Floats
from mobo_mpq.engine.learning import Learner, Observed
from mobo_mpq.engine.observations import Link
from mobo_mpq.engine.surrogate import Surrogate
from mobo_mpq.objective import Measurement, ObjectiveInfo

DIVERGENCE = "divergence"
"""The model's name where it is not that of the quality itself."""


def is_noiseless(surrogate: Surrogate) -> bool:
    """Whether the surrogate takes the quality that was measured at its word."""
    return surrogate.data.exact and surrogate.link == Link()


def denoise(surrogate: Surrogate, quality: ObjectiveInfo) -> list[Measurement]:
    """What the surrogate expects of each policy that it has seen.

    Args:
        surrogate: of ``n`` observations.
        quality: gives the sign.

    Returns:
        n posterior means, and standard deviations of what is expected, without the noise of an observation. They hold
        what the process leaves open and, where a divergence is modelled, what its link to the loss does; not the
        uncertainty of the hyper-parameters.
    """
    loss, sd = _expected_losses(surrogate)
    return [Measurement(float(-quality.sign * m), float(s)) for m, s in zip(loss, sd, strict=True)]


def diagnose(learner: Learner, observed: Observed, quality: ObjectiveInfo) -> dict[str, Any]:
    """How well the surrogate predicts; JSON-able, ``None`` for what cannot be said.

    Args:
        learner: keeps the fits.
        observed: enough complete trials, in the order in which they finished.
        quality: what the learner learns.
    """
    surrogate = learner.surrogate(observed)
    direct, divergence = learner.statuses()
    statuses = direct if surrogate.link == Link() else divergence
    error = surrogate.error()
    numbers = {name: value for name, value in surrogate.parameters._asdict().items() if isinstance(value, float)}
    return {
        "models": quality.name if surrogate.link == Link() else DIVERGENCE,
        "observations": len(surrogate.levels),
        "leave_one_out_error": error if math.isfinite(error) else None,
        "leave_one_out_rank_correlation": _rank_correlation(surrogate.leave_one_out()[0], surrogate.data.loss),
        "noise": _noise(surrogate),
        "fit": statuses[-1] if statuses else None,
        "fits_stopped_by_clock": (direct + divergence).count("time limit"),  # both were compared
        "hyperparameters": {name: value for name, value in numbers.items() if math.isfinite(value)},
    }


def _expected_losses(surrogate: Surrogate) -> tuple[Floats, Floats]:  # n, n
    """Posterior mean and standard deviation of the losses; what lies beyond the knee is stretched out again."""
    policies, where = np.unique(surrogate.levels, axis=0, return_inverse=True)  # replicates get the very same numbers
    mean, sd = surrogate.posterior(policies)
    knee, span = surrogate.data.knee, surrogate.data.span
    beyond = np.maximum(mean - knee, 0.0) / span
    mean = np.minimum(mean, knee) + span * np.expm1(beyond)
    loss, sd = surrogate.to_loss(mean, sd * np.exp(beyond))
    return loss[where], np.hypot(sd, _link_error(surrogate, mean))[where]


def _link_error(surrogate: Surrogate, signal: Floats) -> Floats:  # c -> c
    """Standard error of the link at some signals: that of a straight line over the power of the signal.

    ``s sqrt(1/n + (x - mean)^2 / S)``, of the n observations that are no worse than the knee, with S the sum of squared
    deviations, and s^2 the residual variance, of n - 3 degrees of freedom: offset, factor and power are fitted.
    """
    data, link = surrogate.data, surrogate.link
    near = data.signal <= data.knee
    n = int(near.sum())
    x, at = (np.maximum(values, 1e-12) ** link.power for values in (data.signal[near], signal))
    squares = float(np.square(x - x.mean()).sum()) if n else 0.0
    if link == Link() or n <= 3 or squares == 0.0:
        return np.zeros(len(signal))
    variance = float(np.square(data.loss[near] - link.loss(data.signal[near])).sum()) / (n - 3)
    return np.asarray(np.sqrt(variance * (1.0 / n + np.square(at - x.mean()) / squares)))


def _noise(surrogate: Surrogate) -> float | None:
    """Standard deviation of one observation of the quality around what is expected of its policy.

    Where the quality itself is modelled, it is a hyper-parameter. Else it is the scatter of the observations that are
    no worse than the knee, which holds what the link from the divergence to the quality leaves open as well.
    """
    data = surrogate.data
    if surrogate.link == Link():
        return 0.0 if is_noiseless(surrogate) else surrogate.noise_sd
    near = data.signal <= data.knee
    scatter = (data.loss - _expected_losses(surrogate)[0])[near]
    return float(np.sqrt(np.mean(np.square(scatter)))) if near.any() else None


def _rank_correlation(predicted: Floats, observed: Floats) -> float | None:
    """Spearman's; ``None`` where all are alike."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (predicted, observed)]
    length = math.prod(float(np.linalg.norm(rank)) for rank in ranks)
    return float(ranks[0] @ ranks[1]) / length if length > 0 else None
