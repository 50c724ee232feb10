"""MLflow sees what the journal holds; a study does not need it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from mobo_mpq.policy import Policy
from mobo_mpq.workflows.home import Home, StudyFolder
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.tracking import is_uploaded, tracking_address

Command = Callable[..., int]


def record_of(home: Path, name: str = "toy") -> StudyRecord:
    return StudyRecord.read(StudyFolder(home / "studies" / name))


def client_of(home: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")


def runs_of(home: Path, name: str = "toy") -> tuple[Any, dict[int, Any]]:
    client = client_of(home)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = {int(run.data.tags["mobo_mpq.number"]): run for run in runs if run is not parents[0]}
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in children.values())
    return parents[0], children


def test_one_nested_run_per_trial_with_values_and_bits(finished_home: Path) -> None:
    record = record_of(finished_home)
    _, children = runs_of(finished_home)
    assert set(children) == set(range(6))
    for trial in record.finished:
        run = children[trial.number]
        assert run.info.run_id == record.run_id(trial.number)
        for name, value in trial.values.items():
            assert run.data.metrics[name] == value.value
        assert trial.policy is not None
        bits = {f"bits.{name}": f"{pair.weight}/{pair.activation}" for name, pair in trial.policy.items()}
        assert bits.items() <= run.data.params.items()
        assert run.data.metrics["mean_weight_bits"] == sum(p.weight for p in trial.policy.values()) / 3
        assert run.info.status == "FINISHED"


def test_the_front_is_tagged_and_its_test_values_are_there(finished_home: Path) -> None:
    record = record_of(finished_home)
    _, children = runs_of(finished_home)
    front = {trial.number for trial in record.pareto()}
    assert {n for n, run in children.items() if run.data.tags["mobo_mpq.pareto"] == "true"} == front
    assert {n for n, run in children.items() if run.data.tags["mobo_mpq.pareto"] == "false"} == set(children) - front
    for number in front:
        assert children[number].data.metrics["test_accuracy"] == record.tested[number]["accuracy"].value


def test_the_parent_tells_the_study(finished_home: Path, tmp_path: Path) -> None:
    record = record_of(finished_home)
    parent, children = runs_of(finished_home)
    client = client_of(finished_home)
    assert parent.data.params["target"] == "mpic"
    assert parent.data.metrics["float_val_accuracy"] == record.float_values["accuracy"].value
    history = sorted(client.get_metric_history(parent.info.run_id, "hypervolume"), key=lambda point: point.step)
    assert [point.value for point in history] == [record.hypervolume(n + 1) for n in range(6)]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"study.toml", "pareto.json", "pareto.csv", "front.html", "front.png"}
    policy = client.download_artifacts(children[1].info.run_id, "policy.json", str(tmp_path))
    assert Policy.from_json(Path(policy).read_text()) == record.trials[1].policy


def test_tags_follow_the_front(command: Command, home: Path) -> None:
    assert command("resume", "toy", "--trials", 12, "--runner", "serial", "--home", home) == 0
    front = {trial.number for trial in record_of(home).pareto()}
    _, children = runs_of(home)
    assert {n for n, run in children.items() if run.data.tags["mobo_mpq.pareto"] == "true"} == front


def test_a_server_that_is_away_costs_nothing_but_the_view(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", toy, "--recipe", "ptq", "--runner", "serial", "--strategy", "sobol", "--trials", 3]
    away = "http://127.0.0.1:9"
    assert command("search", *arguments, "--name", "away", "--tracking-uri", away, "--home", tmp_path) == 0
    said = capsys.readouterr().err
    assert said.count("MLflow cannot be written to") == 1
    assert "the study goes on, and 'mobo-mpq resume' uploads what is missing" in said
    record = record_of(tmp_path, "away")
    assert record.is_finished
    assert record.run_id(0) is None
    assert not is_uploaded(record, away, Home(tmp_path))
    # the server is back: resume uploads, and trains nothing
    assert command("resume", "away", "--home", tmp_path) == 0
    _, children = runs_of(tmp_path, "away")
    assert set(children) == {0, 1, 2}
    record = record_of(tmp_path, "away")
    assert is_uploaded(record, tracking_address(Home(tmp_path), None), Home(tmp_path))
    assert all(record.run_id(number) == run.info.run_id for number, run in children.items())
    capsys.readouterr()
    assert command("pareto", "away", "--json", "--home", tmp_path) == 0
    assert all(trial["mlflow_run_id"] for trial in json.loads(capsys.readouterr().out)["trials"])


def test_metric_names_that_mlflow_does_not_take(command: Command, tmp_path: Path) -> None:
    task = tmp_path / "odd.py"
    toy = Path(__file__).parent.parent / "data" / "toy_task.py"
    task.write_text(toy.read_text().replace('metric_name = "accuracy"', 'metric_name = "top 1 (%)"'))
    arguments = ["--task", f"{task}:Toy", "--recipe", "ptq", "--runner", "serial", "--trials", 2, "--name", "odd"]
    assert command("search", *arguments, "--home", tmp_path) == 0
    parent, children = runs_of(tmp_path, "odd")
    assert "float_val_top 1 ___" in parent.data.metrics
    assert all("top 1 ___" in run.data.metrics for run in children.values())


def test_where_runs_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path)
    assert tracking_address(home, None) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert tracking_address(home, None) == "http://there"
    assert tracking_address(home, "http://here") == "http://here"
