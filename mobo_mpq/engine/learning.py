"""From complete trials to the surrogate that explains them best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mobo_mpq.engine.features import Features
from mobo_mpq.engine.fitting import Data, Fitter, build
from mobo_mpq.engine.observations import Link, Observations
from mobo_mpq.engine.surrogate import Surrogate
from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem

Observed = Sequence[tuple[Policy, Mapping[str, Measurement]]]

LEAST = 3
"""Different policies that a surrogate needs."""


class Learner:
    """Keeps the fits of one study.

    Args:
        problem: space and sensitivities.
        info: the measured objective that is learned; the problem's quality when absent.
    """

    def __init__(self, problem: Problem, info: ObjectiveInfo | None = None) -> None:
        self.problem, self.info = problem, info or problem.quality
        self.features = Features.of(problem)
        self._all: Observations | None = None
        self._direct = Fitter(self.features, lambda n: self._direct_data(n)[0])
        self._divergence = Fitter(self.features, lambda n: self._divergence_data(n)[0])
        self._made: tuple[int, list[Surrogate]] | None = None

    def is_ready(self, observed: Observed) -> bool:
        """Whether there is enough to learn from."""
        return len({policy for policy, _ in observed}) >= LEAST

    def surrogates(self, observed: Observed) -> list[Surrogate]:
        """One over the loss and, where divergences are known, one over these; the better predictor first.

        Neither is right everywhere: the divergence is smoother and more additive, the loss is what counts. They depend
        on the complete trials, in the order in which they finished, and on nothing else.
        """
        if self._made is None or self._made[0] != len(observed):
            self._all = self.observations(observed)
            self._made = (len(observed), self._candidates(len(observed)))
        return self._made[1]

    def surrogate(self, observed: Observed) -> Surrogate:
        """The one that predicts left-out losses best."""
        return self.surrogates(observed)[0]

    def direct(self, observed: Observed) -> Surrogate:
        """The surrogate of the loss itself, whatever would predict it better."""
        self._all = self.observations(observed)
        return self._make(self._direct, *self._direct_data(len(observed)), len(observed))

    def statuses(self) -> tuple[list[str], list[str]]:
        """How all fits ended: those to the loss, and those to the divergence."""
        return self._direct.statuses(), self._divergence.statuses()

    def observations(self, observed: Observed) -> Observations:
        """Levels, losses and divergences."""
        quality = self.info
        results = [values[quality.name] for _, values in observed]
        divergences = np.array([np.nan if one.divergence is None else one.divergence for one in results])
        return Observations(
            levels=self.problem.space.to_levels([policy for policy, _ in observed]),
            loss=np.array([-quality.sign * result.value for result in results]),
            divergence=divergences if np.isfinite(divergences).all() else None,
            reference=-quality.sign * quality.reference,
            # Policies are scored on the same samples, so that most of a standard error is common to all of them and
            # far above the noise between them: only an exact 0 is taken at its word, the rest is inferred.
            exact=np.array([self.problem.deterministic or result.stderr == 0.0 for result in results], dtype=np.bool_),
        )

    def _candidates(self, count: int) -> list[Surrogate]:
        made = [self._make(self._direct, *self._direct_data(count), count)]
        assert self._all is not None, "surrogates() sets it"
        if self._all.by_divergence() is not None:
            made.append(self._make(self._divergence, *self._divergence_data(count), count))
        return sorted(made, key=Surrogate.error)

    def _make(self, fitter: Fitter, data: Data, link: Link, count: int) -> Surrogate:
        fit = fitter.fit(count)
        return Surrogate(build(self.features, data, fit.state if fit else None), data, link)

    def _direct_data(self, count: int) -> tuple[Data, Link]:
        assert self._all is not None, "surrogates() and direct() set it"
        return self._all.first(count).direct()

    def _divergence_data(self, count: int) -> tuple[Data, Link]:
        assert self._all is not None, "surrogates() and direct() set it"
        return self._all.first(count).by_divergence() or self._all.first(count).direct()
