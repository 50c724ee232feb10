"""AMP: from the highest bits down a list of quantizer groups, those first that hurt least.

Pandey, Nagel, van Baalen, Huang, Patel and Blankevoort, "A Practical Mixed Precision Algorithm for Post-Training
Quantization", arXiv 2302.05397. ``docs/methods/amp.md`` says what is done differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mobo_mpq.engine.designs import van_der_corput
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.amp_curve import phase_1, phase_2
from mobo_mpq.strategies.amp_search import SEARCHES, follow, phase_2_search
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Proposal, TrialState

CURVE = "curve"


@dataclass(frozen=True, slots=True)
class AmpOptions:
    """How phase 2 walks along its list.

    Attributes:
        search: ``curve``: all of it, evenly; ``binary``, ``interpolation`` or ``brute``: for the last point whose
            quality is within ``drop``.
        drop: of the quality below the float model's, in the metric's own unit; searches alone take it, and need it.
    """

    search: str = CURVE
    drop: float | None = None

    def __post_init__(self) -> None:
        if self.search not in (CURVE, *SEARCHES):
            raise UnknownName("value of option 'search' of strategy 'amp'", self.search, (CURVE, *SEARCHES))
        if self.search == CURVE and self.drop is not None:
            raise InputError(
                f"option 'drop' of strategy 'amp' is {self.drop}, but search '{CURVE}' evaluates the whole curve and "
                f"needs none; give a search for it, such as 'binary', or leave it out"
            )
        if self.search != CURVE and (self.drop is None or not 0.0 <= self.drop < math.inf):
            raise InputError(
                f"option 'drop' of strategy 'amp' is {self.drop}, and search '{self.search}' needs a number of at "
                f"least 0: how far the quality may fall below the float model's"
            )


class Amp(Strategy):
    """Evaluates points of the list of phase 2.

    Raises:
        InputError: when the problem has no sensitivities.
    """

    options_class = AmpOptions
    options: AmpOptions

    def __init__(self, problem: Problem, *, seed: int, options: AmpOptions | None = None) -> None:
        super().__init__(problem, seed=seed, options=options)
        self.points = phase_2(problem, phase_1(problem))

    def propose(self, n: int) -> list[Proposal]:
        """What the search wants to know next; where it waits for a trial, or has ended, the next point of the curve."""
        wanted, low, high = self._search()
        members = (self.problem.space.to_policies(self.points[index])[0] for index in self._order(wanted, low, high))
        policy = self.fresh(members, self.rng(self.number))
        return [] if policy is None else [Proposal(policy, "amp")]

    def diagnosis(self) -> dict[str, Any]:
        """What the search has found so far; empty for the whole curve."""
        target = self._target()
        if self.options.search == CURVE or target is None or not len(self.points):
            return {}
        known = self._known()
        _, found = follow(phase_2_search(self.options.search, len(self.points), target), known)
        return {
            "search": self.options.search,
            "points": len(self.points),
            "points_evaluated": len(known),
            "target": self.problem.quality.sign * target,
            "point_found": found,
            "policy_found": None if found is None else self._policies[found].to_dict(),
        }

    # --- phase 2 ----------------------------------------------------------------------------------------------------

    def _search(self) -> tuple[int | None, int, int]:
        """The point that the search wants, if any, and the open interval of points that matter to it."""
        everything = (None, -1, len(self.points))
        target = self._target()
        if self.options.search == CURVE or target is None or not len(self.points):
            return everything
        known = self._known()
        wanted, found = follow(phase_2_search(self.options.search, len(self.points), target), known)
        if found is not None:
            return everything
        low = max((index for index, score in known.items() if score >= target), default=-1)
        high = min(
            (index for index, score in known.items() if score < target and index > low), default=len(self.points)
        )
        return wanted, low, high

    def _order(self, wanted: int | None, low: int, high: int) -> Iterator[int]:
        """Points, the most useful first: the one wanted, those between two bounds, all others.

        Trial 0 was the highest bits, trial 1 takes the other end, then each takes the point nearest to the next place
        of a sequence that halves the gaps.
        """
        if wanted is not None:
            yield wanted
        place = 1.0 if self.number == 1 else van_der_corput(self.number - 1)
        index = np.arange(len(self.points))
        outside = (index <= low) | (index >= high)
        near = np.abs(index - (place * (len(index) - 1) if low < 0 else low + place * (high - low)))
        yield from np.lexsort((near, outside)).tolist()

    def _target(self) -> float | None:
        """The least score allowed, more being better; ``None`` before it is known."""
        if self.options.drop is None:
            return None
        quality, base = self.problem.quality, self.problem.float_quality
        if base is None:  # the highest bits stand in for the float model
            first = (trial.values for trial in self.complete if trial.number == 0)
            base = next((values[quality.name].value for values in first), None)
        return None if base is None else quality.sign * base - self.options.drop

    def _known(self) -> dict[int, float]:
        """Scores of the points that have been evaluated; one without a value counts as the worst."""
        quality, known = self.problem.quality, {}
        for trial in self.finished:
            index = None if trial.policy is None else self._index.get(trial.policy)
            if index is not None:
                done = trial.state is TrialState.COMPLETE
                known[index] = quality.sign * trial.values[quality.name].value if done else -math.inf
        return known

    @cached_property
    def _policies(self) -> list[Policy]:
        return self.problem.space.to_policies(self.points)

    @cached_property
    def _index(self) -> dict[Policy, int]:
        return {policy: index for index, policy in enumerate(self._policies)}
