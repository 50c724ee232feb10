"""Studies from their first trial to their last: serial, in parallel, killed, interrupted, resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow.tracking import MlflowClient

from mobo_mpq.journal import read_events, read_trials
from mobo_mpq.trial import TrialState
from mobo_mpq.workflows import search as search_module
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.preparation import prepare
from mobo_mpq.workflows.record import StudyRecord

Fails = Callable[..., str]
Command = Callable[..., int]
BAD = f"{Path(__file__).parent.parent / 'data' / 'failing_task.py'}"
STEADY = f"{Path(__file__).parent.parent / 'data' / 'steady_task.py'}:Steady"


@pytest.fixture(scope="module")
def workers_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where workers of `TellsWhere` leave their process ids."""
    return tmp_path_factory.mktemp("workers") / "pids"


@pytest.fixture(scope="module")
def local_ray(workers_file: Path) -> Iterator[None]:
    """One Ray for the tests of this file."""
    environment = {"env_vars": {"TOY_WORKERS": str(workers_file)}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


def journal_of(home: Path, name: str) -> Path:
    return home / "studies" / name / "journal.jsonl"


def results(home: Path, name: str) -> list[Any]:
    return [
        (t.number, t.state, t.policy, {n: v.value for n, v in t.values.items()})
        for t in sorted(read_trials(journal_of(home, name)), key=lambda t: t.number)
    ]


def final_numbers(journal: Path) -> list[int]:
    events = [e for e in read_events(journal) if e["event"] == "trial"]
    return sorted(e["number"] for e in events if e["state"] != "running")


@pytest.mark.parametrize(("strategy", "costs"), [("tpe", "latency"), ("mobo", "latency,energy,size")])
@pytest.mark.usefixtures("local_ray")
def test_ray_gives_what_a_serial_run_gives(
    strategy: str, costs: str, command: Command, toy: str, tmp_path: Path
) -> None:
    common = ["--task", toy, "--strategy", strategy, "--objectives", costs, "--trials", 5, "--epochs", 0.5]
    common += ["--home", tmp_path]
    assert command("search", *common, "--name", "serial", "--runner", "serial") == 0
    assert command("search", *common, "--name", "ray", "--concurrency", 1) == 0
    assert results(tmp_path, "ray") == results(tmp_path, "serial")


@pytest.mark.usefixtures("local_ray")
def test_two_at_a_time(command: Command, workers_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["--task", f"{BAD}:TellsWhere", "--strategy", "mobo", "--trials", 12, "--epochs", 1, "--home", tmp_path]
    monkeypatch.setenv("TOY_WORKERS", str(tmp_path / "here"))  # where the front is scored on the test split
    assert command("search", *common, "--name", "two", "--concurrency", 2) == 0
    trials = read_trials(journal_of(tmp_path, "two"))
    assert final_numbers(journal_of(tmp_path, "two")) == list(range(12))
    assert all(trial.state is TrialState.COMPLETE for trial in trials)
    assert len({trial.policy for trial in trials}) == 12
    measured = workers_file.read_text().split()
    assert len(measured) == 12
    assert len(set(measured)) == 2, "two workers share the trials, and neither is replaced"


@pytest.mark.usefixtures("local_ray")
def test_failed_trials_are_part_of_a_study(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", f"{BAD}:SometimesRaises", "--recipe", "ptq", "--strategy", "sobol", "--trials", 8]
    assert command("search", *arguments, "--name", "some", "--home", tmp_path) == 0
    trials = read_trials(journal_of(tmp_path, "some"))
    failed = [trial for trial in trials if trial.state is TrialState.FAILED]
    assert failed
    assert all(trial.policy is not None and trial.policy["5"].weight == 2 for trial in failed)
    assert all("two bits are too few" in (trial.error or "") for trial in failed)
    assert len(failed) < len(trials) == 8
    assert "two bits are too few" in capsys.readouterr().err


@pytest.mark.parametrize("runner", ["serial", "ray"])
@pytest.mark.usefixtures("local_ray")
def test_a_hopeless_search_ends_early(runner: str, fails: Fails, tmp_path: Path) -> None:
    arguments = ["--task", f"{BAD}:NanWhenQuantized", "--recipe", "ptq", "--strategy", "sobol", "--runner", runner]
    sentence = fails("search", *arguments, "--name", "bad", "--home", tmp_path, code=1)
    assert "trials all failed, the last one with: TaskError" in sentence
    assert "nan" in sentence
    assert len(final_numbers(journal_of(tmp_path, "bad"))) < 48


def test_an_exception_in_a_users_loss_is_a_failed_trial(fails: Fails, tmp_path: Path) -> None:
    arguments = ["--task", f"{BAD}:BadLoss", "--runner", "serial", "--trials", 2, "--name", "loss", "--home", tmp_path]
    assert "KeyError: 'no such key'" in fails("search", *arguments, code=1)
    assert [trial.state for trial in read_trials(journal_of(tmp_path, "loss"))] == [TrialState.FAILED] * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NanAlways", "nan"),
        ("Raises", "raised RuntimeError: the disk is on fire"),
        ("NoMetric", "lacks 'metric'"),
        ("Missing", "has no 'Missing'"),
    ],
)
def test_bad_tasks_are_refused_before_the_first_trial(name: str, message: str, fails: Fails, tmp_path: Path) -> None:
    assert message in fails("search", "--task", f"{BAD}:{name}", "--home", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_used_up_space_ends_a_search(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = ["--pin", "0=8/8", "--pin", "2=8/8"]
    arguments = ["--task", toy, *pins, "--recipe", "ptq", "--runner", "serial", "--strategy", "random"]
    assert command("search", *arguments, "--name", "small", "--home", tmp_path) == 0
    assert final_numbers(journal_of(tmp_path, "small")) == list(range(9))
    assert "every legal policy within the budgets has been tried: 9 trials instead of 48" in capsys.readouterr().err
    before = journal_of(tmp_path, "small").read_bytes()
    assert command("resume", "small", "--home", tmp_path) == 0  # it is finished
    assert "go on with" not in capsys.readouterr().out
    assert journal_of(tmp_path, "small").read_bytes() == before


def test_budgets_are_kept(command: Command, toy: str, tmp_path: Path) -> None:
    arguments = ["--task", toy, "--recipe", "ptq", "--runner", "serial", "--strategy", "random", "--trials", 5]
    budgets = ["--budget", "latency_us<=5", "--budget", "size_bytes<=1000"]
    assert command("search", *arguments, *budgets, "--name", "cheap", "--home", tmp_path) == 0
    weights = {"0": 72, "2": 72, "5": 1280}
    for trial in read_trials(journal_of(tmp_path, "cheap")):
        assert trial.values["latency_s"].value <= 5e-6
        assert trial.policy is not None
        assert sum(weights[name] * bits.weight / 8 for name, bits in trial.policy.items()) <= 1000


def test_more_trials_extend_a_study(command: Command, home: Path) -> None:
    assert command("resume", "toy", "--trials", 8, "--runner", "serial", "--home", home) == 0
    assert final_numbers(journal_of(home, "toy")) == list(range(8))
    before = journal_of(home, "toy").read_bytes()
    assert command("resume", "toy", "--home", home) == 0  # a finished study is shown, and left alone
    assert journal_of(home, "toy").read_bytes() == before


def test_a_changed_model_is_refused(fails: Fails, command: Command, tmp_path: Path) -> None:
    source = Path(BAD).with_name("toy_task.py").read_text()
    task = tmp_path / "mine.py"
    task.write_text(source)
    arguments = ["--task", f"{task}:Toy", "--recipe", "ptq", "--runner", "serial", "--trials", 2, "--name", "mine"]
    assert command("search", *arguments, "--home", tmp_path) == 0
    task.write_text(source.replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    assert "has other weights than when study 'mine' began" in fails(
        "resume", "mine", "--trials", 4, "--home", tmp_path
    )


# --- trials that are given up -----------------------------------------------------------------------------------------


WORST = 0.65


def futile(name: str, home: Path, *more: object) -> list[object]:
    """A search of 16 trials of two steps each, probed after the first."""
    common = ["search", "--task", STEADY, "--strategy", "sobol", "--trials", 16, "--epochs", 0.2, "--name", name]
    return [*common, "--worst-quality", WORST, "--futility", "--home", home, *more]


def outcomes(journal: Path) -> list[Any]:
    return [(t.number, t.state, t.policy, t.error, t.early, t.values) for t in read_trials(journal)]


@pytest.fixture(scope="module")
def futile_home(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of such a search, run serially."""
    home = tmp_path_factory.mktemp("futile")
    assert command(*futile("serial", home, "--runner", "serial")) == 0
    return home


def test_hopeless_trials_are_given_up(futile_home: Path) -> None:
    trials = read_trials(journal_of(futile_home, "serial"))
    assert [trial.number for trial in trials] == list(range(16))
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert pruned and trials[-1].early is not None
    prepared = prepare(Home(futile_home).existing("serial").config())
    for trial in trials:
        assert trial.policy is not None and trial.early is not None
        accuracy, latency = 0.5 + 0.05 * trial.policy["0"].activation, prepared.problem.costs[0](trial.policy)
        assert trial.early.value == accuracy
        done = [t.values for t in trials[: trial.number] if t.state is TrialState.COMPLETE]
        cheap = [v["accuracy"].value for v in done if v["latency_s"].value <= latency]
        envelope = max([WORST, *cheap])
        # no training changes this quality, so early values tell the end exactly, and the bar is the envelope itself
        beaten = len(done) >= 8 and envelope > accuracy
        assert trial.state is (TrialState.PRUNED if beaten else TrialState.COMPLETE)
        if beaten:
            numbers = f"accuracy of {accuracy:g} after a quarter of the fine-tune, below the {envelope:g} "
            assert numbers in str(trial.error)
            assert trial.was_evaluated and not trial.values


@pytest.mark.usefixtures("local_ray")
def test_workers_of_ray_give_up_the_same(
    command: Command, futile_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*futile("ray", tmp_path, "--concurrency", 1)) == 0
    assert outcomes(journal_of(tmp_path, "ray")) == outcomes(journal_of(futile_home, "serial"))
    said = capsys.readouterr().err
    assert "pruned: futile: accuracy of" in said
    assert "--futility has no effect" not in said


def test_a_trial_that_was_interrupted_gets_its_bar_anew(command: Command, futile_home: Path, tmp_path: Path) -> None:
    shutil.copytree(futile_home / "studies", tmp_path / "studies")
    journal = journal_of(tmp_path, "serial")
    before = outcomes(journal)
    last = [number for number, state, *_ in before if state is TrialState.PRUNED][-1]
    lines = [line for line in journal.read_text().splitlines(True) if '"event":"tracking"' not in line]
    end = next(i for i, line in enumerate(lines) if f'"number":{last},"state":"pruned"' in line)
    journal.write_text("".join(lines[:end]))  # as it was while that trial ran
    assert [trial.number for trial in read_trials(journal) if not trial.is_final] == [last]
    assert command("resume", "serial", "--runner", "serial", "--home", tmp_path) == 0
    assert outcomes(journal) == before


def test_trials_that_were_given_up_are_killed_runs_in_mlflow(futile_home: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{futile_home / 'mlflow.db'}")
    record = StudyRecord.read(Home(futile_home).existing("serial"))
    for trial in record.finished:
        run = client.get_run(record.run_id(trial.number) or "")
        assert run.info.status == {"complete": "FINISHED", "pruned": "KILLED"}[trial.state]
        assert run.data.tags["mobo_mpq.state"] == trial.state
        assert run.data.tags.get("mobo_mpq.error") == trial.error
        assert ("accuracy" in run.data.metrics) == (trial.state is TrialState.COMPLETE)


def test_futility_without_training_is_said_to_have_no_effect(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", toy, "--recipe", "ptq", "--strategy", "sobol", "--trials", 2, "--runner", "serial"]
    assert command("search", *arguments, "--futility", "--name", "ptq", "--home", tmp_path) == 0
    sentence = "--futility has no effect: recipe 'ptq' trains nothing that could be stopped"
    assert sentence in capsys.readouterr().err.splitlines()
    assert [trial.early for trial in read_trials(journal_of(tmp_path, "ptq"))] == [None, None]


# --- processes that die -----------------------------------------------------------------------------------------------


def start(*arguments: object, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mobo_mpq.workflows.cli", *map(str, arguments), "--home", str(home)]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for_trials(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if journal.exists() and len(final_numbers(journal)) >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"ended before {count} trials: {process.communicate()}")


@pytest.mark.slow
def test_a_killed_study_ends_with_exactly_the_trials_asked_for(command: Command, toy: str, tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "killed")
    arguments = ["search", "--task", toy, "--name", "killed", "--strategy", "nsga2", "--trials", 14, "--concurrency", 2]
    driver = start(*arguments, "--epochs", 2, home=tmp_path)
    wait_for_trials(journal, 4, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = final_numbers(journal)
    assert len(before) < 14
    running = {t.number: t.policy for t in read_trials(journal) if not t.is_final}
    assert command("resume", "killed", "--runner", "serial", "--home", tmp_path) == 0
    assert final_numbers(journal) == list(range(14)), "each number ends exactly once"
    trials = {trial.number: trial for trial in read_trials(journal)}
    assert all(trials[number].policy == policy for number, policy in running.items()), "what ran is run again"
    assert len({trial.policy for trial in trials.values()}) == 14


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_says_how_to_go_on(
    how: signal.Signals, command: Command, toy: str, tmp_path: Path
) -> None:
    journal = journal_of(tmp_path, "stopped")
    arguments = ["search", "--task", toy, "--name", "stopped", "--strategy", "random", "--trials", 400]
    driver = start(*arguments, "--concurrency", 1, home=tmp_path)
    wait_for_trials(journal, 2, driver)
    os.kill(driver.pid, how)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.rstrip().endswith("error: interrupted; go on with 'mobo-mpq resume'")
    done = len(final_numbers(journal))
    assert command("resume", "stopped", "--trials", done + 1, "--runner", "serial", "--home", tmp_path) == 0
    assert final_numbers(journal) == list(range(done + 1))


def test_only_one_driver_per_study(command: Command, fails: Fails, home: Path) -> None:
    code = (
        "import sys, pathlib; from mobo_mpq.journal import Journal\n"
        "with Journal(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(journal_of(home, "toy"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    try:
        assert "another process is working on" in fails("resume", "toy", "--trials", 9, "--home", home)
    finally:
        other.communicate("")
    assert command("resume", "toy", "--trials", 7, "--runner", "serial", "--home", home) == 0


def test_a_study_that_appears_while_another_prepares_is_left_alone(
    fails: Fails, home: Path, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = search_module.prepare

    def slow(*arguments: Any) -> Any:
        prepared = real(*arguments)
        shutil.copytree(home / "studies", tmp_path / "late" / "studies")  # somebody else was quicker
        return prepared

    monkeypatch.setattr(search_module, "prepare", slow)
    before = journal_of(home, "toy").read_bytes()
    arguments = ["--task", toy, "--name", "toy", "--runner", "serial", "--recipe", "ptq", "--home", tmp_path / "late"]
    assert "study 'toy' exists already" in fails("search", *arguments)
    assert journal_of(tmp_path / "late", "toy").read_bytes() == before


def test_a_journal_that_was_reformatted_is_still_a_study(fails: Fails, home: Path, toy: str) -> None:
    journal = journal_of(home, "toy")
    spaced = "".join(json.dumps(json.loads(line)) + "\n" for line in journal.read_text().splitlines())
    journal.write_text(spaced)
    assert "study 'toy' exists already" in fails("search", "--task", toy, "--name", "toy", "--home", home)
    assert journal.read_text() == spaced


def test_a_study_file_of_another_study(fails: Fails, home: Path) -> None:
    (home / "studies" / "toy" / "study.toml").write_text("")
    sentence = fails("resume", "toy", "--trials", 9, "--home", home)
    assert "is of a study '', the journal beside it of 'toy'" in sentence


def test_search_as_a_function(toy: str, tmp_path: Path) -> None:
    import mobo_mpq as mm

    record = mm.search(
        task=toy, target="mpic", trials=3, recipe="ptq", strategy="sobol", name="f", home=tmp_path, runner="serial"
    )
    assert len(record.trials) == 3
    assert record.hypervolume() >= 0
    assert json.loads(record.folder.journal.read_text().splitlines()[0])["task"] == toy
