"""What a user could hook up instead of the product's engine: BoTorch, Ax and Optuna as their documentation shows them.

They are given both objectives as measurements, with the references as thresholds; that the cost is known exactly, and
what the layers' sensitivities are, is not something that they can be told.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf_discrete_local_search
from botorch.optim.optimize_mixed import optimize_acqf_mixed_alternating
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import SumMarginalLogLikelihood
from optuna.samplers import BaseSampler, GPSampler
from torch import Tensor

from mobo_mpq.arrays import Levels
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.optuna_samplers import OptunaStrategy
from mobo_mpq.strategies.quasirandom import Sobol
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.trial import Proposal, Trial, TrialState

if TYPE_CHECKING:
    from ax.api.client import Client


class QLogNehvi(Strategy):
    """BoTorch's qLogNEHVI with a default SingleTaskGP for each objective and its own search over a lattice.

    Daulton et al., 2021; Ament et al., 2023. A Sobol start, then batches by sequential greedy. Starting points as in
    BoTorch's tutorials rather than its defaults, which take minutes per proposal.
    """

    num_restarts, raw_samples, mc_samples = 10, 512, 128

    def __init__(self, problem: Problem, *, seed: int) -> None:
        super().__init__(problem, seed=seed)
        self.num_initial = int(np.clip(len(problem.space.variables), 8, 16))
        self._start = Sobol(problem, seed=seed)

    def propose(self, n: int) -> list[Proposal]:
        """Sobol points first, then a batch of ``n``."""
        number = self.number
        if number < self.num_initial or len(self.observed) < 2:
            policy = self.fresh([self._start.point(number)], self.rng(number))
            return [] if policy is None else [Proposal(policy, "sobol")]
        with silent(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.derived_seed(number))
            levels = self._optimise(self._acquisition(), n)
        candidates = self.problem.space.to_policies(self.problem.space.repair_all(levels))
        return new_proposals(self, candidates, "qlognehvi")

    def _acquisition(self) -> AcquisitionFunction:
        problem, observed, pending = self.problem, self.observed, self.pending
        x = torch.from_numpy(problem.space.encode([policy for policy, _ in observed]))
        y = torch.from_numpy(np.array([problem.maximised(values) for _, values in observed]))
        model = ModelListGP(*[SingleTaskGP(x, column[:, None]) for column in y.T])
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        return qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=torch.from_numpy(problem.reference),
            X_baseline=x,
            X_pending=torch.from_numpy(problem.space.encode(pending)) if pending else None,
            sampler=SobolQMCNormalSampler(torch.Size([self.mc_samples])),
            prune_baseline=True,
        )

    def _optimise(self, acquisition: AcquisitionFunction, n: int) -> Levels:  # -> n x d
        space = self.problem.space
        x, _ = optimize_acqf_discrete_local_search(
            acquisition,
            discrete_choices=self._grid(),
            q=n,
            num_restarts=self.num_restarts,
            raw_samples=self.raw_samples,
            X_avoid=torch.from_numpy(space.encode([policy for policy in self.seen if policy in space])),
            return_acq_values=False,
        )
        return self._levels(x)

    def _grid(self) -> list[Tensor]:
        """Choices of every variable, as :meth:`SearchSpace.encode` gives them."""
        return [torch.arange(size, dtype=torch.float64) / (size - 1) for size in self.problem.space.sizes.tolist()]

    def _levels(self, x: Tensor) -> Levels:
        return np.rint(x.numpy() * (self.problem.space.sizes - 1)).astype(np.intp)


class QLogNehviMixed(QLogNehvi):
    """The same acquisition, by BoTorch's alternating search for mixed spaces."""

    def _optimise(self, acquisition: AcquisitionFunction, n: int) -> Levels:  # -> n x d
        grid = self._grid()
        x, _ = optimize_acqf_mixed_alternating(
            acquisition,
            bounds=torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(1, len(grid)),
            discrete_dims={index: choices.tolist() for index, choices in enumerate(grid)},
            q=n,
            num_restarts=self.num_restarts,
            raw_samples=self.raw_samples,
            return_acq_values=False,
        )
        return self._levels(x)


