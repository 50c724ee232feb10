"""Comparisons from the command line: fresh, finished, interrupted, extended, and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mobo_mpq.front import hypervolume_share
from mobo_mpq.journal import read_events, read_trials
from mobo_mpq.workflows import comparing, preparation
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.record import StudyRecord

Fails = Callable[..., str]
Command = Callable[..., int]
NAMES = ["c-sensitivity-0", "c-random-0", "c-sensitivity-1", "c-random-1"]


def arguments(task: str, home: Path, *more: object) -> list[object]:
    """Two strategies, two seeds, four trials each."""
    common = ["compare", "--task", task, "--recipe", "ptq", "--strategies", "sensitivity,random", "--seeds", 2]
    return [*common, "--trials", 4, "--runner", "serial", "--name", "c", "--home", home, *more]


@pytest.fixture(scope="session")
def compared_home(command: Command, toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home with a finished comparison: read it only."""
    home = tmp_path_factory.mktemp("compared")
    assert command(*arguments(toy, home)) == 0
    return home


@pytest.fixture
def home(compared_home: Path, tmp_path: Path) -> Path:
    """A copy of that home, to change."""
    shutil.copytree(compared_home, tmp_path / "home")
    return tmp_path / "home"


def journals(home: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in (home / "studies").glob("*/journal.jsonl")}


def without_times(home: Path, name: str) -> list[Any]:
    trials = read_trials(Home.of(home).study(name).journal)
    return [(t.number, t.state, t.policy, t.origin, t.seed, t.values) for t in trials]


def fail(*_: object, **__: object) -> NoReturn:
    raise AssertionError("there was nothing to do")


def test_each_member_is_an_ordinary_study(compared_home: Path, command: Command, toy: str, tmp_path: Path) -> None:
    assert set(journals(compared_home)) == set(NAMES)
    common = ["--task", toy, "--recipe", "ptq", "--trials", 4, "--runner", "serial", "--home", tmp_path]
    assert command("search", *common, "--strategy", "sensitivity", "--seed", 1, "--name", "alone") == 0
    assert without_times(tmp_path, "alone") == without_times(compared_home, "c-sensitivity-1")
    assert command("pareto", "c-random-1", "--home", compared_home) == 0
    record = StudyRecord.read(Home.of(compared_home).study("c-random-1"))
    assert record.is_tested
    assert len(next(iter(record.runs.values()))) == 6  # the parent, four trials, and that it is closed


