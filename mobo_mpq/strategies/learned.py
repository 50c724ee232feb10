"""Strategies whose policies are found by training: they choose what a learner aims at, trial after trial."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.errors import InputError
from mobo_mpq.front import maximised
from mobo_mpq.objective import CostObjective, Measurement
from mobo_mpq.options import check_each, parse_options
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.budget_range import budget_range
from mobo_mpq.strategies.gaps import LINEAR, LOGARITHMIC, Line, Point, Promise, Scale
from mobo_mpq.training.learners.bsq import MOST_BITS
from mobo_mpq.training.learning import check_learner, default_learner
from mobo_mpq.trial import Proposal, Recipe, Trial

WEAKEST, STRONGEST = 0.01, 10.0
"""Strengths of BSQ under which bit planes begin to vanish, and under which hardly any stays."""


@dataclass(frozen=True)
class Range:
    """What a sweep spans.

    Attributes:
        lowest: of the option that is swept; the learner's own when absent.
        highest: likewise.
        epochs: that the learner trains; its default when absent.
    """

    lowest: float | None = None
    highest: float | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class SweepOptions:
    """A range, and the learner's own options."""

    span: Range = field(default_factory=Range)
    learner: Mapping[str, float | str] = field(default_factory=dict)


class Sweep(Strategy):
    """Runs one learner again and again, each time with another value of the option that trades quality against cost.

    Each trial goes halfway between two that were before, where the front would grow most if the quality were still that
    of the costlier one (:mod:`mobo_mpq.strategies.gaps`). A policy may be found twice; it is then scored twice, with
    different seeds.
    """

    name: ClassVar[str]
    """Of the learner and of the strategy."""

    swept: ClassVar[str]
    """The option that is swept."""

    scale: ClassVar[Scale]
    """On which values are halfway between others."""

    default_ends: ClassVar[tuple[float, float]]
    """Of the range, where the user gives none and the problem does not say more."""

    options_class = SweepOptions

    @classmethod
    def parse(cls, values: Mapping[str, float | str], owner: str) -> SweepOptions:
        """The range, and beside it whatever the learner takes; its checks run, too."""
        known = {one.name for one in fields(Range)}
        span = parse_options(Range, {key: value for key, value in values.items() if key in known}, owner)
        if cls.swept in values:
            raise InputError(
                f"option '{cls.swept}' of {owner} is swept over the trials; give its range by 'lowest' and 'highest'"
            )
        options = SweepOptions(span, {key: value for key, value in values.items() if key not in known})
        cls._check(options, owner)
        return options

    @classmethod
    def _check(cls, options: SweepOptions, owner: str) -> None:
        """What can be checked without a problem; the learner judges what the user gives, and both ends."""
        recipe, given = cls.recipe(options), {"lowest": options.span.lowest, "highest": options.span.highest}
        check_learner(recipe)
        legal = {end: (value is None or 0.0 < value < math.inf, "a number above 0") for end, value in given.items()}
        check_each(options.span, owner, legal)
        for end, value in given.items():
            if value is not None:
                try:
                    check_learner(replace(recipe, options={**recipe.options, cls.swept: value}))
                except InputError as error:
                    raise InputError(f"option '{end}' of {owner} is {value}: {error}") from None
        lowest, highest = cls.ends(options.span)
        if lowest > highest:
            absent = "".join(f", but '{end}' is its default: give both" for end in given if given[end] is None)
            raise InputError(
                f"options 'lowest' and 'highest' of {owner} are {lowest} and {highest}; expected the lower one "
                f"first{absent}"
            )

    @classmethod
    def recipe(cls, options: SweepOptions) -> Recipe:
        """The learner's, at the options given; what is swept is at its default."""
        default = default_learner(cls.name)
        epochs = default.epochs if options.span.epochs is None else options.span.epochs
        return replace(default, epochs=epochs, options={**default.options, **options.learner})

    @abstractmethod
    def lines(self) -> list[Line]:
        """What is swept: one range for each thing that goes with it."""

    def propose(self, n: int) -> list[Proposal]:
        """The middle of the gap that promises most."""
        problem, lines = self.problem, self.lines()
        gaps = [(line, *gap) for line in lines for gap in itertools.pairwise(self._points(line))]
        if gaps:
            promise = Promise(problem, maximised(problem.infos, self.complete))
            line, one, two = max(gaps, key=lambda gap: promise.of(*gap[1:], same=self.scale.same))
            value = self.scale.back((one.place + two.place) / 2)
        else:  # the user wants a single value
            line = lines[(self.number - 1) % len(lines)]
            value = line.start
        recipe, aim = self.recipe(self.options), {**line.fixed, self.swept: value}
        return [Proposal(None, self.name, learner=replace(recipe, options={**recipe.options, **aim}))]

    def _points(self, line: Line) -> list[Point]:
        """Values tried, and the ends; what runs, or failed, counts as if it lay evenly between others."""
        known = {
            self.scale.place(value): self._worth(policy, None)
            for value, policy in ((line.start, line.first), (line.end, line.last))
        }
        tried = set(known)
        for learner, trial in self._learners():
            if all(learner.options[name] == fixed for name, fixed in line.fixed.items()):
                tried.add(place := self.scale.place(float(learner.options[self.swept])))
                if trial is not None and trial.policy is not None and self.is_of_space(trial.policy):
                    known[place] = self._worth(trial.policy, trial)
        at, values = sorted(known), np.array([known[place] for place in sorted(known)])
        spread = [np.interp(sorted(tried), at, column) for column in values.T]
        points = [Point(place, found) for place, found in zip(sorted(tried), np.array(spread).T, strict=True)]
        return points if line.start <= line.end else points[::-1]

    def _learners(self) -> Iterator[tuple[Recipe, Trial | None]]:
        """Of all trials so far, and the trial where it has ended."""
        yield from ((trial.learner, trial) for trial in self.finished if trial.learner is not None)
        yield from ((learner, None) for learner in self.learning.values())

    def _worth(self, policy: Policy, trial: Trial | None) -> NDArray[np.float64]:  # m
        """Of a policy; where its quality was not measured, that of the float network, or the best so far."""
        problem = self.problem
        if trial is not None and trial.values:
            return problem.maximised(trial.values)
        best = [one.values[problem.quality.name].value * problem.quality.sign for one in self.complete]
        ideal = problem.float_quality
        top = max(best, default=problem.quality.sign * problem.quality.reference)
        quality = top * problem.quality.sign if ideal is None else ideal
        measured = {info.name: Measurement(info.reference) for info in problem.measured}
        measured[problem.quality.name] = Measurement(quality)
        return problem.maximised({**measured, **problem.cost_values(policy)})

    @classmethod
    def ends(cls, span: Range) -> tuple[float, float]:
        """What the user gave, over the defaults."""
        lowest, highest = cls.default_ends
        return lowest if span.lowest is None else span.lowest, highest if span.highest is None else span.highest


