"""Multi-objective Bayesian optimization with costs known exactly: our engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.acquisition import Improvement, replicate
from mobo_mpq.engine.designs import sensitivity_front, spread, uniform_policies, van_der_corput
from mobo_mpq.engine.diagnosis import denoise, diagnose, is_noiseless
from mobo_mpq.engine.isolation import isolated
from mobo_mpq.engine.lattice import STARTS, Candidates, Objective, around, best_policy, biased
from mobo_mpq.engine.learning import Learner
from mobo_mpq.engine.several import SampledImprovement
from mobo_mpq.engine.sweep import Sweep, sweep_weights
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import REPLICATE, Proposal

EHVI, SAMPLED = "ehvi", "qlognehvi"
"""Origins of proposals: by the closed form, or by sampling where several objectives are measured."""

DRAWS = 16
"""Joint draws of the front from the posterior."""

FRONT_MEMBERS = 10
"""Of the front of the sensitivities that a study begins with."""

SWEPT = 48
"""Weights between loss and costs for which the additive part of the posterior is minimised."""

TABLES = 4
"""Draws of the additive part that are minimised beside its mean: they reach policies far from all that is known."""

REPLICATE_EVERY = 8
"""At most one trial of so many evaluates a policy again."""


class Mobo(Strategy):
    """A structured Gaussian process on the quality, and the closed-form improvement that exact costs allow.

    First a few policies of the front of the sensitivities, or, where there are none, uniform policies and random ones
    spread over the first cost; then the maximiser of the noisy expected hypervolume improvement. Running policies are
    part of the front by sampled outcomes, so that proposals made at the same time differ. Where knowing a member of the
    front better is worth more than any new policy, it is evaluated again.

    With several measured objectives there is no closed form: BoTorch's qLogNEHVI takes its place, and the origin of
    such proposals says so.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        super().__init__(problem, seed=seed)
        self.learners = [Learner(problem, info) for info in problem.measured]
        self.learner = self.learners[0]
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
            proposal = self._maximise(rng) if len(self.learners) == 1 else self._maximise_sampled(rng)
        if proposal is None:
            policy = self.fresh([], rng)
            return [] if policy is None else [Proposal(policy, "random")]
        return [proposal]

    def diagnosis(self) -> dict[str, Any]:
        """How well the surrogate predicts: see :func:`~mobo_mpq.engine.diagnosis.diagnose`."""
        if not self.learner.is_ready(self.observed):
            return {}
        with isolated(self.derived_seed(0)):  # the fits that are made here are those that a proposal would make
            acquisition = EHVI if len(self.learners) == 1 else SAMPLED
            return {"acquisition": acquisition, **diagnose(self.learner, self.observed, self.problem.quality)}

    def estimates(self) -> dict[int, Measurement]:
        """What the surrogate expects of each policy that was evaluated; nothing where there is no noise to take out."""
        if not self.learner.is_ready(self.observed):
            return {}
        numbers = [trial.number for trial in self.complete if self.is_of_space(trial.policy)]
        with isolated(self.derived_seed(0)):
            surrogate = self.learner.surrogate(self.observed)
            expected = [] if is_noiseless(surrogate) else denoise(surrogate, self.problem.quality)
        return dict(zip(numbers, expected, strict=bool(expected)))

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

    def _maximise(self, rng: np.random.Generator) -> Proposal | None:
        views = []
        for surrogate in self.learner.surrogates(self.observed):
            view = Improvement(surrogate, self.problem, DRAWS, rng)
            view.add(self.levels_of(self.pending))
            views.append(view)
        found = self._best(_Average(views), self._pool(views[0], rng), rng)
        if found is None:
            return None
        again = replicate(views[0], found[1]) if self._may_replicate() else None
        levels, origin = (found[0], EHVI) if again is None else (again, REPLICATE)
        return Proposal(self.problem.space.to_policies(levels)[0], origin)

    def _maximise_sampled(self, rng: np.random.Generator) -> Proposal | None:
        """No closed form with several measured objectives."""
        seed = self.derived_seed(self.number, "samples")
        surrogates = [learner.direct(self.observed) for learner in self.learners]
        improvement = SampledImprovement(self.problem, surrogates, self.levels_of(self.pending), seed)
        starts = improvement.front()[:STARTS]
        spread_out = biased(self.problem, 64, rng)
        pool = Candidates.join([around(self.problem, starts, rng), Candidates.alone(spread_out)])
        found = self._best(improvement, pool, rng)
        return None if found is None else Proposal(self.problem.space.to_policies(found[0])[0], SAMPLED)

    def _best(self, objective: Objective, pool: Candidates, rng: np.random.Generator) -> tuple[Levels, float] | None:
        return best_policy(self.problem, objective, pool, self.levels_of(self.seen), rng)

    def _may_replicate(self) -> bool:
        """Replicates are rationed: none of the last few trials was one, and none is running."""
        last = [trial.origin for trial in self.finished[-REPLICATE_EVERY:]]
        running = not {policy for policy, _ in self.observed}.isdisjoint(self.pending)
        return len(last) == REPLICATE_EVERY and REPLICATE not in last and not running

    def _pool(self, view: Improvement, rng: np.random.Generator) -> Candidates:
        """Neighbours of some members of the front, and the front of the additive part of the posterior."""
        problem, surrogate = self.problem, view.surrogate
        front = view.front()
        starts = front[rng.permutation(len(front))[:STARTS]]
        tables = [surrogate.additive(), *surrogate.additive_draws(TABLES, rng)]
        span = float(np.ptp(tables[0], axis=1).sum())
        weights = sweep_weights(problem, SWEPT, span, rng)
        every = np.repeat(np.stack(tables), len(weights), axis=0)  # a table for each row of weights
        swept = np.unique(self.sweep(every, np.tile(weights, (len(tables), 1))), axis=0)
        return Candidates.join([around(problem, starts, rng), Candidates.alone(swept)])


class _Average:
    """The mean improvement over several surrogates."""

    def __init__(self, views: Sequence[Improvement]) -> None:
        self.views = views

    def screen(self, candidates: Candidates) -> Floats:
        """Improvement over the fronts of the posterior means."""
        self._candidates, self._costs = candidates, self.views[0].costs_of(candidates.levels)
        return np.asarray(np.mean([view.screen(candidates, self._costs) for view in self.views], axis=0))

    def value(self, chosen: NDArray[np.intp]) -> Floats:
        """Improvement averaged over draws of the fronts."""
        candidates, costs = self._candidates[chosen], self._costs[chosen]
        return np.asarray(np.mean([view.value(candidates, costs) for view in self.views], axis=0))
