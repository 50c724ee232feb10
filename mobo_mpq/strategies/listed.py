"""Policies that were found elsewhere, such as on a proxy, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Proposal


class Listed(Strategy):
    """Proposes what it is given, behind the highest bits; what breaks a budget of this problem is left out.

    Args:
        problem: what the policies are tried on.
        seed: of the trials.
        policies: of its space, in any number.
    """

    def __init__(self, problem: Problem, *, seed: int, policies: Sequence[Policy]) -> None:
        super().__init__(problem, seed=seed)
        self.policies = tuple(policies)

    def propose(self, n: int) -> list[Proposal]:
        """The next ones that are new."""
        return [Proposal(policy, "proxy") for policy in self.left()[:n]]

    def left(self) -> list[Policy]:
        """What has not been proposed yet, each policy once."""
        begin = [] if self.number else [self.highest_affordable()]
        new = [policy for policy in dict.fromkeys([*begin, *self.policies]) if policy not in self.seen]
        return [policy for policy in new if self.problem.broken_budget(policy) is None]
