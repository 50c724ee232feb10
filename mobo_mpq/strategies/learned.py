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

    Values halve the gaps between those before them, so that any number of trials is spread over the range. A policy may
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
    def limits(self) -> tuple[float, float]:
        """The range that is swept where the user gives none, the cheapest policies first."""

    @abstractmethod
    def between(self, first: float, last: float, share: float) -> float:
        """A value inside the range."""

    def propose(self, n: int) -> list[Proposal]:
        """The next value."""
        span, (lowest, highest) = self.options.span, self.limits()
        lowest = lowest if span.lowest is None else span.lowest
        highest = highest if span.highest is None else span.highest
        value = self.between(lowest, highest, van_der_corput(self.number))
        recipe = self.recipe(self.options)
        return [Proposal(None, self.name, learner=replace(recipe, options={**recipe.options, self.swept: value}))]


class BudgetSweep(Sweep):
    """From the cost of the highest bits down to that of the cheapest policy, as shares of the former."""

    swept = "budget"

    def limits(self) -> tuple[float, float]:
        """The cheapest policy's share, and all of it."""
        name = str(self.recipe(self.options).options.get("cost", ""))
        cost = self.problem.cost(name) if name else self.problem.costs[0]
        highest = cost(self.problem.space.highest())
        return cost(self.problem.cheapest(cost.info.name)) / highest, 1.0

    def between(self, first: float, last: float, share: float) -> float:
        """Evenly."""
        return last - share * (last - first)


class Ddq(BudgetSweep):
    """Zhang et al., "Differentiable Dynamic Quantization", ICML 2021, arXiv 2106.02295."""

    name = "ddq"


class Seam(BudgetSweep):
    """Tang et al., "SEAM: Searching Transferable Mixed-Precision Quantization Policy", ACM MM 2023, 2302.06845."""

    name = "seam"


class Bsq(Sweep):
    """Yang et al., "BSQ: Exploring Bit-Level Sparsity", ICLR 2021, arXiv 2102.10462."""

    name = "bsq"
    swept = "strength"

    def limits(self) -> tuple[float, float]:
        """From strengths under which nearly all bit planes stay to those under which nearly all vanish."""
        return 1e-3, 1.0

    def between(self, first: float, last: float, share: float) -> float:
        """Evenly in the logarithm."""
        value: float = first * (last / first) ** share
        return value
