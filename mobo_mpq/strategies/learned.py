"""Strategies whose policies are found by training: they choose what a learner aims at, trial after trial."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from mobo_mpq.engine.designs import van_der_corput
from mobo_mpq.errors import InputError
from mobo_mpq.options import parse_options
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.training.learning import check_learner, default_learner
from mobo_mpq.trial import Proposal, Recipe


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

    Values halve the gaps between those before them, so that any number of trials is spread over the range. Options that
    the method leaves open take turns. A policy may
    be found twice; it is then scored twice, with different seeds. Nothing is learned from trials.
    """

    name: ClassVar[str]
    """Of the learner and of the strategy."""

    swept: ClassVar[str]
    """The option that is swept."""

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
        check_learner(cls.recipe(options))
        return options

    @classmethod
    def recipe(cls, options: SweepOptions) -> Recipe:
        """The learner's, at the options given; what is swept is at its default."""
        default = default_learner(cls.name)
        epochs = default.epochs if options.span.epochs is None else options.span.epochs
        return replace(default, epochs=epochs, options={**default.options, **options.learner})

    @abstractmethod
    def turns(self) -> list[dict[str, float | str]]:
        """Options that take turns, each with a sweep of its own; those that the user gave stay."""

    @abstractmethod
    def limits(self, options: Mapping[str, float | str]) -> tuple[float, float]:
        """The range that is swept where the user gives none.

        Args:
            options: of the learner, for this turn.
        """

    @abstractmethod
    def between(self, lowest: float, highest: float, share: float) -> float:
        """A value inside the range."""

    def propose(self, n: int) -> list[Proposal]:
        """The next value."""
        turns, turn = self.turns(), self.number - 1  # number 0 is the highest bits
        recipe = self.recipe(self.options)
        options = {**recipe.options, **turns[turn % len(turns)], **self.options.learner}
        span, (lowest, highest) = self.options.span, self.limits(options)
        lowest = lowest if span.lowest is None else span.lowest
        highest = highest if span.highest is None else span.highest
        options[self.swept] = self.between(lowest, highest, van_der_corput(turn // len(turns) + 1))
        return [Proposal(None, self.name, learner=replace(recipe, options=options))]


class BudgetSweep(Sweep):
    """From the cost of the highest bits down to that of the cheapest policy; the problem's costs take turns."""

    swept = "budget"

    def turns(self) -> list[dict[str, float | str]]:
        """The costs."""
        return [{"cost": cost.info.name} for cost in self.problem.costs]

    def limits(self, options: Mapping[str, float | str]) -> tuple[float, float]:
        """The cheapest policy's share of the cost of the highest bits, and all of it."""
        cost = self.problem.cost(str(options["cost"]))
        highest = cost(self.problem.space.highest())
        return cost(self.problem.cheapest(cost.info.name)) / highest, 1.0

    def between(self, lowest: float, highest: float, share: float) -> float:
        """Evenly, from above."""
        return highest - share * (highest - lowest)


class Ddq(BudgetSweep):
    """Zhang et al., "Differentiable Dynamic Quantization", ICML 2021, arXiv 2106.02295."""

    name = "ddq"


class Seam(BudgetSweep):
    """Tang et al., "SEAM: Searching Transferable Mixed-Precision Quantization Policy", ACM MM 2023, 2302.06845."""

    name = "seam"


class Bsq(Sweep):
    """Yang et al., "BSQ: Exploring Bit-Level Sparsity", ICLR 2021, arXiv 2102.10462.

    The method leaves activations as they are: their widths take turns.
    """

    name = "bsq"
    swept = "strength"

    def turns(self) -> list[dict[str, float | str]]:
        """Widths of all activations, the highest first."""
        return [{"activation_bits": float(bits)} for bits in self.problem.space.activation_bits[::-1] if bits <= 8]

    def limits(self, options: Mapping[str, float | str]) -> tuple[float, float]:
        """From strengths under which bit planes begin to vanish to those under which hardly any stays."""
        return 0.01, 10.0

    def between(self, lowest: float, highest: float, share: float) -> float:
        """Evenly in the logarithm."""
        value: float = lowest * (highest / lowest) ** share
        return value
