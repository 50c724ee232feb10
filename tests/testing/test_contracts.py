"""Strategies that break the contract in one way each: the contract has to notice."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.optuna_samplers import Random
from mobo_mpq.testing.contracts import StrategyContract
from mobo_mpq.trial import REPLICATE, Proposal, Trial

SAYS = "test_what_a_strategy_says_about_itself_depends_on_finished_trials_alone"


class Repeating(Random):
    def propose(self, n: int) -> list[Proposal]:
        return [Proposal(self.problem.space.lowest(), "lowest")]


class Illegal(Random):
    def propose(self, n: int) -> list[Proposal]:
        return [Proposal(Policy.uniform(self.problem.layers, 7, 7), "seven")]


class Spendthrift(Random):
    def propose(self, n: int) -> list[Proposal]:
        affordable = self.problem
        rng = self.rng(self.number)
        policy = next(p for p in affordable.space.sample(1000, rng) if p not in self.seen)
        return [Proposal(policy, "random")]


class GivingUp(Random):
    def propose(self, n: int) -> list[Proposal]:
        return super().propose(n) if self.number < 4 else []


class WithAHistory(Random):
    def __init__(self, problem: Problem, *, seed: int) -> None:
        super().__init__(problem, seed=seed)
        self.generator = np.random.default_rng(seed)

    def propose(self, n: int) -> list[Proposal]:
        policy = self.fresh(self.problem.space.sample(1, self.generator), self.generator)
        return [] if policy is None else [Proposal(policy, "random")]


class StartingLow(Random):
    def _first(self) -> Proposal:
        return Proposal(self.problem.space.lowest(), "lowest")


class Forgetful(Random):
    def tell(self, trials: Sequence[Trial]) -> None:
        self._told.clear()
        super().tell(trials)


class Pending(Random):
    def tell(self, trials: Sequence[Trial]) -> None:
        running = dict(self.running)
        super().tell(trials)
        self.running = running


class NeedingResults(Random):
    def propose(self, n: int) -> list[Proposal]:
        return super().propose(n) if self.number < 3 or self.complete else []


class Replicating(Random):
    def propose(self, n: int) -> list[Proposal]:
        return super().propose(n) or [Proposal(self.problem.space.highest(), REPLICATE)]


class SayingNan(Random):
    def diagnosis(self) -> dict[str, Any]:
        return {"error": float("nan")}


class SayingArrays(Random):
    def diagnosis(self) -> dict[str, Any]:
        return {"table": np.zeros(3)}


class Talkative(Random):
    def diagnosis(self) -> dict[str, Any]:
        self.ask(1)
        return {}


class Busy(Random):
    def diagnosis(self) -> dict[str, Any]:
        return {"running": len(self.running)}


class Guessing(Random):
    def estimates(self) -> dict[int, Measurement]:
        return {trial.number: Measurement(0.5, 0.1) for trial in self.finished}


class Certain(Random):
    def estimates(self) -> dict[int, Measurement]:
        return {trial.number: Measurement(0.5) for trial in self.complete}


def _contract(cls: Callable[..., Strategy]) -> StrategyContract:
    class Contract(StrategyContract):
        def make(self, problem: Problem, seed: int) -> Strategy:
            return cls(problem, seed=seed)

    return Contract()


@pytest.mark.parametrize(
    ("cls", "test"),
    [
        (Repeating, "test_only_legal_affordable_new_policies_are_proposed"),
        (Illegal, "test_only_legal_affordable_new_policies_are_proposed"),
        (Spendthrift, "test_only_legal_affordable_new_policies_are_proposed"),
        (GivingUp, "test_only_legal_affordable_new_policies_are_proposed"),
        (StartingLow, "test_trial_0_is_the_highest_bits"),
        (Repeating, "test_a_batch_has_the_size_asked_for"),
        (Pending, "test_failed_and_pruned_trials_are_no_longer_pending_nor_proposed_again"),
        (NeedingResults, "test_nothing_but_failures_is_no_obstacle"),
        (GivingUp, "test_a_small_space_is_used_up_and_then_left_alone"),
        (WithAHistory, "test_a_replay_proposes_the_same"),
        (Forgetful, "test_a_strategy_is_told_of_each_finished_trial_once"),
        *((cls, SAYS) for cls in (SayingNan, SayingArrays, Talkative, Busy, Guessing, Certain)),
    ],
)
def test_a_broken_strategy_is_noticed(cls: Callable[..., Strategy], test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(_contract(cls), test)()


def test_what_is_said_may_be_nothing_or_estimates_of_complete_trials() -> None:
    class Honest(Random):
        def estimates(self) -> dict[int, Measurement]:
            return {trial.number: Measurement(0.5, 0.1) for trial in self.complete}

    getattr(_contract(Random), SAYS)()
    getattr(_contract(Honest), SAYS)()


def test_replicates_are_allowed_once_the_space_is_used_up() -> None:
    _contract(Replicating).test_a_small_space_is_used_up_and_then_left_alone()


def test_a_strategy_that_goes_by_the_order_of_a_set_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "by_hash.py").write_text(
        "from mobo_mpq.strategies.base import Strategy\n"
        "from mobo_mpq.trial import Proposal\n"
        "class ByHash(Strategy):\n"
        "    def propose(self, n):\n"
        "        candidates = sorted(self.problem.space.sample(50, self.rng(self.number)), key=hash)\n"
        "        return [Proposal(self.fresh(candidates, self.rng(self.number)), 'hash')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    contract = _contract(import_module("by_hash").ByHash)
    contract.test_a_replay_proposes_the_same()
    with pytest.raises(AssertionError):
        contract.test_a_replay_in_another_process_proposes_the_same()


def test_a_strategy_that_cannot_be_made_elsewhere_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(Random):
        pass

    with pytest.raises(AssertionError, match="Error"):
        _contract(Local).test_a_replay_in_another_process_proposes_the_same()
