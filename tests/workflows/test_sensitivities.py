"""Sensitivities of a search: measured once, kept, and part of the study from its first line on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mobo_mpq.errors import InputError, JournalError
from mobo_mpq.graph import Network
from mobo_mpq.journal import read_events
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.tasks import LoadedTask, load_task
from mobo_mpq.sensitivity import Provenance, SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.study import Study
from mobo_mpq.training.recipes import default_recipe
from mobo_mpq.workflows import search as search_module
from mobo_mpq.workflows import sensitivities as module
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.sensitivities import Sensitivities, find_sensitivities

Command = Callable[..., int]
Parts = tuple[Network, SearchSpace, LoadedTask]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("MOBO_MPQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def parts(toy: str) -> Parts:
    task = load_task(toy)
    network = Network.from_model(task.model(), task.example)
    return network, SearchSpace.from_layers(network.layers, load_target("mpic"), activation_bits=(4, 8)), task


@pytest.fixture
def said() -> list[str]:
    return []


KIND = ("perturbation", default_recipe("ptq"))


def kept(cache: Path) -> Path:
    (file,) = cache.glob("*")
    assert file.name.startswith("sensitivity-") and file.suffix == ".json"
    return file


def test_measured_once(parts: Parts, cache: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_sensitivities(*parts, said.append, *KIND)
    assert first is not None and not first.cached
    assert said[-1].startswith(f"sensitivities measured: {first.table.evaluations} passes over some training samples,")
    monkeypatch.setattr(module, "measure", None)  # would fail
    second = find_sensitivities(*parts, said.append, *KIND)
    assert second is not None and second.cached
    assert second.table.to_dict() == first.table.to_dict()
    assert said[-1].startswith("sensitivities from the cache, where they had cost 13 passes")
    assert SensitivityTable.from_dict(json.loads(kept(cache).read_text())).to_dict() == first.table.to_dict()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"data": "', '"data": "0'),  # of other data, under this name
        lambda text: text.replace('"values": [[', '"values": [[NaN, '),
    ],
    ids=["torn", "something else", "another schema", "stale", "not finite"],
)
def test_a_file_that_is_broken_or_stale_is_measured_again(
    parts: Parts, cache: Path, said: list[str], damage: Callable[[str], str]
) -> None:
    first = find_sensitivities(*parts, said.append, *KIND)
    whole = kept(cache).read_text()
    assert damage(whole) != whole
    kept(cache).write_text(damage(whole))
    again = find_sensitivities(*parts, said.append, *KIND)
    assert first is not None and again is not None and not again.cached
    assert np.array_equal(again.table.values, first.table.values), "one thread, the same samples: bit for bit"
    assert again.table.provenance == first.table.provenance
    assert json.loads(kept(cache).read_text())["values"] == first.table.values.tolist(), "mended"


def test_other_spaces_have_tables_of_their_own(parts: Parts, cache: Path, said: list[str]) -> None:
    network, space, task = parts
    find_sensitivities(network, space, task, said.append, *KIND)
    other = SearchSpace.from_layers(network.layers, load_target("mpic"), activation_bits=(8,))
    found = find_sensitivities(network, other, task, said.append, *KIND)
    assert found is not None and not found.cached
    assert len(list(cache.glob("*.json"))) == 2


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(
    parts: Parts, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOBO_MPQ_CACHE", str(tmp_path / "file"))
    assert find_sensitivities(*parts, said.append, *KIND) is not None
    assert said[-1].startswith(f"the sensitivities are not kept for other studies: cannot write to {tmp_path / 'file'}")


def test_outputs_that_cannot_be_compared(
    parts: Parts, cache: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise InputError("they hold NaN")

    monkeypatch.setattr(module, "measure", fail)
    assert find_sensitivities(*parts, said.append, *KIND) is None
    assert said == ["searching without sensitivities: they hold NaN"]
    assert not cache.exists()


def test_a_table_of_another_space_is_refused(parts: Parts, said: list[str]) -> None:
    found = find_sensitivities(*parts, said.append, *KIND)
    assert found is not None
    again = Sensitivities.from_dict(found.to_dict(), parts[1])
    assert (again.cached, again.table.to_dict()) == (False, found.table.to_dict())
    other = SearchSpace.product(["a"], (2, 8), (8,))
    with pytest.raises(InputError, match=r"has shape \(3, 6\); expected \(1, 2\), layers x options: restore"):
        Sensitivities.from_dict(found.to_dict(), other)


# --- in a study -------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """Studies that ask for their first trial, and leave it at that."""
    studies: list[Study] = []

    def collect(*arguments: Any) -> SimpleNamespace:
        study = next(one for one in arguments if isinstance(one, Study))
        studies.append(study)
        return SimpleNamespace(go=lambda: study.ask(1))

    monkeypatch.setattr(search_module, "StudyRun", collect)
    return studies


def rewrite(journal: Path, header: dict[str, Any]) -> None:
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")


def test_a_study_is_taken_up_with_the_table_it_began_with(
    toy: str, tmp_path: Path, cache: Path, begun: list[Study], capsys: pytest.CaptureFixture[str]
) -> None:
    search_module.search(task=toy, name="s", recipe="ptq", home=tmp_path)
    journal = tmp_path / "studies" / "s" / "journal.jsonl"
    header = read_events(journal)[0]
    measured = begun[0].problem.sensitivity
    assert measured is not None
    assert header["sensitivity"]["values"] == measured.tolist()
    assert header["sensitivity"]["cached"] is False
    assert "sensitivities measured: 16 passes" in capsys.readouterr().err
    # the cache is gone, and the journal says something else than would be measured
    kept(cache).unlink()
    header["sensitivity"]["values"][0][0] += 1.0
    rewrite(journal, header)
    search_module.resume("s", home=tmp_path)
    again = begun[1].problem.sensitivity
    assert again is not None
    assert again.tolist() == header["sensitivity"]["values"]
    # a journal from before there were sensitivities
    del header["sensitivity"]
    rewrite(journal, header)
    search_module.resume("s", home=tmp_path)
    assert begun[2].problem.sensitivity is None
    assert "sensitivities" not in capsys.readouterr().err, "nothing was measured"
    assert list(cache.glob("*")) == []


@pytest.mark.parametrize("settings", [{"sensitivity": False}, {"strategy": "random"}])
def test_nothing_is_measured_in_vain(
    toy: str, tmp_path: Path, cache: Path, begun: list[Study], settings: dict[str, Any]
) -> None:
    search_module.search(task=toy, name="s", home=tmp_path, **settings)
    header = read_events(tmp_path / "studies" / "s" / "journal.jsonl")[0]
    assert "sensitivity" not in header
    assert begun[0].problem.sensitivity is None
    assert not cache.exists()


def test_their_own_front_is_a_strategy(toy: str, command: Command, tmp_path: Path) -> None:
    arguments = ["search", "--task", toy, "--name", "s", "--home", tmp_path, "--runner", "serial"]
    assert command(*arguments, "--strategy", "sensitivity", "--recipe", "ptq", "--trials", 5) == 0
    record = StudyRecord.read(Home.of(tmp_path).existing("s"))
    assert [trial.origin for trial in record.finished] == ["highest", *["sensitivity"] * 4]
    assert record.sensitivity is not None
    assert command("resume", "s", "--home", tmp_path, "--runner", "serial", "--trials", 7) == 0
    record = StudyRecord.read(Home.of(tmp_path).existing("s"))
    assert [trial.number for trial in record.finished] == list(range(7))
    assert len({trial.policy for trial in record.finished}) == 7


def test_a_strategy_that_lives_on_them_refuses_to_go_without(
    toy: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["search", "--task", toy, "--name", "s", "--home", tmp_path, "--strategy", "sensitivity"]
    needs = "strategy 'sensitivity' needs sensitivities and this problem has none; leave out --no-sensitivity, or give "
    assert command(*arguments, "--no-sensitivity") == 2
    assert needs in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(search_module, "find_sensitivities", lambda *_: None)  # outputs that cannot be compared
    assert command(*arguments) == 2
    assert needs in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "studies" / "s").exists()  # so that the name is still free


def test_the_flag(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    given: list[object] = []

    def note(**settings: Any) -> None:
        given.append(settings.get("sensitivity"))
        raise InputError("enough")

    monkeypatch.setattr(search_module, "search", note)
    for flag in ([], ["--sensitivity"], ["--no-sensitivity"]):
        assert command("search", "--home", tmp_path, *flag) == 2
    assert given == [None, True, False]


def test_a_dry_run_measures_nothing(command: Command, toy: str, cache: Path) -> None:
    assert command("search", "--task", toy, "--dry-run") == 0
    assert not cache.exists()


@pytest.mark.parametrize("cached", [True, False])
def test_what_they_cost_in_trials(
    command: Command, home: Path, capsys: pytest.CaptureFixture[str], cached: bool
) -> None:
    journal = home / "studies" / "toy" / "journal.jsonl"
    header = read_events(journal)[0]
    assert StudyRecord.read(Home.of(home).existing("toy")).sensitivity is None
    table = SensitivityTable(np.zeros((3, 9)), "perturbation", "nat", Provenance("m", "d", "o"), 15, cpu_s=0.5)
    rewrite(journal, header | {"sensitivity": Sensitivities(table, cached).to_dict()})
    record = StudyRecord.read(Home.of(home).existing("toy"))
    equivalents = 0.5 / np.mean([trial.seconds for trial in record.finished if trial.seconds])
    assert command("pareto", "toy", "--home", home, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sensitivity"] == {
        "evaluations": 15,
        "cpu_s": 0.5,
        "cached": cached,
        "evaluation_equivalents": pytest.approx(equivalents),
    }
    assert command("pareto", "toy", "--home", home) == 0
    shown = f"sensitivities: 0.50 s CPU, as much as {equivalents:.2g} trials" + (" (cached)" if cached else "")
    assert shown in [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_before_the_first_trial_they_have_no_price_in_trials(home: Path) -> None:
    journal = home / "studies" / "toy" / "journal.jsonl"
    costs = {"evaluations": 15, "cpu_s": 0.5, "cached": False}
    header, first, *_ = read_events(journal)
    assert first["state"] == "running"
    journal.write_text(f"{json.dumps(header | {'sensitivity': costs})}\n{json.dumps(first)}\n")
    shown = StudyRecord.read(Home.of(home).existing("toy")).sensitivity
    assert shown == {**costs, "evaluation_equivalents": None}


def test_a_broken_table_in_a_journal(home: Path) -> None:
    journal = home / "studies" / "toy" / "journal.jsonl"
    rewrite(journal, read_events(journal)[0] | {"sensitivity": {"values": []}})
    with pytest.raises(JournalError, match="cannot be read .KeyError: 'cpu_s'.; restore the file from a copy"):
        StudyRecord.read(Home.of(home).existing("toy"))


def test_the_engine_runs_with_them(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", toy, "--name", "s", "--recipe", "ptq", "--trials", 3, "--runner", "serial"]
    assert command("search", *arguments, "--home", tmp_path, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["sensitivity"]["evaluations"] == 16
    assert captured.err.index("sensitivities measured") < captured.err.index("trial   0")
