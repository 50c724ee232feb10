"""Scrambled Sobol points, rounded to policies."""

from __future__ import annotations

import numpy as np
from torch.quasirandom import SobolEngine

from mobo_mpq.policy import Policy
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Proposal


class Sobol(Strategy):
    """A scrambled Sobol sequence (Sobol, 1967; Owen, 1998) over the levels of every variable.

    Point k depends on the seed and k alone; a point that was seen before, or breaks a budget, gives way to a new
    policy nearby.
    """

    def propose(self, n: int) -> list[Proposal]:
        """The next point of the sequence."""
        policy = self.fresh([self.point(self.number)], self.rng(self.number))
        return [] if policy is None else [Proposal(policy, "sobol")]

    def point(self, k: int) -> Policy:
        """Point ``k`` of the sequence, as the policy that it rounds to."""
        space = self.problem.space
        if not space.variables:
            return space.highest()
        engine = SobolEngine(len(space.variables), scramble=True, seed=self.derived_seed(0, "scramble"))
        u = engine.fast_forward(k).draw(1).double().numpy()  # 1 x d, in [0, 1)
        levels = np.minimum((u * space.sizes).astype(np.intp), space.sizes - 1)
        return space.to_policies(space.repair_all(levels))[0]
