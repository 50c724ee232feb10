from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mobo_mpq.errors import PolicyError
from mobo_mpq.journal import Journal, read_trials
from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.study import Study
from mobo_mpq.trial import Proposal, Trial, TrialState

BITS = np.array([2.0, 4.0, 8.0])


ACCURACY = ObjectiveInfo("accuracy", "", "maximize", 0.0)  # type: ignore[arg-type]
LOSS = ObjectiveInfo("loss", "", "minimize", 2.0)  # type: ignore[arg-type]


def make_problem(*more: ObjectiveInfo, **budgets: float) -> Problem:
    return Problem.from_tables(
        ["a", "b"],
        weight_bits=(2, 4, 8),
        activation_bits=(8,),
        costs={"latency_s": np.stack([BITS, 2 * BITS])},
        references={"latency_s": 24.0},
        quality=[ACCURACY, *more],
        budgets=budgets,
    )


class Scripted(Strategy):
    """Proposes a fixed list after the first."""

    script: Sequence[tuple[int, int]] = ((2, 2), (4, 4), (2, 8))
    origin = "script"

    def propose(self, n: int) -> list[Proposal]:
        chosen = self.script[self.number - 1 : self.number - 1 + n]
        return [Proposal(Policy.of({"a": (a, 8), "b": (b, 8)}), self.origin) for a, b in chosen]


def quality(value: float) -> dict[str, Measurement]:
    return {"accuracy": Measurement(value, 0.01)}


def make_study(journal: Journal | None = None, **budgets: float) -> Study:
    problem = make_problem(**budgets)
    return Study(problem, Scripted(problem, seed=3), journal)


def test_the_first_trial_has_the_highest_bits_and_costs_are_filled_in() -> None:
    study = make_study()
    (first,) = study.ask()
    assert first.number == 0
    assert first.policy == study.problem.space.highest()
    done = study.tell(0, quality(0.9), seconds=1.5)
    assert done.state is TrialState.COMPLETE
    assert done.values == {"accuracy": Measurement(0.9, 0.01), "latency_s": Measurement(24.0, 0.0)}
    assert (done.seconds, study.evaluated, len(study.trials)) == (1.5, 1, 1)


def test_front_and_hypervolume_by_hand() -> None:
    study = make_study()
    study.ask(4)
    for number, value in enumerate([0.9, 0.5, 0.8, 0.6]):  # at latencies 24, 6, 12, 18
        study.tell(number, quality(value))
    assert [trial.number for trial in study.pareto()] == [0, 2, 1]
    # above accuracy 0 and below 24 s: from 6 to 12 s at 0.5, from 12 to 24 s at 0.8
    assert study.hypervolume() == pytest.approx(6 * 0.5 + 12 * 0.8)


class Slow(Scripted):
    """Takes 3 s for every question, and 1 s for every answer, on a clock of its own."""

    clock = 0.0

    def ask(self, n: int = 1) -> list[Proposal]:
        self.clock += 3.0
        return super().ask(n)

    def tell(self, trials: Sequence[Trial]) -> None:
        self.clock += 1.0
        super().tell(trials)


def test_cpu_time_of_proposals_and_evaluations_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(latency_s=19.0)  # the second proposal, (4, 8), takes 20 s: it is refused, and told
    strategy = Slow(problem, seed=0)
    strategy.script = ((4, 8), (2, 2), (2, 4))
    monkeypatch.setattr("mobo_mpq.study.time.thread_time", lambda: strategy.clock)
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append("study", schema=1)
        study = Study(problem, strategy, journal, thought_s=0.5)
        study.ask()
        study.tell(0, quality(0.5), seconds=9.0, cpu_s=7.0)
        study.ask()  # the one that is refused, then the next
        study.tell(2, error="no luck", seconds=2.0, cpu_s=1.5)
        study.ask()
    trials = read_trials(tmp_path / "journal.jsonl")
    assert tuple(sorted(trials, key=lambda trial: trial.number)) == study.trials
    assert [trial.proposal_cpu_s for trial in study.trials] == [3.5, 4.0, 4.0, 4.0]
    assert [trial.cpu_s for trial in study.trials] == [7.0, None, 1.5, None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_fails_the_trial(value: float) -> None:
    study = make_study()
    study.ask()
    failed = study.tell(0, quality(value))
    assert failed.state is TrialState.FAILED
    assert failed.error is not None
    assert "expected a finite number" in failed.error
    assert study.pareto() == []
    assert study.hypervolume() == 0.0


def test_failed_and_pruned_trials_end_too() -> None:
    study = make_study()
    study.ask(3)
    assert study.tell(1, error="out of memory").state is TrialState.FAILED
    given_up = study.tell(0, error="hopeless", pruned=True, early=Measurement(0.2), seconds=0.1)
    assert (given_up.state, given_up.early, given_up.values) == (TrialState.PRUNED, Measurement(0.2), {})
    assert study.tell(2, {}).error == "accuracy is missing; expected a finite number"
    assert [trial.number for trial in study.finished] == [1, 0, 2]
    assert study.evaluated == 3
    assert study.strategy.running == {}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"accuracy": 0.5}, "loss is missing; expected a finite number"),
        ({"loss": 0.5}, "accuracy is missing; expected a finite number"),
        ({"accuracy": 0.5, "loss": float("nan")}, "loss is nan; expected a finite number"),
        ({"accuracy": 0.5, "loss": 1.5}, None),
    ],
)
def test_every_measured_objective_is_needed(values: dict[str, float], error: str | None) -> None:
    problem = make_problem(LOSS)
    study = Study(problem, Scripted(problem, seed=3))
    study.ask()
    done = study.tell(0, {name: Measurement(value) for name, value in values.items()})
    assert (done.state, done.error) == (TrialState.FAILED if error else TrialState.COMPLETE, error)
    assert set(done.values) == (set() if error else {"accuracy", "loss", "latency_s"})


