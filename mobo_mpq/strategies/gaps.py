"""Where along a line of trials the next one promises most: between neighbours, by what the front would grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.objective import CostObjective
from mobo_mpq.pareto import hypervolume
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem

NARROW = 1e-3
"""Weight of gaps between values that hardly differ: they come last."""


class Scale(NamedTuple):
    """Where values lie.

    Attributes:
        place: of a value.
        back: the value at a place.
        same: distance below which values hardly differ.
    """

    place: Callable[[float], float]
    back: Callable[[float], float]
    same: float


LINEAR = Scale(float, float, 0.01)
LOGARITHMIC = Scale(math.log, math.exp, math.log(1.25))


class Line(NamedTuple):
    """A range of one option, from where policies cost most to where they cost least.

    Attributes:
        fixed: other options, which tell the line from others.
        start: the option's value at the costly end.
        first: the policy to be expected there.
        end: the value at the cheap end.
        last: the policy to be expected there.
    """

    fixed: Mapping[str, float | str]
    start: float
    first: Policy
    end: float
    last: Policy


class Point(NamedTuple):
    """A value on a line, and what is known of the network that it gives.

    Attributes:
        place: on the line's scale.
        values: ``m``, of the objectives, all maximised.
    """

    place: float
    values: NDArray[np.float64]


class Promise:
    """What a trial between two others may add.

    Args:
        problem: its objectives.
        front: ``n x m``, those of the complete trials, all maximised.
    """

    def __init__(self, problem: Problem, front: NDArray[np.float64]) -> None:
        self.reference, self.front = problem.reference, front
        self.exact = np.array([isinstance(one, CostObjective) for one in problem.objectives])
        self.volume = hypervolume(front, self.reference)

    def of(self, costlier: Point, cheaper: Point, *, same: float) -> tuple[float, float]:
        """Hypervolume that a network between two would add: costs between theirs, the quality of the costlier.

        Times the width of the gap: between neighbours that differ in one large layer there is nothing to be found.

        Returns:
            To be compared: the promise, and the width of the gap, for where nothing promises anything.
        """
        halfway = (costlier.values + cheaper.values) / 2
        point = np.where(self.exact, halfway, costlier.values)
        growth = hypervolume(np.vstack([self.front, point]), self.reference) - self.volume
        width = abs(cheaper.place - costlier.place)
        return growth * width * (1.0 if width > same else NARROW), width
