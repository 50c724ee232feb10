"""Multi-objective Bayesian optimization with costs known exactly: our engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.pareto import non_dominated
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.acquisition import Improvement
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.designs import sensitivity_front, spread, uniform_policies, van_der_corput
from mobo_mpq.strategies.isolation import isolated
from mobo_mpq.strategies.lattice import STARTS, Candidates, around, best_policy, biased
from mobo_mpq.strategies.learning import Learner
from mobo_mpq.strategies.surrogate import Surrogate
from mobo_mpq.strategies.sweep import Sweep, sweep_weights
from mobo_mpq.trial import Proposal

Levels = NDArray[np.intp]
Floats = NDArray[np.float64]

DRAWS = 16
"""Joint draws of the front from the posterior."""

FRONT_MEMBERS = 6
"""Of the front of the sensitivities that a study begins with."""

SWEPT = 48
"""Weights between loss and costs for which the additive part of the posterior is minimised."""

TABLES = 4
"""Draws of the additive part that are minimised beside its mean: they reach policies far from all that is known."""


class Mobo(Strategy):
    """A structured Gaussian process on the quality, and the closed-form improvement that exact costs allow.

    First a few policies of the front of the sensitivities, or, where there are none, uniform policies and random ones
    spread over the first cost; then the maximiser of the noisy expected hypervolume improvement. Running policies are
    part of the front by sampled outcomes, so that proposals made at the same time differ.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        super().__init__(problem, seed=seed)
        self.learner = Learner(problem)
        self.sweep = Sweep(problem)
        d = len(problem.space.variables)
        self._design = self._policies_to_begin_with()
        self.num_initial = 1 + len(self._design) if problem.sensitivity is not None else int(np.clip(d, 6, 8))

    def propose(self, n: int) -> list[Proposal]:
        """The next policy of the initial design, or the one of greatest expected improvement."""
        number, rng = self.number, self.rng(self.number)
        if number < self.num_initial or not self.learner.is_ready(self.observed):
            policy = self.fresh(self._initial(number, rng), rng)
            return [] if policy is None else [Proposal(policy, "initial")]
        with isolated(self.derived_seed(number)):
            levels = self._maximise(rng)
        candidates = [] if levels is None else self.problem.space.to_policies(levels)
        policy = self.fresh(candidates, rng)
        return [] if policy is None else [Proposal(policy, "ehvi")]

    # --- the beginning ----------------------------------------------------------------------------------------------

    def _policies_to_begin_with(self) -> list[Policy]:
        """After the highest bits: from the front of the sensitivities, and the uniform policies at its lower end."""
        problem = self.problem
        if problem.sensitivity is None or not problem.space.variables:
            return uniform_policies(problem, int(np.clip(len(problem.space.variables), 6, 12)) // 2)
        front = sensitivity_front(problem, self.rng(0, "directions"))
        members = spread(front, problem.costs[0].of_levels(front), FRONT_MEMBERS + 2)[1:-1]
        return problem.space.to_policies(members)

    def _initial(self, number: int, rng: np.random.Generator) -> Iterator[Policy]:
        """Trial 0 was the highest bits; the design follows, then targets that halve the gaps between costs."""
        if number <= len(self._design):
            yield self._design[number - 1]
        pool = biased(self.problem, 64, rng)
        cost = self.problem.costs[0].of_levels(pool)
        target = float(cost.min() + van_der_corput(number) * (cost.max() - cost.min()))
        order = np.argsort(np.abs(cost - target), kind="stable")
        yield from self.problem.space.to_policies(pool[order])

    # --- the engine -------------------------------------------------------------------------------------------------

    def _maximise(self, rng: np.random.Generator) -> Levels | None:
        problem = self.problem
        surrogate = self.learner.surrogate(self.observed)
        improvement = Improvement(surrogate, problem, DRAWS, rng)
        improvement.add(self.levels_of(self.pending))
        taken = self.levels_of(self.seen)
        objective = _Lattice(surrogate, improvement)
        found = best_policy(problem, objective, self._pool(surrogate, improvement, rng), taken, rng)
        return None if found is None else found[0]

    def _pool(self, surrogate: Surrogate, improvement: Improvement, rng: np.random.Generator) -> Candidates:
        """Neighbours of some members of the front, and the front of the additive part of the posterior."""
        problem = self.problem
        front = improvement.front()
        starts = front[rng.permutation(len(front))[:STARTS]]
        tables = [surrogate.additive(), *surrogate.additive_draws(TABLES, rng)]
        span = float(np.ptp(tables[0], axis=1).sum())
        weights = sweep_weights(problem, SWEPT, span, rng)
        every = np.repeat(np.stack(tables), len(weights), axis=0)  # a table for each row of weights
        swept = np.unique(self.sweep(every, np.tile(weights, (len(tables), 1))), axis=0)
        return Candidates.join([around(problem, starts, rng), Candidates(swept, swept, np.arange(len(swept)))])


class _Lattice:
    """The improvement, as the search over the lattice wants it: rows of the covariance are computed once."""

    def __init__(self, surrogate: Surrogate, improvement: Improvement) -> None:
        self.surrogate, self.improvement = surrogate, improvement

    def screen(self, candidates: Candidates) -> Floats:
        """Improvement over the front of the posterior mean."""
        self._levels = candidates.levels
        self._rows = self.surrogate.rows(candidates.levels, candidates.base, candidates.of)
        self._costs = self.improvement.costs_of(candidates.levels)
        return self.improvement.screen(self._levels, self._rows, self._costs)

    def value(self, chosen: NDArray[np.intp]) -> Floats:
        """Improvement averaged over draws of the front."""
        return self.improvement.value(self._levels[chosen], self._rows[chosen], self._costs[chosen])