def test_the_document(compared_home: Path, command: Command, toy: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command(*arguments(toy, compared_home, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["comparison"], document["seeds"]) == (1, "c", [0, 1])
    assert [entry["strategy"] for entry in document["strategies"]] == ["sensitivity", "random"]
    for entry in document["strategies"]:
        assert [row["trials"] for row in entry["hypervolume_share"]] == [1, 2, 4]
        ends = []
        for study in entry["studies"]:
            record = StudyRecord.read(Home.of(compared_home).study(study["study"]))
            shown = hypervolume_share(record.infos, record.finished, record.float_values["accuracy"].value)
            assert study["hypervolume_share"][-1] == pytest.approx(shown, rel=1e-12)
            assert study["hypervolume_share"] == sorted(study["hypervolume_share"])
            sensitivity = record.header.get("sensitivity", {}).get("cpu_s", 0.0)
            assert (sensitivity > 0) == (entry["strategy"] == "sensitivity")
            lines = [event for event in read_events(record.folder.journal) if event.get("state") == "complete"]
            spent = sum(line["cpu_s"] + line["proposal_cpu_s"] for line in lines)
            assert study["cpu_s"][-1] == pytest.approx(sensitivity + spent)
            assert all(0 < line["cpu_s"] <= line["seconds"] + 0.02 for line in lines)
            ends.append(shown)
        assert entry["hypervolume_share"][-1] == {
            "trials": 4, "median": pytest.approx(sum(ends) / 2), "lowest": pytest.approx(min(ends))
        }  # fmt: skip
        assert entry["test_hypervolume_share"]["lowest"] > 0
    first, second = document["strategies"]
    assert first["sensitivity"]["evaluations"] > 0
    assert second["sensitivity"] is None


def test_a_second_call_only_shows(
    home: Path, command: Command, toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = journals(home)
    for name in ("begin", "resume", "prepare", "ray_session"):
        monkeypatch.setattr(comparing, name, fail)
    capsys.readouterr()
    assert command(*arguments(toy, home, "--out", home / "c.png", "--runner", "ray")) == 0
    captured = capsys.readouterr()
    assert "c: 4 trials of recipe 'ptq' for each strategy, 2 seeds" in captured.out
    assert captured.err.startswith("drawn to ")
    assert (home / "c.png").exists()
    assert command(*arguments(toy, home, "--trials", 2)) == 0  # the first trials of larger studies
    assert "after 2 trials" in capsys.readouterr().out
    assert journals(home) == before


def test_what_is_missing_or_unfinished_is_run_and_nothing_else(
    home: Path, command: Command, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: without_times(home, name) for name in NAMES}
    before = journals(home)
    shutil.rmtree(home / "studies" / "c-random-0")
    journal = Home.of(home).study("c-random-1").journal
    lines = journal.read_bytes().splitlines(keepends=True)
    third = next(index for index, line in enumerate(lines) if b'"number":2' in line)
    journal.write_bytes(b"".join(lines[: third + 1]))  # killed while the third trial ran
    monkeypatch.setattr(preparation, "_baseline", fail)  # the float model is known
    assert command(*arguments(toy, home)) == 0
    assert {name: without_times(home, name) for name in NAMES} == whole
    after = journals(home)
    assert [name for name in NAMES if after[name] != before[name]] == ["c-random-0", "c-random-1"]


def test_the_float_model_is_measured_once(
    command: Command, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    measure = preparation._baseline

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(preparation, "_baseline", counted)
    common = arguments(toy, tmp_path, "--trials", 1)
    assert command(*common, "--strategies", "random") == 0
    assert command(*common, "--strategies", "random,sobol", "--seeds", 3) == 0  # one strategy is enough; more may join
    assert len(calls) == 1
    assert len(journals(tmp_path)) == 6


def test_an_interrupt_says_how_to_go_on(
    fails: Fails, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "begin", interrupt)
    assert fails(*arguments(toy, tmp_path), code=130) == "interrupted; go on with the same command"


def test_a_used_up_space_is_said_and_not_tried_again(
    command: Command, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = ["--pin", "0=8/8", "--pin", "2=8/8", "--strategies", "random", "--seeds", 1]
    assert command(*arguments(toy, tmp_path, "--trials", 12, *pins)) == 0
    assert "random had nothing more to propose after 9 trials" in capsys.readouterr().out
    monkeypatch.setattr(comparing, "resume", fail)
    assert command(*arguments(toy, tmp_path, "--trials", 12, *pins)) == 0


def test_a_study_file_is_shared(command: Command, toy: str, tmp_path: Path, compared_home: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f'task = "{toy}"\nrecipe = "ptq"\nname = "c"\nseed = 1\ntrials = 4\nstrategy = "sobol"\n')
    rest = ["--strategies", "random", "--seeds", 1, "--runner", "serial", "--home", compared_home]
    assert command("compare", file, *rest) == 0
    assert set(journals(compared_home)) == set(NAMES)  # seed 1 was there


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--strategies", "mobo,annealing"], "unknown strategy 'annealing'; known: "),
        (["--strategies", " , "], "--strategies is ' , '; expected one name or more, each once"),
        (["--strategies", "random,random"], "--strategies is 'random,random'; expected one name or more, each once"),
        (["--seeds", "0"], "--seeds is '0'; expected a whole number of at least 1"),
        (["--seeds", "two"], "--seeds is 'two'; expected a whole number of at least 1"),
        (["--trials", "0"], "--trials is '0'"),
        (["--runner", "fast"], "runner is 'fast'; expected ray or serial"),
        (["--out", "c.pdf"], "cannot plot to 'c.pdf'; expected a name that ends in .png or .html"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    more: list[str], sentence: str, fails: Fails, toy: str, tmp_path: Path
) -> None:
    assert fails(*arguments(toy, tmp_path / "home", *more)).startswith(sentence)
    assert not (tmp_path / "home").exists()


def test_studies_with_other_settings_are_refused(fails: Fails, toy: str, compared_home: Path) -> None:
    before = journals(compared_home)
    sentence = fails(*arguments(toy, compared_home, "--recipe", "qat"))
    assert sentence == (
        "study 'c-sensitivity-0' exists already and has recipe 'ptq', where this comparison has 'qat'; choose another "
        "--name, or the same settings"
    )
    assert "has budget ()" in fails(*arguments(toy, compared_home, "--budget", "latency_us<=5"))
    assert journals(compared_home) == before


def test_another_model_is_refused(fails: Fails, command: Command, toy: str, tmp_path: Path) -> None:
    source = Path(toy.removesuffix(":Toy")).read_text()
    task, home = tmp_path / "mine.py", tmp_path / "home"
    task.write_text(source)
    common = arguments(f"{task}:Toy", home, "--trials", 2, "--seeds", 1)
    assert command(*common, "--strategies", "random") == 0
    task.write_text(source.replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    sentence = fails(*common, "--strategies", "random,sobol")
    assert "has other weights than when study 'c-random-0' began" in sentence
    folder = Home.of(home)
    shutil.copytree(folder.study("c-random-0").path, folder.study("c-sobol-0").path)
    study = folder.study("c-sobol-0")
    text = study.config_file.read_text().replace("c-random-0", "c-sobol-0").replace('"random"', '"sobol"')
    study.config_file.write_text(text)
    digest = StudyRecord.read(study).header["model_digest"]
    study.journal.write_text(study.journal.read_text().replace(digest, "0" * len(digest)))
    sentence = fails(*common, "--strategies", "random,sobol")
    assert sentence.startswith("studies 'c-random-0' and 'c-sobol-0' cannot be compared: their model differ")


@pytest.mark.slow
def test_by_ray(command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = arguments(toy, tmp_path, "--trials", 2, "--strategies", "random", "--runner", "ray", "--concurrency", 1)
    capsys.readouterr()
    assert command(*common, "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["strategies"]
    assert all(len(study["cpu_s"]) == 2 for study in entry["studies"])
    assert 0 < entry["cpu_s"]["evaluations"] < 60
