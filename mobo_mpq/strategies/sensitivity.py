"""The front that sensitivities alone give: no learning, and the baseline that learning has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.engine.designs import sensitivity_front, van_der_corput
from mobo_mpq.errors import InputError
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Proposal


class SensitivityFront(Strategy):
    """Evaluates members of the sensitivities' own front, such that any number of them is spread over the costs.

    Raises:
        InputError: when the problem has no sensitivities.
    """

    def __init__(self, problem: Problem, *, seed: int) -> None:
        super().__init__(problem, seed=seed)
        if problem.sensitivity is None:
            raise InputError(
                "strategy 'sensitivity' needs sensitivities and this problem has none; leave out --no-sensitivity, or "
                "give Problem.from_tables a sensitivity table"
            )
        self._front: NDArray[np.intp] = sensitivity_front(problem, self.rng(0, "directions"))
        self._costs = problem.costs[0].of_levels(self._front)

    def propose(self, n: int) -> list[Proposal]:
        """The member nearest to the next cost of a sequence that halves the gaps; then policies near the front."""
        members = (self.problem.space.to_policies(levels)[0] for levels in self._nearest())  # seldom more than a few
        policy = self.fresh(members, self.rng(self.number))
        return [] if policy is None else [Proposal(policy, "sensitivity")]

    def _nearest(self) -> NDArray[np.intp]:  # k x d
        """Members, the nearest to the next cost first; none where the budgets leave none."""
        if not len(self._front):
            return self._front
        low, high = self._costs.min(), self._costs.max()
        target = high - van_der_corput(self.number) * (high - low)
        return self._front[np.argsort(np.abs(self._costs - target), kind="stable")]
