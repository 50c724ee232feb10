"""Studies whose policies are found by training: scored like all others, written down, resumed, shown and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mobo_mpq.journal import read_trials
from mobo_mpq.strategies.registry import learns, strategy_names
from mobo_mpq.trial import TrialState
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.record import StudyRecord

Command = Callable[..., int]
LEARNED = [name for name in strategy_names() if learns(name)]
SHORT = "epochs = 0.3\n"


@pytest.fixture
def study_file(toy: str, tmp_path: Path) -> Callable[..., Path]:
    """A study file of short learners and short fine-tunes."""

    def write(strategy: str, **settings: object) -> Path:
        lines = [f"task = {json.dumps(toy)}", f"strategy = {json.dumps(strategy)}", "epochs = 0.5"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        file = tmp_path / f"{strategy}.toml"
        file.write_text("\n".join([*lines, "[strategy_options]", SHORT]))
        return file

    return write


def journal_of(home: Path, name: str) -> Path:
    return home / "studies" / name / "journal.jsonl"


@pytest.mark.parametrize("strategy", LEARNED)
def test_what_a_learner_finds_is_scored_by_the_ordinary_recipe(
    strategy: str, command: Command, study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, home = study_file(strategy, trials=3), tmp_path / "home"
    for name in ("one", "two"):
        assert command("search", file, "--runner", "serial", "--name", name, "--home", home) == 0
    first, *learned = sorted(read_trials(journal_of(home, "one")), key=lambda trial: trial.number)
    assert first.learner is None and first.details == {}
    for trial in learned:
        assert trial.state is TrialState.COMPLETE, trial.error
        assert trial.learner is not None and trial.learner.kind == strategy and trial.policy is not None
        assert trial.values["accuracy"].value > 0.2
        assert trial.details["learning_cpu_s"] > 0
        assert trial.cpu_s is not None and trial.cpu_s > trial.details["learning_cpu_s"]
    again = {trial.number: trial for trial in read_trials(journal_of(home, "two"))}
    for trial in (first, *learned):
        assert again[trial.number].policy == trial.policy and again[trial.number].values == trial.values
    capsys.readouterr()
    assert command("pareto", "one", "--json", "--home", home) == 0
    document = json.loads(capsys.readouterr().out)
    numbers = {member["number"]: member for member in document["trials"]}
    for trial in learned:
        if trial.number in numbers:
            assert numbers[trial.number]["details"] == dict(trial.details)


def test_ray_finds_what_a_serial_run_finds_and_it_can_be_exported(
    command: Command, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    file, home = study_file("ddq", trials=3), tmp_path / "home"
    assert command("search", file, "--runner", "serial", "--name", "serial", "--home", home) == 0
    assert command("search", file, "--concurrency", 1, "--name", "ray", "--home", home) == 0
    found = {name: StudyRecord.read(Home.of(home).existing(name)) for name in ("serial", "ray")}
    assert [t.policy for t in found["ray"].trials] == [t.policy for t in found["serial"].trials]
    assert [t.values for t in found["ray"].trials] == [t.values for t in found["serial"].trials]
    told = [{k: v for k, v in t.details.items() if k != "learning_cpu_s"} for t in found["serial"].trials]
    assert [{k: v for k, v in t.details.items() if k != "learning_cpu_s"} for t in found["ray"].trials] == told
    assert all("learned_quality" in one for one in told[1:])
    assert command("export", "--study", "ray", "--trial", 1, "--out", tmp_path / "out", "--home", home) == 0
    policy = json.loads((tmp_path / "out" / "policy.json").read_text())["layers"]
    assert found["ray"].trials[1].policy is not None and policy == found["ray"].trials[1].policy.to_dict()


def test_a_study_that_was_cut_off_learns_the_same_again(
    command: Command, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    file, home = study_file("seam", trials=3), tmp_path / "home"
    assert command("search", file, "--runner", "serial", "--name", "whole", "--home", home) == 0
    assert command("search", file, "--runner", "serial", "--name", "cut", "--home", home) == 0
    journal = journal_of(home, "cut")
    lines = journal.read_text().splitlines(keepends=True)
    running = [i for i, line in enumerate(lines) if '"number":2' in line and '"state":"running"' in line]
    journal.write_text("".join(lines[: running[0] + 1]))
    assert command("resume", "cut", "--runner", "serial", "--home", home) == 0
    whole, cut = (StudyRecord.read(Home.of(home).existing(name)).trials for name in ("whole", "cut"))
    assert [(t.policy, t.values, t.learner) for t in cut] == [(t.policy, t.values, t.learner) for t in whole]


def test_a_policy_over_the_studys_own_budget_is_not_scored(
    command: Command, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    file, home = study_file("bsq", trials=2), tmp_path / "home"
    weak = file.read_text() + "lowest = 1e-9\nhighest = 1e-9\n"  # too weak to take a bit away
    file.write_text(weak.replace("[strategy_options]", 'budget = ["latency_us<=5.0"]\n[strategy_options]'))
    code = command("search", file, "--runner", "serial", "--name", "tight", "--home", home)
    trials = sorted(read_trials(journal_of(home, "tight")), key=lambda trial: trial.number)
    assert code == 0
    assert trials[1].state is TrialState.PRUNED and "over the budget" in str(trials[1].error)


@pytest.mark.parametrize(
    ("strategy", "option", "sentence"),
    [
        ("ddq", "highest = 2.0", "option 'highest' of strategy 'ddq' is 2.0: option 'budget'"),  # whatever the task is
        ("bsq", "lowest = 20.0", "options 'lowest' and 'highest' of strategy 'bsq' are 20.0 and 10.0; expected"),
        ("ddq", "lowest = 0.001", "option 'lowest' of strategy 'ddq' is 0.001; expected at least 0."),  # on this device
        ("seam", "highest = 0.001", "option 'highest' of strategy 'seam' is 0.001; expected at least 0."),
    ],
)
def test_a_range_that_cannot_be_swept_is_bad_input_and_begins_no_study(
    strategy: str,
    option: str,
    sentence: str,
    fails: Callable[..., str],
    study_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    file, home = study_file(strategy, trials=2), tmp_path / "home"
    file.write_text(f"{file.read_text()}{option}\n")
    assert fails("search", file, "--runner", "serial", "--name", "none", "--home", home).startswith(sentence)
    assert not home.exists()