class BudgetSweep(Sweep):
    """From the cost of the highest bits, or the study's own budget, down to the cheapest policy, of each cost.

    Raises:
        InputError: when the problem has no cost of the name in the options, or the range is beyond what policies cost
            and the study allows.
    """

    swept = "budget"
    scale = LINEAR
    default_ends = (0.0, 1.0)

    def __init__(self, problem: Problem, *, seed: int, options: SweepOptions | None = None) -> None:
        super().__init__(problem, seed=seed, options=options)
        given = str(self.options.learner.get("cost", ""))
        self._lines = [self._line(cost) for cost in ([problem.cost(given)] if given else problem.costs)]

    def lines(self) -> list[Line]:
        """One for each cost: budgets are shares of what the highest bits cost."""
        return self._lines

    def _line(self, cost: CostObjective) -> Line:
        span, name, whole = self.options.span, cost.info.name, cost(self.problem.space.highest())
        low, high = budget_range(self.problem, cost, (span.lowest, span.highest), whole, f"strategy '{self.name}'")
        first, last = self.highest_affordable(), self.problem.cheapest(name)
        return Line({"cost": name}, high / whole, first, low / whole, last)


class Ddq(BudgetSweep):
    """Zhang et al., "Differentiable Dynamic Quantization", ICML 2021, arXiv 2106.02295."""

    name = "ddq"


class Seam(BudgetSweep):
    """Tang et al., "SEAM: Searching Transferable Mixed-Precision Quantization Policy", ACM MM 2023, 2302.06845."""

    name = "seam"


class Bsq(Sweep):
    """Yang et al., "BSQ: Exploring Bit-Level Sparsity", ICLR 2021, arXiv 2102.10462.

    What a strength saves is not known before, and differs between networks. The method leaves activations as they are:
    every width of theirs has strengths of its own.

    Raises:
        InputError: when planes are weighed by a cost that the problem does not have.
    """

    name = "bsq"
    swept = "strength"
    scale = LOGARITHMIC
    default_ends = (WEAKEST, STRONGEST)

    def __init__(self, problem: Problem, *, seed: int, options: SweepOptions | None = None) -> None:
        super().__init__(problem, seed=seed, options=options)
        by = str(self.options.learner.get("weights_by", ""))
        if by not in ("", "size", "cost"):
            problem.cost(by)

    def lines(self) -> list[Line]:
        """One for each width of the activations."""
        space, (weakest, strongest) = self.problem.space, self.ends(self.options.span)
        most = max((bits for bits in space.weight_bits if bits <= MOST_BITS), default=space.weight_bits[-1])
        found = []
        for width in self._widths():
            activation = int(width) or space.activation_bits[-1]
            first, last = (space.uniform(bits, activation) for bits in (most, space.weight_bits[0]))
            found.append(Line({"activation_bits": width}, weakest, first, strongest, last))
        return found

    def _widths(self) -> list[float]:
        if (given := float(self.options.learner.get("activation_bits", 0.0))) > 0:
            return [given]
        quantized = [float(bits) for bits in self.problem.space.activation_bits[::-1] if bits <= MOST_BITS]
        return quantized or [0.0]  # which leaves activations as they are
