"""What the strategy learned is kept with the study, and the front without the noise is shown beside the raw one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from mobo_mpq.errors import JournalError
from mobo_mpq.journal import Journal, read_events
from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows import study_run
from mobo_mpq.workflows.checkpoints import Checkpoints
from mobo_mpq.workflows.home import Home, StudyFolder
from mobo_mpq.workflows.record import Learned, StudyRecord
from mobo_mpq.workflows.reporting import pareto_document, pareto_table, show_spread, stdout
from mobo_mpq.workflows.selection import select
from mobo_mpq.workflows.study_run import network_of

Command = Callable[..., int]
UP = ObjectiveInfo("accuracy", "", "maximize", 0.0)  # type: ignore[arg-type]
DOWN = ObjectiveInfo("perplexity", "", "minimize", 99.0)  # type: ignore[arg-type]
LATENCY = ObjectiveInfo("latency_s", "s", "minimize", 10.0)  # type: ignore[arg-type]
DIAGNOSIS = {"models": "accuracy", "leave_one_out_error": 0.0042}


def record_of(home: Path, name: str) -> StudyRecord:
    return StudyRecord.read(Home(home).existing(name))


def surrogates_of(home: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(Home(home).existing(name).journal) if event["event"] == "surrogate"]


def made(
    points: Mapping[int, tuple[float, float]],
    estimates: Mapping[int, float],
    diagnosis: Mapping[str, Any] = DIAGNOSIS,
    quality: ObjectiveInfo = UP,
    baseline: float = 0.97,
) -> StudyRecord:
    """A study of these qualities and latencies, and what a strategy expects of some of its trials."""
    trials = tuple(
        Trial(n, TrialState.COMPLETE, None, "x", {quality.name: Measurement(q, 0.01), "latency_s": Measurement(c, 0.0)})
        for n, (q, c) in points.items()
    )
    header = {"float": {"val": {quality.name: [baseline, None]}}, "layers": []}
    learned = Learned(len(trials), diagnosis, {n: Measurement(value, 0.002) for n, value in estimates.items()})
    return StudyRecord(
        StudyFolder(Path("studies/s")), (quality, LATENCY), header, trials, total=len(trials), learned=learned
    )


POINTS = {0: (0.97, 9.0), 1: (0.965, 6.0), 2: (0.95, 3.0), 3: (0.96, 7.0)}
"""Trial 3 is beaten by trial 1."""


# --- the denoised front -----------------------------------------------------------------------------------------------


def test_members_are_those_that_no_other_one_beats_by_its_estimate() -> None:
    record = made(POINTS, {0: 0.966, 1: 0.955, 2: 0.949, 3: 0.962})
    assert [trial.number for trial in record.pareto()] == [0, 1, 2]
    assert [trial.number for trial in record.denoised()] == [0, 3, 1, 2]
    lucky = made(POINTS, {0: 0.958, 1: 0.955, 2: 0.949, 3: 0.962})
    assert [trial.number for trial in lucky.denoised()] == [3, 1, 2]
    first = lucky.denoised()[0]
    assert first.values == {"accuracy": Measurement(0.962, 0.002), "latency_s": Measurement(7.0, 0.0)}
    assert lucky.members() == {0, 1, 2, 3}


def test_a_minimised_quality() -> None:
    record = made({0: (2.0, 9.0), 1: (2.1, 6.0)}, {0: 2.3, 1: 2.2}, quality=DOWN)
    assert [trial.number for trial in record.pareto()] == [0, 1]
    assert [trial.number for trial in record.denoised()] == [1]


def test_trials_without_an_estimate_are_on_the_raw_front_alone() -> None:
    assert [trial.number for trial in made(POINTS, {2: 0.95}).denoised()] == [2]


def test_what_was_learned_of_fewer_trials_is_not_shown() -> None:
    record = made(POINTS, {0: 0.9, 1: 0.9})
    assert record.is_described
    old = replace(record, learned=replace(record.learned, trials=3))
    assert old.surrogate is None and old.estimates == {} and old.denoised() == []
    assert not old.is_described
    assert replace(record, learned=None).is_described


# --- how it is shown --------------------------------------------------------------------------------------------------


def drawn(record: StudyRecord) -> str:
    with stdout.capture() as capture:
        stdout.print(pareto_table(record), width=140)
    return capture.get()


def with_policies(record: StudyRecord, finished: StudyRecord) -> StudyRecord:
    """Tables and plots show policies: those of a real study."""
    trials = [replace(t, policy=real.policy) for t, real in zip(record.trials, finished.trials, strict=False)]
    return replace(record, trials=tuple(trials))


@pytest.fixture
def toys(finished_home: Path) -> StudyRecord:
    return record_of(finished_home, "toy")


CAPTIONS = [
    (DIAGNOSIS, 0.962, "denoised: by a model of accuracy, which predicts left-out trials to 0.42 points; "
     "trial 0 is on the front by luck of the draw"),
    (DIAGNOSIS, 0.967, "denoised: by a model of accuracy, which predicts left-out trials to 0.42 points; "
     "trials 0, 1 are on the front by luck of the draw"),
    ({"models": "divergence", "leave_one_out_error": None}, 0.957, "denoised: by a model of the divergence from the "
     "float network; none is on the front by luck of the draw"),
    ({}, 0.957, "denoised: by a model of accuracy; none is on the front by luck of the draw"),
]  # fmt: skip


@pytest.mark.parametrize(("diagnosis", "third", "line"), CAPTIONS)
def test_the_table_says_who_denoised_and_what_was_luck(
    diagnosis: dict[str, Any], third: float, line: str, toys: StudyRecord
) -> None:
    points = POINTS if third < 0.966 else {**POINTS, 3: (0.96, 6.0)}
    table = drawn(with_policies(made(points, {0: 0.96, 1: 0.955, 2: 0.949, 3: third}, diagnosis), toys))
    assert "accuracy (denoised)" in table
    assert "96.00 % ± 0.20" in table
    assert line in re.sub(r"\s+", " ", table)


def test_the_table_of_a_study_without_estimates_has_no_such_column(toys: StudyRecord) -> None:
    assert "denoised" not in drawn(toys)
    assert "denoised" not in drawn(with_policies(made(POINTS, {}), toys))


def test_spreads_for_people() -> None:
    assert show_spread(UP, 0.00421) == "0.42 points"
    assert show_spread(DOWN, 0.0312) == "0.031"
    assert show_spread(replace(LATENCY, unit="cycle"), 12.0) == "12 cycle"


def test_json_has_the_diagnosis_and_the_denoised_front_beside_raw_values(toys: StudyRecord) -> None:
    record = with_policies(made(POINTS, {0: 0.958, 1: 0.955, 2: 0.949, 3: 0.962}), toys)
    record = replace(record, tested={3: {"accuracy": Measurement(0.951)}})
    document = json.loads(json.dumps(pareto_document(record), allow_nan=False))
    assert document["surrogate"] == DIAGNOSIS
    assert document["denoised"] == [
        {"number": 3, "value": 0.962, "stderr": 0.002, "test": {"accuracy": 0.951}},
        {"number": 1, "value": 0.955, "stderr": 0.002, "test": {}},
        {"number": 2, "value": 0.949, "stderr": 0.002, "test": {}},
    ]
    assert [trial["values"]["accuracy"] for trial in document["trials"]] == [0.97, 0.965, 0.95]
    without = pareto_document(with_policies(made(POINTS, {}, {}), toys))
    assert without["surrogate"] is None and without["denoised"] is None
    assert pareto_document(toys)["surrogate"] is None and pareto_document(toys)["denoised"] is None


@pytest.mark.parametrize("costs", [1, 2])
def test_plots_draw_the_denoised_front(costs: int, toys: StudyRecord, tmp_path: Path) -> None:
    from mobo_mpq.workflows.plotting import plot

    known = with_policies(made(POINTS, {0: 0.958, 1: 0.955, 2: 0.949, 3: 0.962}), toys)
    known = replace(known, infos=(known.infos[0], *[LATENCY] * costs))
    files = {}
    for name, record in (("known", known), ("unknown", replace(known, learned=None))):
        for suffix in (".png", ".html"):
            plot(record, tmp_path / (name + suffix))
            files[name, suffix] = (tmp_path / (name + suffix)).read_bytes()
    assert files["known", ".png"] != files["unknown", ".png"]
    assert b"Pareto set, denoised" in files["known", ".html"]
    assert b"Pareto set, denoised" not in files["unknown", ".html"]
    assert b"accuracy: 96.20 % \\u00b1 0.20" in files["known", ".html"]


@pytest.mark.parametrize(
    ("estimate", "tested", "note"),
    [
        (0.961, None, ""),
        (0.959, None, "by its denoised accuracy it loses more than --max-drop 1, see 'mobo-mpq pareto s'"),
        (0.961, 0.95, "on the test split it loses more than --max-drop 1, see 'mobo-mpq pareto s'"),
        (0.959, 0.95, "on the test split and by its denoised accuracy it loses more than --max-drop 1, "
         "see 'mobo-mpq pareto s'"),
    ],
)  # fmt: skip
def test_best_is_chosen_by_raw_values_and_doubted_by_denoised_ones(
    estimate: float, tested: float | None, note: str
) -> None:
    record = made(POINTS, {1: estimate})
    header = {"float": {"val": {"accuracy": [0.97, None]}, "test": {"accuracy": [0.97, None]}}}
    record = replace(record, header=header, tested={1: {"accuracy": Measurement(tested)}} if tested else {})
    selection = select(record, "best", 1.0)
    assert (selection.trial.number, selection.note) == (1, note)


def test_best_of_a_minimised_quality_is_doubted_above_the_drop() -> None:
    points = {0: (2.0, 9.0), 1: (2.01, 6.0)}
    for estimate, doubted in ((2.01, False), (2.03, True)):
        record = made(points, {1: estimate}, quality=DOWN, baseline=2.0)
        assert ("by its denoised perplexity it loses" in select(record, "best", 1.0).note) is doubted


# --- the journal ------------------------------------------------------------------------------------------------------


def append(home: Path, **fields: Any) -> None:
    with Journal(Home(home).existing("toy").journal) as journal:
        journal.append("surrogate", **fields)


def test_the_last_event_counts(home: Path) -> None:
    assert record_of(home, "toy").learned is None
    append(home, trials=5, diagnosis={"models": "accuracy"}, estimates={"1": [0.5, 0.1]})
    assert record_of(home, "toy").surrogate is None
    append(home, trials=6, diagnosis={"models": "divergence"}, estimates={"1": [0.6, 0.1]})
    learned = Learned(6, {"models": "divergence"}, {1: Measurement(0.6, 0.1)})
    assert record_of(home, "toy").surrogate == learned


@pytest.mark.parametrize(
    "fields",
    [
        {"trials": 6, "diagnosis": {}},
        {"trials": 6, "diagnosis": {}, "estimates": {"one": [0.5, 0.1]}},
        {"trials": 6, "diagnosis": {}, "estimates": {"1": [None, 0.1]}},
        {"trials": "many", "diagnosis": {}, "estimates": {}},
    ],
)
def test_a_broken_event_is_refused(fields: dict[str, Any], home: Path) -> None:
    append(home, **fields)
    with pytest.raises(JournalError, match="cannot be read .*; restore the file from a copy"):
        record_of(home, "toy")


def test_members_of_the_denoised_front_are_scored_on_the_test_split(
    command: Command, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(home, "toy")
    other = next(trial for trial in record.finished if trial.number not in record.members())
    assert other.number not in record.tested
    estimates = {str(trial.number): [0.1, 0.01] for trial in record.finished} | {str(other.number): [0.99, 0.01]}
    append(home, trials=6, diagnosis={}, estimates=estimates)
    assert not record_of(home, "toy").is_tested
    assert command("resume", "toy", "--runner", "serial", "--home", home) == 0
    assert "scoring 1 policies of the raw or the denoised front on the test split" in capsys.readouterr().err
    record = record_of(home, "toy")
    assert record.is_tested
    assert other.number in record.tested
    assert pareto_document(record)["denoised"][0]["test"] == {"accuracy": record.tested[other.number]["accuracy"].value}


# --- whole studies ----------------------------------------------------------------------------------------------------


def noisy(toy: str, home: Path, *more: object) -> list[object]:
    common = ["search", "--task", toy, "--name", "noisy", "--epochs", 0.3, "--runner", "serial", "--home", home]
    return [*common, "--trials", 14, *more]


def kept_network(trial: Trial, evaluator: Any, checkpoints: Checkpoints) -> Any:
    """What scores the front, where a network that is made again would take another fine-tune."""
    assert checkpoints.load(trial.number) is not None, "its network is there when trials end"
    return network_of(trial, evaluator, checkpoints)


@pytest.fixture(scope="module")
def noisy_home(command: Command, toy: str, finished_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a study whose fine-tunes are noise enough."""
    home = tmp_path_factory.mktemp("noisy") / "home"
    shutil.copytree(finished_home, home)  # with MLflow's database, which takes seconds to make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_run, "network_of", kept_network)
        assert command(*noisy(toy, home)) == 0
    return home


