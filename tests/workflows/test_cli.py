"""Commands as users type them: what they print, and how they refuse bad input."""

from __future__ import annotations

import csv
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mobo_mpq
from mobo_mpq.journal import read_trials
from mobo_mpq.strategies.registry import strategy_names
from mobo_mpq.workflows.home import Home

Fails = Callable[..., str]
Command = Callable[..., int]


# --- what commands print ----------------------------------------------------------------------------------------------


def test_help_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-m", "mobo_mpq.workflows.cli", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert "How many bits does each layer deserve?" in result.stdout
    heavy = ("torch", "numpy", "ray", "mlflow", "pandas")
    code = f"import sys, mobo_mpq.workflows.cli; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]", f"--help took {spent:.2f} s of CPU and loads what it does not need"


def test_version(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert capsys.readouterr().out == f"mobo-mpq {mobo_mpq.__version__}\n"


def test_pareto_json_is_the_contract(command: Command, finished_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("pareto", "toy", "--json", "--home", finished_home) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["study"] == "toy"
    assert [(o["name"], o["unit"], o["direction"]) for o in document["objectives"]] == [
        ("accuracy", "", "maximize"),
        ("latency_s", "s", "minimize"),
    ]
    assert document["hypervolume"] > 0
    baseline = document["float"]["accuracy"]
    assert document["objectives"][0]["reference"] == pytest.approx(baseline - 0.1)
    assert document["trials"]
    for trial in document["trials"]:
        assert set(trial) >= {"number", "values", "test", "policy", "mlflow_run_id"}
        assert set(trial["values"]) == {"accuracy", "latency_s"}
        assert set(trial["test"]) == {"accuracy"}
        assert trial["mlflow_run_id"]
        assert set(trial["policy"]) == {"0", "2", "5"}
        assert all(bits["weight"] in (2, 4, 8) and bits["activation"] in (2, 4, 8) for bits in trial["policy"].values())
    values = [(t["values"]["accuracy"], -t["values"]["latency_s"]) for t in document["trials"]]
    assert not any(a != b and a[0] <= b[0] and a[1] <= b[1] for a in values for b in values)


def test_pareto_csv(command: Command, finished_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("pareto", "--csv", "--home", finished_home) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows
    assert {"number", "accuracy", "latency_s", "test_accuracy", "mean_weight_bits", "5.weight"} <= set(rows[0])


def test_pareto_table(command: Command, finished_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("pareto", "--home", finished_home) == 0
    shown = capsys.readouterr().out
    assert "Pareto policies of 6 trials" in shown
    assert "float model: accuracy" in shown


@pytest.mark.parametrize(
    ("verb", "names"),
    [
        ("targets", {"mpic", "bismo-edge", "bismo-cloud", "bitfusion"}),
        ("tasks", {"digits", "digits-resnet20", "text"}),
        ("strategies", {"mobo", "nsga2", "tpe", "random", "sensitivity", "sobol"}),
    ],
)
def test_lists(verb: str, names: set[str], command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(verb, "--json") == 0
    assert names <= {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert command(verb) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


def test_doctor(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", "--json", "--home", tmp_path / "new") == 0
    findings = {row["what"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert findings["torch"] == findings["ray"] == findings["home"] == "ok"
    (tmp_path / "file").write_text("in the way")
    assert command("doctor", "--json", "--home", tmp_path / "file") == 1
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["home"]["state"] == "missing"
    assert "cannot write to" in rows["home"]["detail"]


def test_dry_run_shows_the_space_and_trains_nothing(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("search", "--task", toy, "--dry-run", "--json", "--home", tmp_path / "h") == 0
    document = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in document["layers"]] == ["0", "2", "5"]
    assert document["macs"] == 8 * 16 * 9 + 8 * 16 * 9 + 1280
    assert document["weights"] == 72 + 72 + 1280
    assert document["policies"] == 3**6
    corners = {corner["policy"]: corner["costs"]["latency_s"] for corner in document["corners"]}
    assert corners["highest"] == pytest.approx(document["macs"] / 2.1 / 250e6)
    assert corners["lowest"] == pytest.approx(document["macs"] / 6.5 / 250e6)
    assert not (tmp_path / "h").exists()
    assert command("search", "--task", toy, "--dry-run") == 0
    assert "legal policies in 6 variables" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["front.png", "front.html"])
def test_plot(
    name: str, command: Command, finished_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("plot", "toy", "--out", tmp_path / name, "--home", finished_home) == 0
    content = (tmp_path / name).read_bytes()
    assert (b"\x89PNG" if name.endswith("png") else b"<html>") in content[:200]
    assert capsys.readouterr().out.strip() == str(tmp_path / name)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "digit"], "unknown task 'digit'; known: digits, digits-resnet20, text. Did you mean 'digits'?"),
        (["--target", "mpik"], "unknown target 'mpik'; known: "),
        (
            ["--strategy", "mob"],
            f"unknown strategy 'mob'; known: {', '.join(strategy_names())}. Did you mean 'mobo'?",
        ),
        (["--recipe", "qta"], "unknown recipe 'qta'; known: kmeans, multipoint, ptq, qat. Did you mean 'qat'?"),
        (["--objectives", "latency,power"], "unknown cost 'power'; known: bops, energy, latency, size."),
        (["--pin", "conv9=8/8"], "unknown layer 'conv9'; known: 0, 2, 5."),
        (["--tie", "0,9"], "unknown layer '9'"),
        (["--weight-bits", "2,3"], "target 'mpic' does not support 3 weight bits; it supports 2, 4, 8"),
        (["--activation-bits", "16"], "target 'mpic' does not support 16 activation bits"),
        (["--weight-bits", "two"], "--weight-bits is 'two': input should be a valid integer"),
        (["--target", "bismo-edge", "--weight-bits", "1,8"], "1 bits are not supported; expected 2 to 8"),
        (["--pin", "0=3/3"], "layer '0' is pinned to 3/3 bits, which target 'mpic' does not support"),
        (["--trials", "0"], "--trials is '0': input should be greater than or equal to 1"),
        (["--trials", "-5"], "--trials is '-5': input should be greater than or equal to 1"),
        (["--trials", "many"], "--trials is 'many': input should be a valid integer"),
        (["--bugdet", "latency_ms<=1"], "No such option: --bugdet"),
        (["--runner", "thread"], "runner is 'thread'; expected ray or serial"),
        (["--worst-quality", "nan"], "objective 'accuracy' has reference nan"),
        (["--concurrency", "0"], "--concurrency is '0': input should be greater than or equal to 1"),
        (["--epochs", "inf"], "recipe 'qat' has epochs inf; expected 0 or more"),
        (["--runner", "serial", "--gpus-per-trial", "1"], "--gpus-per-trial asks for a GPU, and torch finds none here"),
        (["nowhere.toml"], "cannot read the study file nowhere.toml: No such file or directory"),
    ],
)
def test_search_refuses(arguments: list[str], message: str, fails: Fails, toy: str, tmp_path: Path) -> None:
    given = arguments if "--task" in arguments else ["--task", toy, *arguments]
    assert message in fails("search", *given, "--home", tmp_path / "home")
    assert not list((tmp_path / "home").rglob("*.jsonl")) or not list(Home(tmp_path / "home").studies())


def test_an_impossible_budget_names_the_cheapest_value(fails: Fails, toy: str, tmp_path: Path) -> None:
    sentence = fails("search", "--task", toy, "--budget", "latency_us<=1", "--home", tmp_path / "home")
    cheapest = (8 * 16 * 9 * 2 + 1280) / 6.5 / 250e6
    assert "budget 'latency_us' of 1 is impossible" in sentence
    assert f"the cheapest legal policy costs {1e6 * cheapest:.6g}" in sentence


def test_an_energy_objective_on_a_target_without_energy(fails: Fails, toy: str, tmp_path: Path) -> None:
    arguments = ["--target", "bismo-edge", "--objectives", "energy", "--home", tmp_path]
    assert "target 'bismo-edge' has no energy model" in fails("search", "--task", toy, *arguments)


def test_an_existing_study_says_resume(fails: Fails, toy: str, home: Path) -> None:
    before = (home / "studies" / "toy" / "journal.jsonl").read_bytes()
    sentence = fails("search", "--task", toy, "--name", "toy", "--home", home)
    assert "study 'toy' exists already, with 6 of 6 trials; go on with 'mobo-mpq resume toy'" in sentence
    assert (home / "studies" / "toy" / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("verb", ["pareto", "resume", "plot", "ui"])
def test_unknown_studies(verb: str, fails: Fails, finished_home: Path, tmp_path: Path) -> None:
    assert "unknown study 'tpy'; known: toy. Did you mean 'toy'?" in fails(verb, "tpy", "--home", finished_home)
    assert "there is no study in" in fails(verb, "--home", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--trial", "bets"],
            "unknown trial 'bets'; known: accurate, best, fastest, knee, smallest. Did you mean 'best'?",
        ),
        (["--trial", "77"], "unknown trial '77'; known: 0 to 5."),
        (["--format", "onx"], "unknown format 'onx'; known: onnx, policy. Did you mean 'onnx'?"),
        (["--study", "none"], "unknown study 'none'; known: toy."),
        (["--max-drop", "nan"], "--max-drop is nan; expected a number of 0 or more"),
        (["--max-drop", "-5"], "--max-drop is -5.0; expected a number of 0 or more"),
    ],
)
def test_export_refuses(arguments: list[str], message: str, fails: Fails, finished_home: Path) -> None:
    assert message in fails("export", *arguments, "--home", finished_home)


def test_pareto_takes_one_format(fails: Fails, finished_home: Path) -> None:
    assert "--json and --csv exclude each other" in fails("pareto", "--json", "--csv", "--home", finished_home)


def test_plot_takes_two_endings(fails: Fails, finished_home: Path) -> None:
    sentence = fails("plot", "--out", "front.jpg", "--home", finished_home)
    assert sentence == "cannot plot to 'front.jpg'; expected a name that ends in .png or .html"


def test_a_home_that_is_not_writable(fails: Fails, toy: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sentence = fails("search", "--task", toy, "--home", tmp_path / "file")
    assert "cannot write to" in sentence
    assert "--home" in sentence


def test_a_broken_journal(fails: Fails, home: Path) -> None:
    journal = home / "studies" / "toy" / "journal.jsonl"
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], b"{broken", *lines[1:]]) + b"\n")
    for verb in ("pareto", "resume"):
        assert "line 2 of" in fails(verb, "toy", "--home", home)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"trials":6,', ""), ('"accuracy":[', '"precision":['), ('{"event":"test","number"', '{"event":"test","no"')],
)
def test_a_journal_that_lacks_something(old: str, new: str, fails: Fails, home: Path) -> None:
    journal = home / "studies" / "toy" / "journal.jsonl"
    text = journal.read_text()
    assert old in text
    journal.write_text(text.replace(old, new))
    assert "restore the file from a copy" in fails("pareto", "toy", "--home", home)


def test_a_folder_in_the_journals_place(command: Command, fails: Fails, home: Path) -> None:
    (home / "studies" / "other" / "journal.jsonl").mkdir(parents=True)
    assert command("pareto", "toy", "--json", "--home", home) == 0


def test_a_torn_journal_goes_on(command: Command, home: Path) -> None:
    journal = home / "studies" / "toy" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"event":"trial","number":6,"sta')
    assert command("resume", "toy", "--trials", 7, "--runner", "serial", "--home", home) == 0
    trials = read_trials(journal)
    assert sorted(trial.number for trial in trials) == list(range(7))
    assert all(trial.is_final for trial in trials)


def test_fewer_trials_than_there_are(fails: Fails, home: Path) -> None:
    assert "study 'toy' has 6 trials already; --trials 3 would take some away" in fails(
        "resume", "toy", "--trials", 3, "--home", home
    )


def test_an_unreachable_cluster(fails: Fails, toy: str, tmp_path: Path) -> None:
    sentence = fails("search", "--task", toy, "--recipe", "ptq", "--address", "ray://127.0.0.1:9", "--home", tmp_path)
    assert "cannot reach a Ray cluster at 'ray://127.0.0.1:9'" in sentence
    assert not list(Home(tmp_path).studies()), "the name is still free"


def test_the_ui_of_a_server_that_is_away(fails: Fails, finished_home: Path) -> None:
    sentence = fails("ui", "toy", "--tracking-uri", "http://127.0.0.1:9", "--home", finished_home)
    assert sentence.startswith("MLflow at http://127.0.0.1:9 cannot be reached")


def test_default_bits_are_those_that_the_target_has(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(mobo_mpq.__file__).parent.parent / "objectives" / "targets" / "bismo-edge.toml"
    board = tmp_path / "board.toml"
    board.write_text(source.read_text().replace("[1, 2, 3, 4, 5, 6, 7, 8]", "[5, 6, 8]"))
    assert command("search", "--task", toy, "--target", board, "--dry-run", "--json") == 0
    bits = json.loads(capsys.readouterr().out)["layers"][0]["bits"]
    assert bits == [[8, 8]]


def test_a_study_file_and_flags_over_it(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f'task = "{toy}"\nrecipe = "ptq"\nstrategy = "sobol"\ntrials = 9\nconcurrency = 1\n')
    arguments = ["--trials", 2, "--name", "filed", "--runner", "serial", "--json", "--home", tmp_path]
    assert command("search", file, *arguments) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "filed"
    assert len(read_trials(tmp_path / "studies" / "filed" / "journal.jsonl")) == 2


def test_resume_takes_whole_numbers(fails: Fails, finished_home: Path) -> None:
    for flag in ("--trials", "--concurrency"):
        for text in ("two", "²", "0", "-1"):
            sentence = fails("resume", "toy", flag, text, "--home", finished_home)
            assert sentence == f"{flag} is '{text}'; expected a whole number of at least 1"


def test_unknown_recipe_options_are_refused_before_anything_is_trained(fails: Fails, toy: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f'task = "{toy}"\n[recipe_options]\nlearning_rate = 0.1\n')
    sentence = fails("search", file, "--home", tmp_path / "home")
    assert "unknown option of recipe 'qat' 'learning_rate'" in sentence


def test_a_file_name_with_a_space_gives_a_plain_study_name(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my task.py"
    file.write_text(Path(toy.rpartition(":")[0]).read_text())
    assert command("search", "--task", f"{file}:Toy", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["study"] == "my-task-Toy-mpic"


def test_no_command_shows_the_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command()
    captured = capsys.readouterr()
    assert "search" in captured.out + captured.err