@pytest.mark.parametrize("number", [0, 5])
def test_only_running_trials_are_told(number: int) -> None:
    study = make_study()
    study.ask()
    study.tell(0, quality(0.5))
    with pytest.raises(PolicyError, match=f"trial {number} is not running"):
        study.tell(number, quality(0.5))


class Silent(Scripted):
    """Proposes nothing that could be evaluated."""

    def propose(self, n: int) -> list[Proposal]:
        return [Proposal(None, "silent")]


def test_the_gate_refuses_what_nobody_could_evaluate() -> None:
    problem = make_problem()
    study = Study(problem, Silent(problem, seed=3))
    study.ask()
    with pytest.raises(
        PolicyError, match="'Silent' proposed neither a policy nor a learner that finds one, as number 1"
    ):
        study.ask()


def test_the_gate_refuses_repeats_and_illegal_policies() -> None:
    study = make_study()
    strategy = study.strategy
    assert isinstance(strategy, Scripted)
    strategy.script = ((2, 2), (2, 2), (3, 8))
    study.ask(2)
    with pytest.raises(PolicyError, match="'Scripted' proposed the policy of an earlier trial again, as number 2"):
        study.ask()
    with pytest.raises(PolicyError, match="layer 'a' has 3 weight bits; expected one of 2, 4, 8"):
        study.ask()
    assert len(study.trials) == 2


def test_replicates_are_let_through() -> None:
    study = make_study()
    strategy = study.strategy
    assert isinstance(strategy, Scripted)
    strategy.script, strategy.origin = ((8, 8),), "replicate"
    assert [trial.policy for trial in study.ask(2)] == [study.problem.space.highest()] * 2


def test_over_budget_proposals_are_pruned_for_free() -> None:
    study = make_study(latency_s=12.0)
    trials = study.ask(3)
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert study.ask(2) == []  # (2, 8) costs 18; then the script ends
    refused = study.trials[3]
    assert refused.state is TrialState.PRUNED
    assert refused.error == "latency_s of 18 is over the budget of 12"


def test_seeds_belong_to_numbers() -> None:
    one, other = make_study().ask(3), make_study().ask(1)
    assert one[0].seed == other[0].seed
    assert len({trial.seed for trial in one}) == 3


def test_a_study_comes_back_from_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("study", schema=1)
        study = make_study(journal)
        study.ask(3)
        study.tell(2, quality(0.8))
        study.tell(0, quality(0.9))
    with Journal(path) as journal:
        problem = make_problem()
        again = Study.resume(problem, Scripted(problem, seed=3), journal)
        assert again.trials == study.trials
        assert again.finished == study.finished
        assert again.strategy.running == {1: study.trials[1].policy}
        # what was running is asked for again, under its own number and seed, before anything new
        assert [trial.number for trial in again.ask(2)] == [1, 3]
        again.tell(1, quality(0.5))
        again.tell(3, quality(0.5))
    assert [(t.number, t.state) for t in read_trials(path)] == [(n, TrialState.COMPLETE) for n in (2, 0, 1, 3)]


def test_a_journal_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append("study", schema=1)
        make_study(journal).ask()
    other = Problem.from_tables(
        ["x", "y"],
        weight_bits=(2, 4, 8),
        activation_bits=(8,),
        costs={"latency_s": np.stack([BITS, BITS])},
        references={"latency_s": 16.0},
        quality=ObjectiveInfo("accuracy", "", "maximize", 0.0),  # type: ignore[arg-type]
    )
    with Journal(path) as journal, pytest.raises(PolicyError, match="the policy is of another model: it lacks 'x'"):
        Study.resume(other, Scripted(other, seed=3), journal)
