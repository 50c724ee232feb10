"""A study of four objectives from its first trial to its files: quality, latency, energy and size."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import mobo_mpq as mm
from mobo_mpq.front import maximised
from mobo_mpq.journal import read_trials
from mobo_mpq.objective import reference
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.record import StudyRecord

Command = Callable[..., int]
Capture = pytest.CaptureFixture[str]

COSTS = ("latency_s", "energy_j", "size_bytes")


@pytest.fixture(scope="module")
def many(command: Command, toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of such a study: read it only."""
    home = tmp_path_factory.mktemp("many")
    arguments = ["--task", toy, "--target", "bitfusion", "--objectives", "latency,energy,size", "--recipe", "ptq"]
    budget = ["--budget", "bops<=2e5"]  # on what is no objective
    assert command("search", *arguments, *budget, "--trials", 14, "--name", "many", "--runner", "serial",
                   "--home", home) == 0  # fmt: skip
    return home


@pytest.fixture(scope="module")
def record(many: Path) -> StudyRecord:
    """Of that study."""
    return StudyRecord.read(Home(many).existing("many"))


def test_every_trial_has_its_exact_costs(record: StudyRecord) -> None:
    target, sizes = mm.load_target("bitfusion"), {"0": 72, "2": 72, "5": 1280}
    layers = [mm.LayerSpec(**layer) for layer in record.header["layers"]]
    assert {trial.origin for trial in record.finished} >= {"highest-affordable", "initial", "ehvi"}
    for trial in record.finished:
        assert trial.policy is not None and target.energy is not None
        policy = trial.policy
        latency = sum(target.latency.layer_cost(layer, policy[layer.name]) for layer in layers)
        energy = sum(target.energy.layer_cost(layer, policy[layer.name]) for layer in layers)
        size = sum(sizes[name] * bits.weight / 8 for name, bits in policy.items())
        assert [trial.values[name].value for name in COSTS] == pytest.approx([latency, energy, size])
        assert sum(layer.macs * policy[layer.name].weight * policy[layer.name].activation for layer in layers) <= 2e5


def test_the_front_and_its_volume_are_those_of_four_objectives(record: StudyRecord) -> None:
    points = maximised(record.infos, record.finished)
    assert points.shape == (14, 4)
    beaten = np.array([((points >= p).all(-1) & (points > p).any(-1)).any() for p in points])
    expected = {trial.number for trial, lost in zip(record.finished, beaten, strict=True) if not lost}
    assert {trial.number for trial in record.pareto()} == expected
    corner = reference(record.infos)
    assert record.hypervolume() == pytest.approx(_volume(points, corner), rel=1e-9)


def _volume(points: np.ndarray, corner: np.ndarray) -> float:
    """Inclusion by cells of the grid that the points span."""
    inside = points[(points > corner).all(-1)]
    edges = [np.unique(np.r_[corner[j], inside[:, j]]) for j in range(len(corner))]
    covered = np.zeros([len(edge) - 1 for edge in edges], dtype=bool)
    for point in inside:
        covered[
            tuple(slice(0, int(np.searchsorted(edge, value))) for edge, value in zip(edges, point, strict=True))
        ] = 1
    widths = np.ix_(*(np.diff(edge) for edge in edges))
    return float((covered * widths[0] * widths[1] * widths[2] * widths[3]).sum())


def test_tables(command: Command, many: Path, record: StudyRecord, capsys: Capture) -> None:
    capsys.readouterr()
    assert command("pareto", "many", "--json", "--home", many) == 0
    document = json.loads(capsys.readouterr().out)
    assert [o["name"] for o in document["objectives"]] == ["accuracy", *COSTS]
    assert [o["unit"] for o in document["objectives"]] == ["", "s", "J", "byte"]
    assert all(set(trial["values"]) == {"accuracy", *COSTS} for trial in document["trials"])
    assert command("pareto", "many", "--csv", "--home", many) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["number"]) for row in rows] == [trial.number for trial in record.pareto()]
    assert {"accuracy", *COSTS} <= set(rows[0])
    assert command("pareto", "many", "--home", many) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("latency", "energy", "size"))
    assert shown.splitlines()[2].count("gain") == 3, "one column beside each cost"


