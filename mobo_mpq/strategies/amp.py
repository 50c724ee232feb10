"""AMP: from the highest bits down a list of quantizer groups, those first that hurt least.

Pandey, Nagel, van Baalen, Huang, Patel and Blankevoort, "A Practical Mixed Precision Algorithm for Post-Training
Quantization", arXiv 2302.05397. ``docs/methods/amp.md`` says what is done differently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mobo_mpq.engine.designs import van_der_corput
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.amp_conversions import PRICES, SHARES, Phase3
from mobo_mpq.strategies.amp_curve import phase_1, phase_2
from mobo_mpq.strategies.amp_search import SEARCHES, follow, phase_2_search
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Proposal, TrialState

CURVE = "curve"
OFF = "off"
_NEAREST = 16
"""Points of the curve that phase 3 tries in one proposal: every programme takes some milliseconds."""


@dataclass(frozen=True, slots=True)
class AmpOptions:
    """How phase 2 walks along its list, and whether phase 3 follows.

    Attributes:
        search: ``curve``: all of it, evenly; ``binary``, ``interpolation`` or ``brute``: for the last point whose
            quality is within ``drop``.
        drop: of the quality below the float model's, in the metric's own unit; searches alone take it, and need it.
        conversions: what phase 3 takes a conversion between activations of different widths to cost: ``count`` or
            ``elements``; ``off`` leaves phase 3 out.
    """

    search: str = CURVE
    drop: float | None = None
    conversions: str = OFF

    def __post_init__(self) -> None:
        if self.conversions not in (OFF, *PRICES):
            raise UnknownName("value of option 'conversions' of strategy 'amp'", self.conversions, (OFF, *PRICES))
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


class _Progress(NamedTuple):
    """Of a search: the point that it wants to know, the one that it found, and the open interval that it looks at."""

    wanted: int | None
    found: int | None
    low: int
    high: int


class Amp(Strategy):
    """Evaluates points of the list of phase 2, and what phase 3 makes of them.

    Raises:
        InputError: when the problem has no sensitivities.
    """

    options_class = AmpOptions
    options: AmpOptions

    def __init__(self, problem: Problem, *, seed: int, options: AmpOptions | None = None) -> None:
        super().__init__(problem, seed=seed, options=options)
        self.points = phase_2(problem, phase_1(problem))
        self._programmes: dict[int, Phase3] = {}
        self._converted: dict[tuple[int, float], Policy] = {}

    def propose(self, n: int) -> list[Proposal]:
        """What the search wants to know next; where it waits for a trial, or has ended, the next point of the curve.

        With phase 3, a search is followed by what that makes of the point found; of the whole curve, every other trial
        is made of the nearest point.
        """
        origins: dict[Policy, str] = {}

        def candidates() -> Iterator[Policy]:
            for policy, origin in self._candidates():
                origins.setdefault(policy, origin)
                yield policy

        policy = self.fresh(candidates(), self.rng(self.number))
        return [] if policy is None else [Proposal(policy, origins.get(policy, "amp"))]

    def _candidates(self) -> Iterator[tuple[Policy, str]]:
        """Policies and their origins, the most useful first."""
        progress, number = self._search(), self.number
        if self.options.conversions != OFF and progress.found is not None:
            yield from self._with_fewer_conversions([progress.found], 0)
        elif self.options.conversions != OFF and self.options.search == CURVE:
            number, second = (self.number + 1) // 2, self.number % 2 == 0
            if second:
                yield from self._with_fewer_conversions(self._order(progress, number), number)
        for index in self._order(progress, number):
            yield self._policies[index], "amp"

    def _with_fewer_conversions(self, points: Iterable[int], first: int) -> Iterator[tuple[Policy, str]]:
        """What phase 3 makes of the nearest points, with every share of their conversions, from one of them on."""
        shares = [SHARES[(first + i) % len(SHARES)] for i in range(len(SHARES))]
        for index, share in itertools.product(itertools.islice(points, _NEAREST), shares):
            if (index, share) not in self._converted:
                self._programmes.setdefault(index, Phase3(self.problem, self.points[index], self.options.conversions))
                levels = self._programmes[index].solve(share)
                self._converted[index, share] = self.problem.space.to_policies(levels)[0]
            if self._converted[index, share] not in self._index:
                yield self._converted[index, share], "amp-conversions"

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

    def _search(self) -> _Progress:
        everything = _Progress(None, None, -1, len(self.points))
        target = self._target()
        if self.options.search == CURVE or target is None or not len(self.points):
            return everything
        known = self._known()
        wanted, found = follow(phase_2_search(self.options.search, len(self.points), target), known)
        if found is not None:
            return everything._replace(found=found)
        low = max((index for index, score in known.items() if score >= target), default=-1)
        high = min(
            (index for index, score in known.items() if score < target and index > low), default=len(self.points)
        )
        return _Progress(wanted, None, low, high)

    def _order(self, progress: _Progress, number: int) -> Iterator[int]:
        """Points, the most useful first: the one wanted, those between two bounds, all others.

        Trial 0 was the highest bits, number 1 takes the other end, then each takes the point nearest to the next place
        of a sequence that halves the gaps.
        """
        wanted, _, low, high = progress
        if wanted is not None:
            yield wanted
        place = 1.0 if number == 1 else van_der_corput(number - 1)
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
