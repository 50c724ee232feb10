"""Strategies that solve an integer programme: the least predicted loss within budgets that are spread over the cost."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.allocation import least_loss
from mobo_mpq.binary_programme import Budget
from mobo_mpq.engine.designs import van_der_corput
from mobo_mpq.errors import InputError
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Proposal

_MOST_CUTS = 64


class Programme(Strategy):
    """Proposes, for one budget after the other, the new policy of least predicted loss within it.

    Budgets halve the gaps between those before them, from the least possible cost to that of trial 0, so that any
    number of trials is spread over the costs; where a problem has several costs, they are budgeted in turn. The
    problem's own budgets hold beside. Each policy is optimal, ties and illegal pairs included, among those not proposed
    before. Nothing is learned from trials.

    Raises:
        InputError: when the problem has no sensitivities.
    """

    name: str
    """Of the strategy, for messages and as the origin of its proposals."""

    def __init__(self, problem: Problem, *, seed: int, options: Any = None) -> None:
        super().__init__(problem, seed=seed, options=options)
        if problem.sensitivity is None:
            raise InputError(
                f"strategy '{self.name}' needs sensitivities and this problem has none; leave out --no-sensitivity, or "
                "give Problem.from_tables a sensitivity table"
            )
        self._legal = ~np.isnan(problem.costs[0].table)
        self._loss = np.where(self._legal, self.predicted_loss(), np.nan)
        self._ranges: list[tuple[float, float]] | None = None

    @abstractmethod
    def predicted_loss(self) -> NDArray[np.float64]:  # layers x options
        """What the programme minimises the sum of."""

    def propose(self, n: int) -> list[Proposal]:
        """The optimum within the next budget, else a policy near the last one that was found."""
        found = self._optimum(self._budgets(self.number))
        policy = self.fresh([found] if found is not None else [], self.rng(self.number))
        return [] if policy is None else [Proposal(policy, self.name)]

    def _optimum(self, budgets: list[Budget]) -> Policy | None:
        """The best policy within the budgets that is new: those before it are cut off one by one."""
        refused: list[Policy] = []
        while len(refused) < _MOST_CUTS:
            policy = least_loss(self.problem.space, self._loss, budgets, refused)
            if policy is None or policy not in self.seen:
                return policy
            refused.append(policy)
        return refused[-1]

    def _budgets(self, number: int) -> list[Budget]:
        """The problem's, and that of a trial on one of its costs."""
        costs = self.problem.costs
        which = (number - 1) % len(costs)
        low, high = self._reach()[which]
        limit = high - van_der_corput((number - 1) // len(costs) + 1) * (high - low)
        own = [(self.problem.cost(name).table, bound) for name, bound in self.problem.budgets.items()]
        return [*own, (costs[which].table, limit)]

    def _reach(self) -> list[tuple[float, float]]:
        """Of each cost, the least that is possible, and that of trial 0."""
        if self._ranges is None:
            first = self.highest_affordable()
            self._ranges = [(cost(self.problem.cheapest(cost.info.name)), cost(first)) for cost in self.problem.costs]
        return self._ranges
