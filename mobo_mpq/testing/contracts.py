"""What every strategy must keep, as tests to inherit.

::

    class TestMine(StrategyContract):
        def make(self, problem, seed):
            return Mine(problem, seed=seed)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

from mobo_mpq.errors import InputError
from mobo_mpq.journal import measurement_to_list
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.testing.toys import Toy, make_toy
from mobo_mpq.trial import REPLICATE, Proposal, Trial, TrialState

PAIRS = [(8, 8), (32, 32)]

TOYS: Mapping[str, Mapping[str, Any]] = {
    "every combination is legal": {"layers": 4, "activation_bits": (4, 8)},
    "depthwise layers take two pairs": {
        "layers": 4,
        "weight_bits": (8, 16, 32),
        "activation_bits": (8, 32),
        "depthwise_pairs": PAIRS,
    },
    "tied layers": {"layers": 5, "activation_bits": (4, 8), "tie": [["layer0", "layer2"], ["layer3", "layer4"]]},
    "two costs": {"layers": 5, "size": True},
    "budgets": {"layers": 5, "budgets": {"latency_s": 0.5, "size_bytes": 0.6}},
}
"""Problems that every strategy has to cope with, as arguments of :func:`make_toy`."""

TINY: Mapping[str, Any] = {"layers": 3, "weight_bits": (4, 8), "activation_bits": (8,)}
"""Eight policies, soon used up."""


class StrategyContract(ABC):
    """Tests of one strategy; inherit, and write :meth:`make`."""

    trials = 16
    """Evaluations per problem: enough to leave the strategy's start-up behind."""

    sensitivity = False
    """Whether the problems come with sensitivities."""

    @abstractmethod
    def make(self, problem: Problem, seed: int) -> Strategy:
        """A new strategy. Its class must be importable, and take ``(problem, seed=...)``, and
        ``options=...`` where it has some: another process makes one.
        """

    def toy(self, arguments: Mapping[str, Any], **more: Any) -> Toy:
        """A problem of :data:`TOYS`, as this strategy wants it."""
        return make_toy(**arguments, **more, sensitivity=self.sensitivity)

    def test_only_legal_affordable_new_policies_are_proposed(self) -> None:
        """What a strategy proposes can be evaluated, and was not evaluated before."""
        for name, arguments in TOYS.items():
            toy = self.toy(arguments)
            strategy = self.make(toy.problem, seed=3)
            seen: set[Policy] = set()
            for proposal in _proposals(_play(strategy, toy, self.trials)):
                assert proposal.policy is not None
                assert toy.problem.broken_budget(proposal.policy) is None, f"{name}: over budget"
                assert proposal.policy not in seen or proposal.origin == REPLICATE, f"{name}: proposed twice"
                seen.add(proposal.policy)
            assert strategy.number == self.trials, name

    def test_trial_0_is_the_highest_bits(self) -> None:
        """Every study starts with what users compare with, unless a budget forbids it."""
        for name, arguments in TOYS.items():
            toy = self.toy(arguments)
            policy = self.make(toy.problem, seed=0).ask(1)[0].policy
            highest = toy.problem.space.highest()
            assert policy == highest or toy.problem.broken_budget(highest), name

    def test_a_batch_has_the_size_asked_for(self) -> None:
        """Proposals of one batch differ, and run from then on."""
        toy = self.toy(TOYS["every combination is legal"])
        strategy = self.make(toy.problem, seed=1)
        assert strategy.ask(0) == []
        batch = strategy.ask(5)
        assert len({proposal.policy for proposal in batch}) == 5
        assert list(strategy.running.values()) == [proposal.policy for proposal in batch]

    def test_failed_and_pruned_trials_are_no_longer_pending_nor_proposed_again(self) -> None:
        """A trial without values is over all the same."""
        toy = self.toy(TOYS["every combination is legal"])
        strategy = self.make(toy.problem, seed=2)
        finished = _play(strategy, toy, self.trials, _mostly_unlucky)
        assert {trial.state for trial in finished} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED}
        assert strategy.running == {}
        assert strategy.ask(1)[0].policy not in {trial.policy for trial in finished}

    def test_nothing_but_failures_is_no_obstacle(self) -> None:
        """A strategy that has nothing to learn from goes on proposing."""
        toy = self.toy(TOYS["every combination is legal"])
        finished = _play(self.make(toy.problem, seed=2), toy, self.trials, lambda number: TrialState.FAILED)
        assert len({trial.policy for trial in finished}) == self.trials

    def test_a_small_space_is_used_up_and_then_left_alone(self) -> None:
        """Every affordable policy is proposed once, and then nothing but replicates."""
        for budgets in ({}, {"latency_s": 0.8}):
            toy = self.toy(TINY, budgets=budgets)
            strategy = self.make(toy.problem, seed=0)
            finished = _play(strategy, toy, 100)
            fresh = [trial.policy for trial in finished if trial.origin != REPLICATE]
            assert sorted(fresh, key=str) == sorted(toy.everything, key=str)
            assert all(proposal.origin == REPLICATE for proposal in strategy.ask(2))

    def test_a_replay_proposes_the_same(self) -> None:
        """Resuming needs no pickled state: telling the finished trials again is enough."""
        for name, arguments in TOYS.items():
            toy = self.toy(arguments)
            strategy, history = self._history(toy)
            replayed = self.make(toy.problem, seed=7)
            replayed.restore(history)
            assert replayed.ask(3) == strategy.ask(3), name

    def test_a_replay_in_another_process_proposes_the_same(self) -> None:
        """Nothing hangs on the order of a set, or on a generator that was used before."""
        arguments = TOYS["tied layers"]
        strategy, history = self._history(self.toy(arguments))
        document = {
            "strategy": [type(strategy).__module__, type(strategy).__qualname__],
            "options": asdict(strategy.options),
            "toy": {**arguments, "sensitivity": self.sensitivity},
            "seed": 7,
            "trials": [[trial.number, trial.state, trial.policy and trial.policy.to_dict()] for trial in history],
        }
        expected = [proposal.policy and proposal.policy.to_dict() for proposal in strategy.ask(3)]
        for hash_seed in ("1", "2"):
            assert _in_another_process(document, hash_seed) == expected

    def test_what_a_strategy_says_about_itself_depends_on_finished_trials_alone(self) -> None:
        """And it is JSON, with finite numbers, of complete trials; and asking changes nothing about the proposals."""
        toy = self.toy(TOYS["two costs"])
        asked, history = self._history(toy)
        silent, finished = self.make(toy.problem, seed=7), self.make(toy.problem, seed=7)
        silent.restore(history)
        finished.restore(trial for trial in history if trial.is_final)
        _said(self.make(toy.problem, seed=7))
        said = _said(asked)
        assert said == _said(asked) == _said(finished)
        assert asked.estimates().keys() <= {trial.number for trial in asked.complete}
        assert all(estimate.stderr is not None and estimate.stderr >= 0 for estimate in asked.estimates().values())
        assert asked.ask(3) == silent.ask(3)

    def test_a_strategy_is_told_of_each_finished_trial_once(self) -> None:
        """What does not fit the book-keeping is refused."""
        toy = self.toy(TINY)
        strategy = self.make(toy.problem, seed=0)
        policy = strategy.ask(1)[0].policy
        assert policy is not None
        assert "still runs" in _refusal(lambda: strategy.tell([toy.trial(0, policy, TrialState.RUNNING)]))
        strategy.tell([toy.trial(0, policy)])
        assert "told before" in _refusal(lambda: strategy.tell([toy.trial(0, policy)]))

    def _history(self, toy: Toy) -> tuple[Strategy, list[Trial]]:
        """A strategy with finished trials, some of them unlucky, and two that run; and its journal."""
        strategy = self.make(toy.problem, seed=7)
        history = _play(strategy, toy, self.trials, _sometimes_unlucky)
        for proposal in strategy.ask(2):
            assert proposal.policy is not None
            number = len(history)
            history.append(Trial(number, TrialState.RUNNING, proposal.policy, proposal.origin))
        return strategy, history


