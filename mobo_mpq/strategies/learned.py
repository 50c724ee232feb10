"""Strategies whose policies are found by training: they choose what a learner aims at, trial after trial."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.engine.designs import van_der_corput
from mobo_mpq.errors import InputError
from mobo_mpq.front import maximised
from mobo_mpq.objective import CostObjective, Measurement
from mobo_mpq.options import check_each, parse_options
from mobo_mpq.pareto import hypervolume
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.budget_range import budget_range
from mobo_mpq.training.learners.bsq import MOST_BITS
from mobo_mpq.training.learning import check_learner, default_learner
from mobo_mpq.trial import Proposal, Recipe, Trial

WEAKEST, STRONGEST = 0.01, 10.0
"""Strengths of BSQ under which bit planes begin to vanish, and under which hardly any stays."""
SAME = 1.25
"""Ratio of strengths below which there is hardly a difference: those come last."""


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

    A policy may be found twice; it is then scored twice, with different seeds.
    """

    name: ClassVar[str]
    """Of the learner and of the strategy."""

    swept: ClassVar[str]
    """The option that is swept."""

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
    def aim(self) -> dict[str, float | str]:
        """What the next trial aims at: the option that is swept, and others that go with it."""

    def propose(self, n: int) -> list[Proposal]:
        """The next aim."""
        recipe = self.recipe(self.options)
        return [Proposal(None, self.name, learner=replace(recipe, options={**recipe.options, **self.aim()}))]

    @classmethod
    def ends(cls, span: Range) -> tuple[float, float]:
        """What the user gave, over the defaults."""
        lowest, highest = cls.default_ends
        return lowest if span.lowest is None else span.lowest, highest if span.highest is None else span.highest


class BudgetSweep(Sweep):
    """From the cost of the highest bits, or the study's own budget, down to the cheapest policy; costs take turns.

    Budgets halve the gaps between those before them, so that any number of trials is spread over the range.

    Raises:
        InputError: when the problem has no cost of the name in the options, or the range is beyond what policies cost
            and the study allows.
    """

    swept = "budget"
    default_ends = (0.0, 1.0)

    def __init__(self, problem: Problem, *, seed: int, options: SweepOptions | None = None) -> None:
        super().__init__(problem, seed=seed, options=options)
        given = str(self.options.learner.get("cost", ""))
        self.costs = [problem.cost(given)] if given else list(problem.costs)
        self._ranges = [self._range(cost) for cost in self.costs]

    def aim(self) -> dict[str, float | str]:
        """A cost and a budget on it, as a share of what the highest bits cost."""
        round_, which = divmod(self.number - 1, len(self.costs))  # number 0 is the highest bits
        lowest, highest = self._ranges[which]
        share = van_der_corput(round_ + 1)
        return {"cost": self.costs[which].info.name, self.swept: highest - share * (highest - lowest)}

    def _range(self, cost: CostObjective) -> tuple[float, float]:
        """Least and greatest budget, as shares of what the highest bits cost."""
        span, whole = self.options.span, cost(self.problem.space.highest())
        ends = span.lowest, span.highest
        low, high = budget_range(self.problem, cost, ends, self.default_ends[1] * whole, f"strategy '{self.name}'")
        return low / whole, high / whole


class Ddq(BudgetSweep):
    """Zhang et al., "Differentiable Dynamic Quantization", ICML 2021, arXiv 2106.02295."""

    name = "ddq"


class Seam(BudgetSweep):
    """Tang et al., "SEAM: Searching Transferable Mixed-Precision Quantization Policy", ACM MM 2023, 2302.06845."""

    name = "seam"


class _Point(NamedTuple):
    """A strength at one width of the activations, and what is known of the network that it finds.

    Attributes:
        strength: of the lasso.
        values: ``m``, of the objectives, all maximised.
    """

    strength: float
    values: NDArray[np.float64]


