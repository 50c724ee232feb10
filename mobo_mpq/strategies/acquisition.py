"""Noisy expected hypervolume improvement, with costs that are looked up instead of modelled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.objective import MCMultiOutputObjective
from botorch.sampling.normal import SobolQMCNormalSampler
from numpy.typing import NDArray
from torch import Tensor

from mobo_mpq.problem import Problem
from mobo_mpq.strategies.surrogate import Surrogate

Levels = NDArray[np.intp]
Acquisition = Callable[[Levels], NDArray[np.float64]]
"""``n x d`` levels -> n values, the more the better."""

MAX_BASELINE = 24
_CHUNK = 256

# BoTorch compiles a C++ kernel on first use, for seconds, where it finds a compiler, and warns where it does not. Its
# last digits differ from those of the Python formula: a study has to repeat on machines with and without a compiler.
logei._load_attempted = True


class ExactCosts(MCMultiOutputObjective):
    """Appends the negated costs of a policy to samples of its quality: all maximised, of order one.

    Every objective is shifted such that the reference is 0, and scaled: the quality by the surrogate, each cost by the
    range between the reference and its least value.
    """

    def __init__(self, problem: Problem, surrogate: Surrogate) -> None:
        super().__init__()
        self.problem = problem
        self.quality_reference = surrogate.standardise(float(problem.quality.sign * problem.quality.reference))
        self.references = [cost.info.reference for cost in problem.costs]
        self.ranges = [_range(cost.info.reference, cost.table) for cost in problem.costs]

    def forward(self, samples: Tensor, X: Tensor | None = None) -> Tensor:
        """``sample_shape x batch_shape x q x 1`` and ``batch_shape x q x d`` -> ``sample_shape x batch_shape x q x m``.

        The quality comes first.
        """
        assert X is not None
        gains = torch.from_numpy(self.gains(X.numpy().astype(np.intp)))  # batch_shape x q x (m - 1)
        gains = gains.expand(*samples.shape[:-1], gains.shape[-1])
        return torch.cat([samples - self.quality_reference, gains], dim=-1)

    def gains(self, levels: Levels) -> NDArray[np.float64]:  # (..., d) -> (..., m - 1)
        """How far each cost is below its reference."""
        columns = [
            (reference - cost.of_levels(levels)) / span
            for cost, reference, span in zip(self.problem.costs, self.references, self.ranges, strict=True)
        ]
        return np.stack(columns, axis=-1)


def q_log_nehvi(problem: Problem, surrogate: Surrogate, pending: Levels, seed: int) -> Acquisition:
    """Log noisy expected hypervolume improvement (Daulton et al., 2021; Ament et al., 2023), for single candidates.

    Args:
        problem: costs and references.
        surrogate: fitted to at least two policies.
        pending: ``p x d``, policies that still run: their outcomes are sampled like those of the evaluated ones.
        seed: of the quasi-Monte Carlo samples.
    """
    objective = ExactCosts(problem, surrogate)
    # with more than one cost, boxes are found one sample at a time
    samples = 64 if len(problem.costs) == 1 else 16
    function = logei.qLogNoisyExpectedHypervolumeImprovement(
        model=surrogate.model,
        ref_point=torch.zeros(1 + len(problem.costs), dtype=torch.float64),
        X_baseline=_baseline(surrogate, objective),
        X_pending=torch.from_numpy(pending.astype(np.float64)) if len(pending) else None,
        sampler=SobolQMCNormalSampler(torch.Size([samples]), seed=seed),
        objective=objective,
        prune_baseline=False,
    )

    def evaluate(levels: Levels) -> NDArray[np.float64]:
        x = torch.from_numpy(levels.astype(np.float64))[:, None]  # n x 1 x d
        with torch.no_grad():
            return np.concatenate([function(chunk).numpy() for chunk in x.split(_CHUNK)])

    return evaluate


def _baseline(surrogate: Surrogate, objective: ExactCosts) -> Tensor:  # -> r x d
    """Evaluated policies that may be on the front: those that no other beats by two standard deviations.

    At most :data:`MAX_BASELINE`, the likeliest; at least one.
    """
    unique = surrogate.levels.unique(dim=0)
    with torch.no_grad():
        posterior = surrogate.model.posterior(unique)
    mean, sd = posterior.mean[:, 0].numpy(), posterior.variance[:, 0].clamp_min(0).sqrt().numpy()
    gains = objective.gains(unique.numpy().astype(np.intp))  # n x (m - 1)
    at_most = (gains[None] >= gains[:, None]).all(axis=-1)  # [i, j]: j costs no more than i
    lead = np.where(at_most, mean[None] - mean[:, None], -np.inf)
    np.fill_diagonal(lead, -np.inf)
    deficit = np.maximum(lead.max(axis=1, initial=-np.inf), objective.quality_reference - mean) - 2 * sd
    order = np.argsort(deficit, kind="stable")[:MAX_BASELINE]
    likely = order[deficit[order] <= 0]
    return unique[np.sort(likely if len(likely) else order[:1])]


def _range(reference: float, table: NDArray[np.float64]) -> float:
    """From the sum of each layer's least cost, which no policy undercuts, to the reference."""
    span = reference - float(np.nanmin(table, axis=1).sum())
    return span if span > 0 else max(abs(reference), float(np.finfo(np.float64).tiny))