def test_a_study_ends_with_what_was_learned(noisy_home: Path) -> None:
    (event,) = surrogates_of(noisy_home, "noisy")
    record = record_of(noisy_home, "noisy")
    assert event["trials"] == 14 and event["diagnosis"]["observations"] == 14
    assert set(record.estimates) == {trial.number for trial in record.finished}
    assert record.denoised()
    assert record.members() == set(record.tested), "both fronts are scored on the test split, and nothing else"
    files = {int(path.stem) for path in record.folder.checkpoints.iterdir()}
    assert files == record.members()


def test_mlflow_knows_the_denoised_values(noisy_home: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{noisy_home / 'mlflow.db'}")
    record = record_of(noisy_home, "noisy")
    members = {trial.number for trial in record.denoised()}
    for number, estimate in record.estimates.items():
        run = client.get_run(record.run_id(number) or "")
        assert run.data.metrics["accuracy_denoised"] == estimate.value
        assert run.data.tags["mobo_mpq.denoised"] == str(number in members).lower()


def test_more_trials_teach_more(command: Command, noisy_home: Path) -> None:
    (before,) = surrogates_of(noisy_home, "noisy")
    journal = Home(noisy_home).existing("noisy").journal
    assert command("resume", "noisy", "--trials", 15, "--runner", "serial", "--home", noisy_home) == 0
    again, after = surrogates_of(noisy_home, "noisy")
    assert again == before
    assert after["trials"] == 15 and len(after["estimates"]) == 15
    # killed just before it was written: the next resume writes the same
    lines = journal.read_text().splitlines(True)
    journal.write_text("".join(line for line in lines if '"surrogate","trials":15' not in line))
    assert not record_of(noisy_home, "noisy").is_described
    assert command("resume", "noisy", "--home", noisy_home) == 0
    assert surrogates_of(noisy_home, "noisy") == [before, after]


def test_an_interrupted_study_has_what_was_learned(
    command: Command, toy: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(reporter: Any, trial: Trial) -> None:
        if trial.number == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(study_run.Reporter, "finished", interrupt)
    assert command(*noisy(toy, home)) == 130
    (event,) = surrogates_of(home, "noisy")
    assert event["trials"] == 7
    assert len(record_of(home, "noisy").estimates) == 7


def test_a_strategy_that_says_nothing_leaves_nothing(finished_home: Path) -> None:
    assert surrogates_of(finished_home, "toy") == []


def test_networks_of_the_front_go_first_where_room_is_short(command: Command, home: Path) -> None:
    folder = Home(home).existing("toy")
    size = max(path.stat().st_size for path in folder.checkpoints.iterdir())
    text = folder.config_file.read_text().replace('name = "toy"', 'name = "short"')
    file = home / "short.toml"
    file.write_text(re.sub(r"checkpoint_megabytes = .*", f"checkpoint_megabytes = {2.5 * size / 1e6}", text))
    assert command("search", file, "--runner", "serial", "--home", home) == 0
    short = Home(home).existing("short")
    kept = {int(path.stem) for path in short.checkpoints.iterdir()}
    members = record_of(home, "short").members()
    assert members == record_of(home, "toy").members() == {int(path.stem) for path in folder.checkpoints.iterdir()}
    assert kept < members
    assert 1 <= len(kept) <= 2
