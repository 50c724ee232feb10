"""Several measured objectives: no closed form, so the improvement is sampled, by BoTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.objective import MCMultiOutputObjective
from botorch.models import ModelListGP
from botorch.sampling.normal import SobolQMCNormalSampler
from numpy.typing import NDArray
from torch import Tensor

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.lattice import Candidates
from mobo_mpq.engine.surrogate import Surrogate
from mobo_mpq.objective import ObjectiveInfo
from mobo_mpq.pareto import non_dominated
from mobo_mpq.problem import Problem

MAX_BASELINE = 24
SAMPLES = 32
_CHUNK = 256

# BoTorch compiles a C++ kernel on first use, for seconds, where it finds a compiler, and warns where it does not. Its
# last digits differ from those of the Python formula: a study has to repeat on machines with and without a compiler.
logei._load_attempted = True


class ExactCosts(MCMultiOutputObjective):
    """Joins samples of the measured objectives with the exact costs: all maximised, the reference at 0, of order one.

    Args:
        problem: objectives, references and costs.
        surrogates: one per measured objective, over the loss itself.
    """

    def __init__(self, problem: Problem, surrogates: Sequence[Surrogate]) -> None:
        super().__init__()
        self.problem = problem
        measured = [
            (-info.sign * info.reference - surrogate.shift) / surrogate.unit
            for info, surrogate in zip(problem.measured, surrogates, strict=True)
        ]
        self.references = torch.tensor(measured, dtype=torch.float64)

    def forward(self, samples: Tensor, X: Tensor | None = None) -> Tensor:
        """``sample_shape x batch_shape x q x s`` and ``batch_shape x q x d`` -> ``sample_shape x batch_shape x q x m``.

        The measured objectives come first.
        """
        assert X is not None, "costs are those of a policy"
        gains = torch.from_numpy(self.gains(X.numpy().astype(np.intp)))  # batch_shape x q x costs
        gains = gains.expand(*samples.shape[:-1], gains.shape[-1])
        return torch.cat([self.references - samples, gains], dim=-1)

    def gains(self, levels: Levels) -> Floats:  # (..., d) -> (..., costs)
        """How far each cost is below its reference, as a share of the range."""
        columns = []
        for cost in self.problem.costs:
            least = float(np.nanmin(cost.table, axis=1).sum())
            span = cost.info.reference - least if cost.info.reference > least else max(abs(cost.info.reference), 1e-300)
            columns.append((cost.info.reference - cost.of_levels(levels)) / span)
        return np.stack(columns, axis=-1)


class SampledImprovement:
    """Log noisy expected hypervolume improvement (Daulton et al., 2021; Ament et al., 2023), for single candidates.

    Args:
        problem: several measured objectives, and costs.
        surrogates: one per measured objective, fitted to the same policies, over the loss itself.
        pending: ``p x d``: policies that still run.
        seed: of the quasi-Monte Carlo samples.
    """

    def __init__(self, problem: Problem, surrogates: Sequence[Surrogate], pending: Levels, seed: int) -> None:
        self.problem, self.surrogates = problem, surrogates
        objective = ExactCosts(problem, surrogates)
        self._function = logei.qLogNoisyExpectedHypervolumeImprovement(
            model=ModelListGP(*(surrogate.model for surrogate in surrogates)),
            ref_point=torch.zeros(len(surrogates) + len(problem.costs), dtype=torch.float64),
            X_baseline=torch.from_numpy(self.front()[:MAX_BASELINE].astype(np.float64)),
            X_pending=torch.from_numpy(pending.astype(np.float64)) if len(pending) else None,
            sampler=SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed),
            objective=objective,
            prune_baseline=False,
        )

    def front(self) -> Levels:  # s x d
        """Observed policies that no other one beats by the posterior means, the best compromise first, each once."""
        levels = np.unique(self.surrogates[0].levels, axis=0)
        columns = [self._standardised(info, surrogate, levels) for info, surrogate in self._pairs()]
        points = np.column_stack([*columns, ExactCosts(self.problem, self.surrogates).gains(levels)])
        kept = np.flatnonzero(non_dominated(points))
        return levels[kept[np.argsort(-points[kept].sum(axis=1), kind="stable")]]

    def _pairs(self) -> list[tuple[ObjectiveInfo, Surrogate]]:
        return list(zip(self.problem.measured, self.surrogates, strict=True))

    @staticmethod
    def _standardised(info: ObjectiveInfo, surrogate: Surrogate, levels: Levels) -> Floats:
        return (-info.sign * info.reference - surrogate.mean(levels)) / surrogate.unit

    def screen(self, candidates: Candidates) -> Floats:
        """The improvement itself: there is no cheaper stand-in."""
        x = torch.from_numpy(candidates.levels.astype(np.float64))[:, None]  # c x 1 x d
        with torch.no_grad():
            self._values = np.concatenate([self._function(chunk).numpy() for chunk in x.split(_CHUNK)])
        return self._values

    def value(self, chosen: NDArray[np.intp]) -> Floats:
        """What was found by the screening."""
        return np.asarray(self._values[chosen])
