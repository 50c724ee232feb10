"""The contract of a search strategy, and the book-keeping that all of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Levels
from mobo_mpq.errors import InputError, PolicyError
from mobo_mpq.front import complete
from mobo_mpq.objective import Measurement
from mobo_mpq.options import parse_options
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import derive, rng
from mobo_mpq.trial import Proposal, Recipe, Trial, TrialState


@dataclass(frozen=True)
class NoOptions:
    """Of strategies that take no options."""


class Strategy(ABC):
    """Proposes policies and learns from trials. Never trains, never touches disk or network.

    Proposal number k depends on the problem, the seed, k, the trials told so far in their order, and the policies still
    running; never on the history of a generator. So telling the finished trials again rebuilds the strategy.

    Subclasses write :meth:`propose`; this class numbers proposals, makes number 0 the highest bits everywhere, and
    remembers what runs, what has finished and what must not be proposed again.

    Args:
        problem: what is searched.
        seed: of the proposals' random numbers.
        options: of :attr:`options_class`; all at their defaults when absent.
    """

    options_class: ClassVar[type[Any]] = NoOptions
    """A frozen dataclass of numbers and words, checked when it is made: what users write into a study file."""

    @classmethod
    def parse(cls, values: Mapping[str, float | str], owner: str) -> Any:
        """Options as users write them, checked.

        Raises:
            UnknownName: for an option that the strategy does not take.
            InputError: for an option of a wrong value.
        """
        return parse_options(cls.options_class, values, owner)

    def __init__(self, problem: Problem, *, seed: int, options: Any = None) -> None:
        self.problem, self.seed = problem, seed
        self.options = self.options_class() if options is None else options
        self.running: dict[int, Policy | None] = {}
        self.learning: dict[int, Recipe] = {}
        self.finished: list[Trial] = []
        self._told: set[int] = set()
        self._seen: set[Policy] = set()
        self._observed: list[tuple[Policy, Mapping[str, Measurement]]] = []
        self._looked_at = 0
        self._levels_of_policy: dict[Policy, NDArray[np.intp] | None] = {}
        self._next = 0

    # --- what the study calls ---------------------------------------------------------------------------------------

    def ask(self, n: int = 1) -> list[Proposal]:
        """Up to ``n`` proposals; fewer, or none, once the strategy is exhausted."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            fresh = [self._first()] if self._next == 0 else self.propose(n - len(proposals))
            if not fresh:
                break
            for proposal in fresh:
                self._register(self._next, proposal)
                proposals.append(proposal)
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn from finished trials, whatever their state.

        Raises:
            InputError: a trial that still runs, or a number that was told before.
        """
        for trial in trials:
            if not trial.is_final:
                raise InputError(f"trial {trial.number} still runs; tell a strategy of finished trials only")
            if trial.number in self._told:
                raise InputError(f"trial {trial.number} was told before; tell each number once")
            self._told.add(trial.number)
            self.running.pop(trial.number, None)
            self.learning.pop(trial.number, None)
            if trial.policy is not None:
                self._seen.add(trial.policy)
            self._next = max(self._next, trial.number + 1)
            self.finished.append(trial)

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take up a study where it was left: every trial was proposed, and the finished ones are told in order.

        Args:
            trials: finished ones in the order in which they finished, running ones anywhere.
        """
        trials = list(trials)
        for trial in sorted(trials, key=lambda one: one.number):
            self._register(trial.number, trial.proposal)
        self.tell([trial for trial in trials if trial.is_final])

    # --- what a strategy writes -------------------------------------------------------------------------------------

    @abstractmethod
    def propose(self, n: int) -> list[Proposal]:
        """At least one and up to ``n`` proposals, numbered from :attr:`number`; none when the space is exhausted.

        Not called for number 0. Proposals of one call must differ from one another and from :attr:`seen`, unless their
        origin is ``replicate``, and must keep the budgets.
        """

    def diagnosis(self) -> dict[str, Any]:
        """What the strategy has learned, and how well it predicts: JSON-able, with finite numbers.

        Asked for when trials end, and kept with the study. It depends on the finished trials alone, and asking changes
        nothing about the proposals. Empty where there is no model, or not enough to make one.
        """
        return {}

    def estimates(self) -> dict[int, Measurement]:
        """Denoised values of the first measured objective: what the strategy expects of the trials that it has seen.

        As :meth:`diagnosis`, it depends on the finished trials alone, and asking changes nothing.

        Returns:
            Number of a complete trial -> mean and, as its standard error, standard deviation.
        """
        return {}

    # --- what a strategy uses ---------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Number of the next proposal."""
        return self._next

    @property
    def seen(self) -> frozenset[Policy]:
        """Policies that were proposed or told, in whatever state."""
        return frozenset(self._seen)

    @property
    def complete(self) -> list[Trial]:
        """Finished trials that have values, in the order in which they finished."""
        return complete(self.finished)

    @property
    def observed(self) -> list[tuple[Policy, Mapping[str, Measurement]]]:
        """Policies of the space with their values, in the order in which their trials finished."""
        while self._looked_at < len(self.finished):
            trial = self.finished[self._looked_at]
            self._looked_at += 1
            if trial.state is TrialState.COMPLETE and self.is_of_space(trial.policy):
                self._observed.append((trial.policy, trial.values))
        return self._observed

    @property
    def pending(self) -> list[Policy]:
        """Policies of the space whose trials still run, in the order of proposal."""
        return [policy for policy in self.running.values() if policy is not None and self.is_of_space(policy)]

    def is_of_space(self, policy: Policy | None) -> TypeGuard[Policy]:
        """Whether a policy is one of the space: asked of all trials again and again, so the answers are kept."""
        if policy is not None and policy not in self._levels_of_policy:
            try:
                self._levels_of_policy[policy] = self.problem.space.to_levels([policy])[0]
            except PolicyError:
                self._levels_of_policy[policy] = None
        return policy is not None and self._levels_of_policy[policy] is not None

    def levels_of(self, policies: Iterable[Policy]) -> NDArray[np.intp]:  # n -> n x d
        """Levels of policies of the space."""
        rows = [self._levels_of_policy[policy] for policy in policies if self.is_of_space(policy)]
        return np.array(rows, dtype=np.intp).reshape(len(rows), len(self.problem.space.sizes))

    def highest_affordable(self) -> Policy:
        """The highest bits everywhere, or what is left of them within the budgets: trial 0."""
        highest = self.problem.space.highest()
        return highest if self.problem.broken_budget(highest) is None else self._descent(highest)

    def rng(self, number: int, *labels: str | int) -> np.random.Generator:
        """A NumPy stream for one proposal."""
        return rng(self.seed, type(self).__name__, number, *labels)

    def derived_seed(self, number: int, *labels: str | int) -> int:
        """A 31-bit seed for one proposal, for libraries that take one."""
        return derive(self.seed, type(self).__name__, number, *labels) % 2**31

    def fresh(
        self,
        candidates: Iterable[Policy],
        rng: np.random.Generator,
        taken: Iterable[Policy] = (),
        within: Callable[[Levels], NDArray[np.bool_]] | None = None,
    ) -> Policy | None:
        """The first candidate that is new and keeps the budgets, else a new policy near the first, else any new one.

        Returns None when the search below finds none, which for a space that is not used up is very unlikely: it walks
        from the candidate, towards the budgets where it breaks them, and enumerates what is small.

        Args:
            candidates: the best first.
            rng: of the search.
            taken: policies that are not new, beside those seen.
            within: levels, n x d -> which of them the search may find; they keep the budgets. Where it finds none, all
                that keep the budgets are searched.
        """
        seen = self._seen | set(taken)
        start: Policy | None = None
        for candidate in candidates:
            if candidate not in seen and self.problem.broken_budget(candidate) is None:
                return candidate
            start = start or candidate
        if len(seen) >= self.problem.space.cardinality:
            return None
        start = start or self.problem.space.sample(1, rng)[0]
        allowed = [self.problem.affordable] if within is None else [within, self.problem.affordable]
        found = (self._nearby(start, seen, rng, keeps) for keeps in allowed)
        return next((policy for policy in found if policy is not None), None)

    def _nearby(
        self,
        start: Policy,
        seen: Set[Policy],
        rng: np.random.Generator,
        keeps: Callable[[Levels], NDArray[np.bool_]],
    ) -> Policy | None:
        problem, space = self.problem, self.problem.space
        at = space.to_levels([start])[0]
        for _ in range(2 * int(space.sizes.sum()) + 16):
            around = rng.permutation(space.neighbour_levels(at))
            kept = around[keeps(around)]
            if (new := self._first_new(kept, seen)) is not None:
                return new
            cheaper = around[problem.excess(around) < problem.excess(at)]
            step = next((some[0] for some in (kept, cheaper, around) if len(some)), None)
            if step is None:
                break
            at = step
        if math.prod(space.sizes.tolist()) <= 65_536:
            every = space.grid()
            return self._first_new(rng.permutation(every[keeps(every)]), seen)
        return None

    def _first_new(self, levels: NDArray[np.intp], seen: Set[Policy]) -> Policy | None:
        policies = (self.problem.space.to_policies(row)[0] for row in levels)
        return next((policy for policy in policies if policy not in seen), None)

    # --- book-keeping -----------------------------------------------------------------------------------------------

    def _first(self) -> Proposal:
        """What every user compares with."""
        policy = self.highest_affordable()
        return Proposal(policy, "highest" if policy == self.problem.space.highest() else "highest-affordable")

    def _descent(self, policy: Policy) -> Policy:
        """From the highest bits, always to the cheapest neighbour, until the budgets hold."""
        space, problem = self.problem.space, self.problem
        at = space.to_levels([policy])[0]
        while not problem.affordable(at):
            around = space.neighbour_levels(at)
            excess = problem.excess(around)
            if excess.min(initial=np.inf) >= problem.excess(at):
                return problem.cheapest(next(iter(problem.budgets)))
            at = around[int(np.argmin(excess))]
        return space.to_policies(at)[0]

    def _register(self, number: int, proposal: Proposal) -> None:
        self.running[number] = proposal.policy
        self._next = max(self._next, number + 1)
        if proposal.policy is not None:
            self._seen.add(proposal.policy)
        if proposal.learner is not None:
            self.learning[number] = proposal.learner