@pytest.mark.parametrize("name", ["front.png", "front.html"])
def test_pictures(name: str, command: Command, many: Path, tmp_path: Path) -> None:
    assert command("plot", "many", "--out", tmp_path / name, "--home", many) == 0
    assert (tmp_path / name).stat().st_size > 10_000


def test_mlflow_has_all_objectives(many: Path, record: StudyRecord) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{many / 'mlflow.db'}")
    front = {trial.number for trial in record.pareto()}
    for trial in record.finished:
        run = client.get_run(record.run_id(trial.number) or "")
        assert {name: run.data.metrics[name] for name in COSTS} == {n: trial.values[n].value for n in COSTS}
        assert run.data.tags["mobo_mpq.pareto"] == str(trial.number in front).lower()
    (runs,) = record.runs.values()
    parent = client.get_run(runs["parent"])
    assert parent.data.metrics["hypervolume"] == pytest.approx(record.hypervolume())
    names = {artifact.path for artifact in client.list_artifacts(runs["parent"])}
    assert {"front.png", "front.html", "pareto.json", "pareto.csv"} <= names


@pytest.mark.parametrize("choice", ["best", "knee", "accurate", "fastest", "smallest"])
def test_exports(choice: str, command: Command, many: Path, record: StudyRecord, tmp_path: Path) -> None:
    arguments = ["--study", "many", "--trial", choice, "--format", "policy", "--out", tmp_path / "out", "--home", many]
    assert command("export", *arguments) == 0
    policy = json.loads((tmp_path / "out" / "policy.json").read_text())["layers"]
    (chosen,) = (t for t in record.pareto() if t.policy is not None and t.policy.to_dict() == policy)
    least = {"fastest": "latency_s", "smallest": "size_bytes"}.get(choice)
    if least:
        assert chosen.values[least].value == min(trial.values[least].value for trial in record.pareto())
    if choice == "accurate":
        assert chosen.values["accuracy"].value == max(trial.values["accuracy"].value for trial in record.pareto())


def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(
    command: Command, toy: str, many: Path, record: StudyRecord, tmp_path: Path
) -> None:
    shutil.copytree(many / "studies", tmp_path / "studies")
    journal = tmp_path / "studies" / "many" / "journal.jsonl"
    lines = [line for line in journal.read_text().splitlines(keepends=True) if '"event":"tracking"' not in line]
    journal.write_text("".join(lines[: next(i for i, line in enumerate(lines) if '"number":11,' in line)]))
    assert command("resume", "many", "--runner", "serial", "--home", tmp_path) == 0
    assert [t.policy for t in read_trials(journal)] == [t.policy for t in record.trials]


@pytest.mark.parametrize("strategy", ["nsga2", "tpe", "sensitivity", "random"])
def test_other_strategies_take_several_costs(strategy: str, command: Command, toy: str, tmp_path: Path) -> None:
    arguments = ["--task", toy, "--objectives", "latency,energy,size", "--recipe", "ptq", "--trials", 4]
    assert command("search", *arguments, "--strategy", strategy, "--name", "s", "--runner", "serial",
                   "--home", tmp_path) == 0  # fmt: skip
    found = StudyRecord.read(Home(tmp_path).existing("s"))
    assert len(found.pareto()) >= 1
    assert found.hypervolume() >= 0


@pytest.mark.parametrize("word", ["bops", "size"])
def test_one_cost_that_needs_no_latency(word: str, command: Command, toy: str, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["--task", toy, "--target", "gap8", "--objectives", word, "--recipe", "ptq", "--trials", 4]
    assert command("search", *arguments, "--name", "s", "--runner", "serial", "--home", tmp_path) == 0
    assert "writes the cheapest policy that loses" in " ".join(capsys.readouterr().err.split())
    assert command("export", "--study", "s", "--format", "policy", "--out", tmp_path / "o", "--home", tmp_path) == 0