class Bsq(Sweep):
    """Yang et al., "BSQ: Exploring Bit-Level Sparsity", ICLR 2021, arXiv 2102.10462.

    What a strength saves is not known before, and differs between networks: each trial goes between two strengths,
    where the front would grow most if the quality were still that of the weaker one. The method leaves activations as
    they are: every width of theirs has strengths of its own.
    """

    name = "bsq"
    swept = "strength"
    default_ends = (WEAKEST, STRONGEST)

    def aim(self) -> dict[str, float | str]:
        """The middle of the most promising gap, in the logarithm of the strength."""
        gaps = [(width, *gap) for width in self._widths() for gap in itertools.pairwise(self._points(width))]
        if not gaps:  # the user wants a single strength
            return {"activation_bits": self._widths()[0], self.swept: self.ends(self.options.span)[0]}
        front = maximised(self.problem.infos, self.complete)
        volume = hypervolume(front, self.problem.reference)
        width, one, two = max(gaps, key=lambda gap: self._promise(gap[1], gap[2], front, volume))
        return {"activation_bits": width, self.swept: math.sqrt(one.strength * two.strength)}

    def _widths(self) -> list[float]:
        if (given := float(self.options.learner.get("activation_bits", 0.0))) > 0:
            return [given]
        quantized = [float(bits) for bits in self.problem.space.activation_bits[::-1] if bits <= MOST_BITS]
        return quantized or [0.0]  # which leaves activations as they are

    def _points(self, width: float) -> list[_Point]:
        """Strengths tried at a width, and the ends; what runs, or failed, counts as if it lay evenly between others."""
        space, (lowest, highest) = self.problem.space, self.ends(self.options.span)
        activation = int(width) or space.activation_bits[-1]
        most = max((bits for bits in space.weight_bits if bits <= MOST_BITS), default=space.weight_bits[-1])
        ends = [space.uniform(bits, activation) for bits in (most, space.weight_bits[0])]
        known = {end: self._values(policy, None) for end, policy in zip((lowest, highest), ends, strict=True)}
        tried = {lowest, highest}
        for learner, trial in self._learners():
            if learner.options["activation_bits"] == width:
                tried.add(strength := float(learner.options[self.swept]))
                if trial is not None and trial.policy is not None and self.is_of_space(trial.policy):
                    known[strength] = self._values(trial.policy, trial)
        at, values = sorted(known), np.array([known[strength] for strength in sorted(known)])
        spread = [np.interp(np.log(sorted(tried)), np.log(at), column) for column in values.T]
        return [_Point(one, found) for one, found in zip(sorted(tried), np.array(spread).T, strict=True)]

    def _learners(self) -> Iterator[tuple[Recipe, Trial | None]]:
        """Of all trials so far, and the trial where it has ended."""
        yield from ((trial.learner, trial) for trial in self.finished if trial.learner is not None)
        yield from ((learner, None) for learner in self.learning.values())

    def _values(self, policy: Policy, trial: Trial | None) -> NDArray[np.float64]:  # m
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

    def _promise(self, weaker: _Point, stronger: _Point, front: NDArray[np.float64], volume: float) -> float:
        """Hypervolume that a network between two would add: costs between theirs, the quality of the weaker.

        Times the width of the gap: between neighbours that differ in one large layer there is nothing to be found.

        Args:
            weaker: strength, and what is known of it.
            stronger: its neighbour.
            front: ``n x m``, objectives of the complete trials, all maximised.
            volume: that they dominate.
        """
        halfway = (weaker.values + stronger.values) / 2
        exact = np.array([isinstance(one, CostObjective) for one in self.problem.objectives])
        point = np.where(exact, halfway, weaker.values)
        growth = hypervolume(np.vstack([front, point]), self.problem.reference) - volume
        width = math.log(stronger.strength / weaker.strength)
        return growth * width * (1.0 if width > math.log(SAME) else 1e-3)
