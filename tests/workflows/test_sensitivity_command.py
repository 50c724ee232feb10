"""``mobo-mpq sensitivity``, and the kinds of sensitivity in a search."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobo_mpq.journal import read_events
from mobo_mpq.sensitivity import about_kind, kind_names
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.record import StudyRecord

Command = Callable[..., int]
Fails = Callable[..., str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("MOBO_MPQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_kinds() -> None:
    assert kind_names() == ("perturbation", "sqnr", "hessian", "fisher", "orthogonality")
    assert all("\n" not in about_kind(name) for name in kind_names())


@pytest.mark.parametrize("kind", kind_names())
def test_each_kind_is_printed_and_kept(
    command: Command, toy: str, cache: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    arguments = ["sensitivity", "--task", toy, "--kind", kind, "--activation-bits", "4,8"]
    assert command(*arguments, "--json") == 0
    first = capsys.readouterr()
    document = json.loads(first.out)
    assert (document["method"], document["layers"], document["target"]) == (kind, ["0", "2", "5"], "mpic")
    assert document["options"][0] == {"weight": 2, "activation": 4}
    values = np.array(document["values"])
    assert values.shape == (3, 6)
    assert (values[:, -1] == 0.0).all()
    assert (values[:, 0] > 0.0).any()
    assert "sensitivities measured: " in first.err
    assert command(*arguments) == 0
    again = capsys.readouterr()
    assert "from the cache" in again.err
    assert f"{kind} sensitivity" in again.out
    assert "W2/A4" in again.out
    assert len(list(cache.glob("sensitivity-*.json"))) == 1


def test_files(command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sensitivity", "--task", toy, "--pin", "5=8/8"]
    for name in ("s.json", "s.csv", "s.png"):
        assert command(*arguments, "--out", tmp_path / name) == 0
        assert f"written to {tmp_path / name}" in capsys.readouterr().err.replace("\n", "")
    document = json.loads((tmp_path / "s.json").read_text())
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert len(rows) == 9 + 9 + 1, "the pinned layer has one option"
    for row in rows:
        column = document["options"].index({"weight": int(row["weight"]), "activation": int(row["activation"])})
        assert float(row["sensitivity"]) == document["values"][document["layers"].index(row["layer"])][column]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert command(*arguments) == 0
    shown = capsys.readouterr().out
    (pinned,) = (line for line in shown.splitlines() if line.startswith("│ 5 "))
    assert pinned.count(" - ") == 8


def test_a_stale_cache_is_never_used(
    command: Command, toy: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sensitivity", "--task", toy, "--kind", "fisher", "--json"]
    assert command(*arguments) == 0
    first = json.loads(capsys.readouterr().out)
    (file,) = cache.glob("sensitivity-*.json")
    kept = json.loads(file.read_text())
    for part in ("model", "data", "options"):
        file.write_text(json.dumps({**kept, "provenance": {**kept["provenance"], part: "0"}, "values": [[9.0]]}))
        assert command(*arguments) == 0
        captured = capsys.readouterr()
        assert "sensitivities measured" in captured.err
        assert json.loads(captured.out)["values"] == first["values"]


def test_bad_input(fails: Fails, toy: str, tmp_path: Path) -> None:
    assert fails("sensitivity", "--task", toy, "--kind", "hesian") == (
        "unknown kind of sensitivity 'hesian'; known: fisher, hessian, orthogonality, perturbation, sqnr. "
        "Did you mean 'hessian'?"
    )
    assert fails("search", "--task", toy, "--sensitivity-kind", "x").startswith(
        "unknown kind of sensitivity 'x'; known"
    )
    assert "--out is 's.txt'; expected a name that ends in .json, .csv, .png" in fails(
        "sensitivity", "--task", toy, "--out", "s.txt"
    )
    assert "cannot write" in fails("sensitivity", "--task", toy, "--out", tmp_path / "none" / "s.csv")
    assert "Run 'mobo-mpq search --dry-run' to list them." in fails("sensitivity", "--task", toy, "--pin", "x=8/8")


def test_what_cannot_be_measured_ends_in_one_sentence(fails: Fails, toy: str, tmp_path: Path) -> None:
    source = Path(toy.rpartition(":")[0]).read_text()
    broken = tmp_path / "broken.py"
    broken.write_text(source + "\n    def loss(self, output, target):\n        return float(output.detach().sum())\n")
    assert "the loss of a batch is float; expected a tensor with one number: mend the task's 'loss'" in fails(
        "sensitivity", "--task", f"{broken}:Toy", "--kind", "fisher"
    )


# --- in a search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (["--strategy", "hawq"], "hessian"),
        (["--strategy", "ompq"], "orthogonality"),
        (["--strategy", "hawq", "--sensitivity-kind", "perturbation"], "perturbation"),
        (["--strategy", "mobo"], "perturbation"),
        (["--strategy", "mobo", "--sensitivity-kind", "fisher"], "fisher"),
    ],
)
def test_a_strategy_gets_its_own_kind_or_the_one_asked_for(
    command: Command, toy: str, tmp_path: Path, flags: list[str], kind: str
) -> None:
    where = ["--home", tmp_path, "--runner", "serial"]
    assert command("search", "--task", toy, "--name", "s", "--recipe", "ptq", "--trials", 4, *flags, *where) == 0
    folder = Home.of(tmp_path).existing("s")
    assert read_events(folder.journal)[0]["sensitivity"]["method"] == kind
    record = StudyRecord.read(folder)
    assert len({trial.policy for trial in record.finished}) == 4
    assert command("resume", "s", "--trials", 6, *where) == 0
    assert len({trial.policy for trial in StudyRecord.read(folder).finished}) == 6


@pytest.mark.parametrize("strategy", ["hawq", "ompq"])
def test_a_strategy_that_lives_on_them_refuses_to_go_without(
    fails: Fails, toy: str, tmp_path: Path, strategy: str
) -> None:
    arguments = ["search", "--task", toy, "--name", "s", "--home", tmp_path, "--strategy", strategy, "--no-sensitivity"]
    assert f"strategy '{strategy}' needs sensitivities and this problem has none" in fails(*arguments)
    assert not (tmp_path / "studies" / "s").exists()