class Ax(Strategy):
    """Ax's default for two objectives with thresholds, through its ``Client``: Sobol points, then qLogNEHVI.

    The client lives as long as the strategy and is brought up to date before it is asked. Needs the extra
    ``benchmarks``.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        super().__init__(problem, seed=seed)
        self._index: dict[int, int] = {}
        self._reported = 0
        with silent():
            self._client = self._new_client()

    def propose(self, n: int) -> list[Proposal]:
        """What the client answers; policies that were seen give way to new ones nearby."""
        space = self.problem.space
        with silent():
            self._synchronise()
            answer = self._client.get_next_trials(max_trials=n)
            levels = [[parameters[f"x{i}"] for i in range(len(space.variables))] for parameters in answer.values()]
            policies = space.to_policies(space.repair_all(np.array(levels, dtype=np.intp)))
            proposals = new_proposals(self, policies, "ax")
            for offset, (index, asked) in enumerate(zip(answer, policies, strict=True)):
                if offset < len(proposals) and proposals[offset].policy == asked:
                    self._index[self.number + offset] = index
                else:
                    self._client.mark_trial_abandoned(index)
        return proposals

    def _synchronise(self) -> None:
        for number, policy in self.running.items():
            self._attach(number, policy)
        for trial in self.finished[self._reported :]:
            self._attach(trial.number, trial.policy)
            self._report(trial)
        self._reported = len(self.finished)

    def _attach(self, number: int, policy: Policy | None) -> None:
        if number not in self._index and policy is not None and policy in self.problem.space:
            levels = self.problem.space.to_levels([policy])[0].tolist()
            self._index[number] = self._client.attach_trial({f"x{i}": level for i, level in enumerate(levels)})

    def _report(self, trial: Trial) -> None:
        if trial.number not in self._index:
            return
        index = self._index[trial.number]
        if trial.state is TrialState.COMPLETE:
            values = {info.name: trial.values[info.name].value for info in self.problem.infos}
            self._client.complete_trial(index, values)
        else:
            self._client.mark_trial_abandoned(index)

    def _new_client(self) -> Client:
        from ax.api.client import Client
        from ax.api.configs import ChoiceParameterConfig

        seed = self.derived_seed(0)
        client = Client(random_seed=seed)
        client.configure_experiment(
            [
                ChoiceParameterConfig(
                    name=f"x{i}", values=list(range(len(v.choices))), parameter_type="int", is_ordered=True
                )
                for i, v in enumerate(self.problem.space.variables)
            ]
        )
        infos = self.problem.infos
        client.configure_optimization(
            ", ".join(info.name if info.sign > 0 else f"-{info.name}" for info in infos),
            [f"{info.name} {'>=' if info.sign > 0 else '<='} {info.reference!r}" for info in infos],
        )
        client.configure_generation_strategy(
            initialization_random_seed=seed, allow_exceeding_initialization_budget=True
        )
        return client


class OptunaGp(OptunaStrategy):
    """Optuna's Gaussian processes with LogEHVI; ten random trials first."""

    origin = "optuna-gp"

    def sampler(self, seed: int) -> BaseSampler:
        """Optuna's GP sampler, for objectives with noise."""
        return GPSampler(seed=seed)


BASELINES: dict[str, Callable[..., Strategy]] = {
    "ax": Ax,
    "optuna-gp": OptunaGp,
    "qlognehvi": QLogNehvi,
    "qlognehvi-mixed": QLogNehviMixed,
}
"""Strategies that the product does not have."""


def make(name: str, problem: Problem, seed: int) -> Strategy:
    """A baseline, or a strategy of the product.

    Raises:
        UnknownName: when there is neither of that name.
    """
    return BASELINES[name](problem, seed=seed) if name in BASELINES else make_strategy(name, problem, seed)


def new_proposals(strategy: Strategy, candidates: Sequence[Policy], origin: str) -> list[Proposal]:
    """One proposal for each candidate: itself where it is new, else a new policy near it."""
    taken: list[Policy] = []
    for offset, candidate in enumerate(candidates):
        policy = strategy.fresh([candidate], strategy.rng(strategy.number, offset), taken)
        if policy is None:
            break
        taken.append(policy)
    return [Proposal(policy, origin) for policy in taken]


@contextmanager
def silent() -> Iterator[None]:
    """Without the warnings and log lines of libraries; both are as they were afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
