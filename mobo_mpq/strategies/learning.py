"""From complete trials to the surrogate that explains them best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.features import Features
from mobo_mpq.strategies.fitting import Data, Fitter, build
from mobo_mpq.strategies.observations import Link, Observations
from mobo_mpq.strategies.surrogate import Surrogate

Observed = Sequence[tuple[Policy, Mapping[str, Measurement]]]

LEAST = 3
"""Different policies that a surrogate needs."""


class Learner:
    """Keeps the fits of one study.

    Args:
        problem: space, sensitivities and the measured quality.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.features = Features.of(problem)
        self._all: Observations | None = None
        self._direct = Fitter(self.features, lambda n: self._direct_data(n)[0])
        self._divergence = Fitter(self.features, lambda n: self._divergence_data(n)[0])
        self._made: tuple[int, Surrogate] | None = None

    def is_ready(self, observed: Observed) -> bool:
        """Whether there is enough to learn from."""
        return len({policy for policy, _ in observed}) >= LEAST

    def surrogate(self, observed: Observed) -> Surrogate:
        """The surrogate of complete trials, in the order in which they finished; it depends on nothing else."""
        if self._made is None or self._made[0] != len(observed):
            self._all = self.observations(observed)
            self._made = (len(observed), self._choose(len(observed)))
        return self._made[1]

    def observations(self, observed: Observed) -> Observations:
        """Levels, losses and divergences."""
        quality = self.problem.quality
        results = [values[quality.name] for _, values in observed]
        divergences = [result.divergence for result in results]
        return Observations(
            levels=self.problem.space.to_levels([policy for policy, _ in observed]),
            loss=np.array([-quality.sign * result.value for result in results]),
            divergence=None if None in divergences else np.array(divergences, dtype=np.float64),
            reference=-quality.sign * quality.reference,
            # Policies are scored on the same samples, so that most of a standard error is common to all of them and
            # far above the noise between them: only an exact 0 is taken at its word, the rest is inferred.
            exact=all(result.stderr == 0.0 for result in results),
        )

    def _choose(self, count: int) -> Surrogate:
        """By the loss itself or by the divergence: whichever predicts left-out losses better."""
        direct = self._make(self._direct, *self._direct_data(count), count)
        assert self._all is not None, "surrogate() sets it"
        if self._all.by_divergence() is None:
            return direct
        other = self._make(self._divergence, *self._divergence_data(count), count)
        return min((direct, other), key=Surrogate.error)

    def _make(self, fitter: Fitter, data: Data, link: Link, count: int) -> Surrogate:
        fit = fitter.fit(count)
        return Surrogate(build(self.features, data, fit.state if fit else None), data, link)

    def _direct_data(self, count: int) -> tuple[Data, Link]:
        assert self._all is not None, "surrogate() sets it"
        return self._all.first(count).direct()

    def _divergence_data(self, count: int) -> tuple[Data, Link]:
        assert self._all is not None, "surrogate() sets it"
        return self._all.first(count).by_divergence() or self._all.first(count).direct()