def _play(
    strategy: Strategy,
    toy: Toy,
    trials: int,
    state: Callable[[int], TrialState] = lambda number: TrialState.COMPLETE,
) -> list[Trial]:
    """Batches of three, of which the last finishes first, until enough have finished or nothing is proposed."""
    finished: list[Trial] = []
    while len(finished) < trials:
        number = strategy.number
        batch = strategy.ask(min(3, trials - len(finished)))
        if not batch or batch[0].origin == REPLICATE and len(finished) > len(toy.everything):
            break
        told = [_finish(toy, number + i, proposal, state(number + i)) for i, proposal in enumerate(batch)]
        strategy.tell(told[::-1])
        finished += told[::-1]
    return finished


def _finish(toy: Toy, number: int, proposal: Proposal, state: TrialState) -> Trial:
    assert proposal.policy is not None, "a contract needs policies; a recipe that finds them has other tests"
    assert proposal.policy in toy.problem.space, f"illegal: {proposal.policy.to_dict()}"
    values = toy.measure(proposal.policy) if state is TrialState.COMPLETE else {}
    return Trial(number, state, proposal.policy, proposal.origin, values)


def _proposals(trials: Sequence[Trial]) -> list[Proposal]:
    return [Proposal(trial.policy, trial.origin) for trial in sorted(trials, key=lambda trial: trial.number)]


def _mostly_unlucky(number: int) -> TrialState:
    return (TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED)[number % 3]


def _sometimes_unlucky(number: int) -> TrialState:
    return {4: TrialState.FAILED, 9: TrialState.PRUNED}.get(number, TrialState.COMPLETE)


def _said(strategy: Strategy) -> str:
    """Diagnosis and estimates as the journal holds them."""
    estimates = {number: measurement_to_list(value) for number, value in strategy.estimates().items()}
    try:
        return json.dumps([strategy.diagnosis(), estimates], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"what a strategy says about itself is no JSON: {error}") from error


def _refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except InputError as error:
        return str(error)
    raise AssertionError("expected an InputError")


def _in_another_process(document: Mapping[str, object], hash_seed: str) -> object:
    done = subprocess.run(
        [sys.executable, "-c", "from mobo_mpq.testing.contracts import replay; replay()"],
        input=json.dumps(document),
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def replay() -> None:
    """Rebuild the strategy described on stdin and print its next three proposals: the other process of the contract."""
    document = json.load(sys.stdin)
    toy = make_toy(**document["toy"])
    module, name = document["strategy"]
    made = getattr(import_module(module), name)
    options = {"options": made.options_class(**document["options"])} if document["options"] else {}
    strategy: Strategy = made(toy.problem, seed=document["seed"], **options)
    strategy.restore(
        toy.trial(number, Policy.from_dict(policy), TrialState(state)) for number, state, policy in document["trials"]
    )
    json.dump([proposal.policy and proposal.policy.to_dict() for proposal in strategy.ask(3)], sys.stdout)
