"""The owner of the trials: numbers them, checks them, writes them down, replays them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

from mobo_mpq.errors import PolicyError
from mobo_mpq.front import pareto_trials, trials_hypervolume
from mobo_mpq.journal import Journal, read_trials
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import derive
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import REPLICATE, Proposal, Trial, TrialState

PATIENCE = 100
"""Over-budget proposals in a row after which a strategy counts as exhausted."""


class Study:
    """The trials of one search.

    Args:
        problem: what is searched.
        strategy: proposes, and is told.
        journal: opened for writing; ``None`` keeps the study in memory.
        thought_s: CPU time that the strategy took before its first proposal.
    """

    def __init__(
        self, problem: Problem, strategy: Strategy, journal: Journal | None = None, *, thought_s: float = 0.0
    ) -> None:
        self.problem, self.strategy, self.journal = problem, strategy, journal
        self._trials: dict[int, Trial] = {}
        self._finished: list[int] = []
        self._interrupted: list[Trial] = []
        self._thought_s = thought_s

    @classmethod
    def resume(cls, problem: Problem, strategy: Strategy, journal: Journal) -> Self:
        """Rebuild a study from its journal; trials that were running are asked for again before new ones.

        Raises:
            JournalError: when the journal cannot be read.
            PolicyError: when its policies are of another model.
        """
        study = cls(problem, strategy, journal)
        trials = read_trials(journal.path)
        problem.space.to_levels([trial.policy for trial in trials if trial.policy is not None])
        strategy.restore(trials)
        study._trials = {trial.number: trial for trial in trials}
        study._finished = [trial.number for trial in trials if trial.is_final]
        study._interrupted = sorted((t for t in trials if not t.is_final), key=lambda trial: trial.number)
        return study

    # --- ask and tell -----------------------------------------------------------------------------------------------

    def ask(self, n: int = 1) -> list[Trial]:
        """Up to ``n`` trials to run; none once the strategy is exhausted. Each is written down before it is returned.

        Raises:
            PolicyError: when the strategy proposes an illegal policy, or one that was proposed before.
        """
        trials = self._interrupted[:n]
        del self._interrupted[: len(trials)]
        refused = 0
        while len(trials) < n and refused < PATIENCE:
            with self._strategy_thinks():
                proposals = self.strategy.ask(n - len(trials))
            if not proposals:
                break
            each, self._thought_s = self._thought_s / len(proposals), 0.0
            for proposal in proposals:
                trial = self._admit(proposal, each)
                if trial.is_final:
                    refused += 1
                else:
                    trials.append(trial)
        return trials

    def tell(
        self,
        number: int,
        values: Mapping[str, Measurement] | None = None,
        *,
        error: str | None = None,
        pruned: bool = False,
        early: Measurement | None = None,
        policy: Policy | None = None,
        seconds: float | None = None,
        cpu_s: float | None = None,
        details: Mapping[str, float] | None = None,
    ) -> Trial:
        """End a trial: complete with measured values, else pruned or failed.

        Args:
            number: of a running trial.
            values: of the measured objectives; the exact costs are filled in here.
            error: why there are none.
            pruned: the trial was stopped on purpose.
            early: the quality after a quarter of the fine-tune, where it was measured.
            policy: what was really evaluated, where a learner found it.
            seconds: spent on the evaluation.
            cpu_s: CPU time of the evaluation.
            details: numbers about its training; those that are not finite are left out.

        Raises:
            PolicyError: when no such trial is running.
        """
        trial = self._trials.get(number)
        if trial is None or trial.is_final:
            raise PolicyError(f"trial {number} is not running; it was told before, or never asked for")
        trial = replace(trial, policy=policy or trial.policy, early=early, finished=datetime.now(UTC))
        finite = {name: float(value) for name, value in (details or {}).items() if math.isfinite(value)}
        trial = replace(trial, seconds=seconds, cpu_s=cpu_s, details=finite)
        if pruned:
            trial = replace(trial, state=TrialState.PRUNED, error=error)
        elif (lack := self._lack(values or {})) is not None:
            trial = replace(trial, state=TrialState.FAILED, error=error or lack)
        else:
            assert values is not None and trial.policy is not None, "a learner reports the policy that it found"
            complete = {**values, **self.problem.cost_values(trial.policy)}
            trial = replace(trial, state=TrialState.COMPLETE, values=complete)
        self._record(trial)
        with self._strategy_thinks():
            self.strategy.tell([trial])
        return trial

    @contextmanager
    def _strategy_thinks(self) -> Iterator[None]:
        """Count the CPU time of this thread: others, which upload or wait for workers, are no part of the strategy."""
        start = time.thread_time()
        yield
        self._thought_s += time.thread_time() - start

    def _lack(self, values: Mapping[str, Measurement]) -> str | None:
        """The first measured objective that has no finite value, if one has none."""
        for info in self.problem.measured:
            found = values.get(info.name)
            if found is None or not math.isfinite(found.value):
                return f"{info.name} is {'missing' if found is None else found.value}; expected a finite number"
        return None

    def _admit(self, proposal: Proposal, cpu_s: float) -> Trial:
        """The gate: check a proposal, number it, write it down; over-budget ones end here, for free."""
        number = len(self._trials)
        policy = proposal.policy
        if policy is None and proposal.learner is None:
            raise PolicyError(
                f"strategy '{type(self.strategy).__name__}' proposed neither a policy nor a learner that finds one, as "
                f"number {number}"
            )
        if policy is not None:
            self.problem.space.to_levels([policy])
            if proposal.origin != REPLICATE and any(policy == trial.policy for trial in self._trials.values()):
                raise PolicyError(
                    f"strategy '{type(self.strategy).__name__}' proposed the policy of an earlier trial again, as "
                    f"number {number}; only origin '{REPLICATE}' may"
                )
        trial = Trial(
            number=number,
            state=TrialState.RUNNING,
            policy=policy,
            origin=proposal.origin,
            seed=derive(self.strategy.seed, "trial", number),
            started=datetime.now(UTC),
            recipe=proposal.recipe,
            learner=proposal.learner,
            proposal_cpu_s=cpu_s,
        )
        broken = None if policy is None else self.problem.broken_budget(policy)
        if broken is not None:
            trial = replace(trial, state=TrialState.PRUNED, error=str(broken), finished=datetime.now(UTC))
        self._record(trial)
        if trial.is_final:
            with self._strategy_thinks():
                self.strategy.tell([trial])
        return trial

    def _record(self, trial: Trial) -> None:
        if self.journal is not None:
            self.journal.append_trial(trial)
        self._trials[trial.number] = trial
        if trial.is_final:
            self._finished.append(trial.number)

    # --- what came of it --------------------------------------------------------------------------------------------

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    @property
    def finished(self) -> tuple[Trial, ...]:
        """Finished trials, in the order in which they finished."""
        return tuple(self._trials[number] for number in self._finished)

    @property
    def evaluated(self) -> int:
        """Trials that ended and were not refused for their budget before they began."""
        return sum(trial.was_evaluated for trial in self.finished)

    def pareto(self) -> list[Trial]:
        """Complete trials that no other complete trial beats, best quality first."""
        return pareto_trials(self.problem.infos, self.finished)

    def hypervolume(self) -> float:
        """Volume above the reference that the complete trials dominate, in the product of the objectives' units."""
        return trials_hypervolume(self.problem.infos, self.finished)
