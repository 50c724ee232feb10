"""Multi-objective Bayesian optimization: one Gaussian process on the quality, exact costs."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from botorch.exceptions.warnings import BotorchWarning
from linear_operator.utils.warnings import NumericalWarning
from numpy.typing import NDArray

from mobo_mpq.pareto import non_dominated
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.acquisition import q_log_nehvi
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.lattice import best_policy, biased
from mobo_mpq.strategies.surrogate import Surrogate, fit
from mobo_mpq.trial import Proposal

Levels = NDArray[np.intp]

MAX_STARTS = 12


class Mobo(Strategy):
    """BoTorch's noisy expected hypervolume improvement over the discrete space.

    First uniform policies from high bits to low, then random ones spread over the first cost, then the maximiser of the
    acquisition; running policies are pending points, whose outcomes are sampled.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        super().__init__(problem, seed=seed)
        self.num_initial = int(np.clip(len(problem.space.variables), 6, 12))
        self._uniform = _uniform_policies(problem, self.num_initial // 2)
        self._fitted: tuple[int, Surrogate] | None = None

    def propose(self, n: int) -> list[Proposal]:
        """The next policy of the initial design, or the one of greatest expected improvement."""
        rng, number = self.rng(self.number), self.number
        enough = len({policy for policy, _ in self.observed}) >= 2
        if number < self.num_initial or not enough:
            policy = self.fresh(self._initial(number, rng), rng)
            return [] if policy is None else [Proposal(policy, "initial")]
        with isolated(self.derived_seed(number)):
            levels = self._maximise(number, rng)
        candidates = [] if levels is None else self.problem.space.to_policies(levels)
        policy = self.fresh(candidates, rng)
        return [] if policy is None else [Proposal(policy, "qlognehvi")]

    def _initial(self, number: int, rng: np.random.Generator) -> Iterator[Policy]:
        """Trial 0 was the highest bits; uniform policies follow, then targets that halve the gaps between costs."""
        if number <= len(self._uniform):
            yield self._uniform[number - 1]
        pool = biased(self.problem, 64, rng)
        cost = self.problem.costs[0].of_levels(pool)
        target = float(cost.min() + _van_der_corput(number) * (cost.max() - cost.min()))
        order = np.argsort(np.abs(cost - target), kind="stable")
        yield from self.problem.space.to_policies(pool[order])

    def _maximise(self, number: int, rng: np.random.Generator) -> Levels | None:
        problem, space = self.problem, self.problem.space
        value = q_log_nehvi(
            problem, self._surrogate(), space.to_levels(self.pending), self.derived_seed(number, "samples")
        )
        taken = space.to_levels([policy for policy in self.seen if policy in space])
        return best_policy(problem, value, self._front(), taken, rng)

    def _surrogate(self) -> Surrogate:
        """The fit depends on the finished trials alone: proposals made between two results share it."""
        if self._fitted is None or self._fitted[0] != len(self.finished):
            quality = self.problem.quality
            observed = self.observed
            results = [values[quality.name] for _, values in observed]
            # Policies are scored on the same samples, so that most of a standard error is common to all of them and
            # far above the noise between them: only an exact 0 is taken at its word, the rest is inferred.
            exact = all(result.stderr == 0.0 for result in results)
            surrogate = fit(
                self.problem.space,
                self.problem.space.to_levels([policy for policy, _ in observed]),
                [quality.sign * result.value for result in results],
                [0.0 if exact else None for _ in results],
                quality.sign * quality.reference,
            )
            self._fitted = (len(self.finished), surrogate)
        return self._fitted[1]

    def _front(self) -> Levels:  # s x d
        """The observed front, thinned evenly along the first cost."""
        observed = self.observed
        mask = non_dominated([self.problem.maximised(values) for _, values in observed])
        distinct = dict.fromkeys(policy for (policy, _), keep in zip(observed, mask, strict=True) if keep)
        members = sorted(distinct, key=self.problem.costs[0])
        index = np.unique(np.linspace(0, len(members) - 1, min(len(members), MAX_STARTS)).round().astype(int))
        return self.problem.space.to_levels([members[i] for i in index])


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """One thread and a random state of its own for torch, both restored; no warnings about numerics.

    Threads would make sums, and so proposals, depend on the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", NumericalWarning)
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _uniform_policies(problem: Problem, n: int) -> list[Policy]:
    """Up to ``n`` uniform policies below the highest bits: equal ranks first, then high weights with low activations.

    Evenly spread over the choices where there are more.
    """
    space = problem.space
    weights, activations = space.weight_bits[::-1], space.activation_bits[::-1]
    longest = max(len(weights), len(activations))
    equal = [(weights[min(i, len(weights) - 1)], activations[min(i, len(activations) - 1)]) for i in range(1, longest)]
    mixed = [pair for pair in itertools.product(weights, activations) if pair not in equal]
    distinct = {space.uniform(*pair): None for pair in equal}
    if len(distinct) > n:
        index = np.linspace(0, len(distinct) - 1, n).round().astype(int)
        return [list(distinct)[i] for i in dict.fromkeys(index.tolist())]
    distinct.update({space.uniform(*pair): None for pair in mixed})
    distinct.pop(space.highest(), None)
    return list(distinct)[:n]


def _van_der_corput(number: int) -> float:
    """Radical inverse in base 2: 1/2, 1/4, 3/4, 1/8, ..."""
    result, scale = 0.0, 0.5
    while number:
        result += scale * (number & 1)
        number >>= 1
        scale /= 2
    return result
