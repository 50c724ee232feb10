"""`mobo-mpq export`: what is written is what was searched, and it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from mobo_mpq.export.policy_json import read_policy
from mobo_mpq.journal import read_events
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.workflows.home import StudyFolder
from mobo_mpq.workflows.record import StudyRecord

Command = Callable[..., int]


def record_of(home: Path) -> StudyRecord:
    return StudyRecord.read(StudyFolder(home / "studies" / "toy"))


def test_a_policy_file(
    command: Command, finished_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("export", "--trial", 1, "--format", "policy", "--out", out, "--home", finished_home) == 0
    assert capsys.readouterr().out.splitlines() == [str(out / "policy.json")]
    document = json.loads((out / "policy.json").read_text())
    record = record_of(finished_home)
    assert document["schema"] == 1
    assert document["target"] == "mpic"
    assert document["model_digest"] == record.header["model_digest"]
    assert read_policy(out / "policy.json").policy == record.trials[1].policy


@pytest.mark.parametrize("kept", [True, False, None], ids=["from its checkpoint", "made again", "torn"])
def test_onnx_runtime_predicts_what_was_measured(
    kept: bool | None, command: Command, home: Path, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(home)
    front = record.pareto()
    for file in (home / "studies" / "toy" / "checkpoints").iterdir():
        if kept is None:
            file.write_bytes(file.read_bytes()[:-100])
        elif not kept:
            file.unlink()
    assert command("export", "--trial", "accurate", "--out", tmp_path, "--home", home, "--json") == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["trial"] == front[0].number
    assert exported["agreement"] >= 0.995
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    task = load_task(toy)
    for split, expected in ((task.val, front[0].values), (task.test, record.tested[front[0].number])):
        assert split is not None
        right, total = 0, 0
        for x, y in split:
            (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            right, total = right + int((np.argmax(logits, 1) == y.numpy()).sum()), total + len(y)
        assert right / total == pytest.approx(expected["accuracy"].value, abs=0.005)


def test_the_default_folder_names_study_and_trial(
    command: Command, finished_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("export", "--trial", 0, "--format", "policy", "--home", finished_home) == 0
    assert (tmp_path / "toy-0" / "policy.json").exists()


def test_checkpoints_are_those_of_the_front(finished_home: Path) -> None:
    files = {int(path.stem) for path in (finished_home / "studies" / "toy" / "checkpoints").iterdir()}
    assert files == {trial.number for trial in record_of(finished_home).pareto()}


def test_a_folder_that_cannot_be_written(fails: Callable[..., str], finished_home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sentence = fails("export", "--trial", 0, "--out", tmp_path / "file", "--home", finished_home)
    assert "cannot write to" in sentence
    assert "--out" in sentence


def test_the_front_was_scored_once_on_the_test_split(finished_home: Path) -> None:
    events = read_events(finished_home / "studies" / "toy" / "journal.jsonl")
    tested = [event["number"] for event in events if event["event"] == "test"]
    assert sorted(tested) == sorted(trial.number for trial in record_of(finished_home).pareto())
