from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.home import StudyFolder
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.selection import select

UP = ObjectiveInfo("accuracy", "", "maximize", 0.0)  # type: ignore[arg-type]
DOWN = ObjectiveInfo("perplexity", "", "minimize", 99.0)  # type: ignore[arg-type]
LATENCY = ObjectiveInfo("latency_s", "s", "minimize", 10.0)  # type: ignore[arg-type]
SIZE = ObjectiveInfo("size_bytes", "byte", "minimize", 100.0)  # type: ignore[arg-type]


def record(points: list[tuple[float, ...]], infos: tuple[ObjectiveInfo, ...], baseline: float) -> StudyRecord:
    trials = tuple(
        Trial(n, TrialState.COMPLETE, None, "x", {i.name: Measurement(v) for i, v in zip(infos, point, strict=True)})
        for n, point in enumerate(points)
    )
    header = {"float": {"val": {infos[0].name: [baseline, None]}}, "trials": len(points)}
    return StudyRecord(StudyFolder(Path("studies/s")), infos, header, trials, total=len(points))


FRONT = record([(0.97, 9.0), (0.965, 6.0), (0.95, 3.0), (0.80, 2.0), (0.5, 5.0)], (UP, LATENCY), 0.97)


@pytest.mark.parametrize(("choice", "number"), [("best", 1), ("accurate", 0), ("fastest", 3), ("knee", 2), ("4", 4)])
def test_choices(choice: str, number: int) -> None:
    assert select(FRONT, choice).trial.number == number


@pytest.mark.parametrize(("drop", "number"), [(0.4, 0), (0.5001, 1), (2.01, 2), (20, 3)])
def test_best_is_the_fastest_within_the_drop(drop: float, number: int) -> None:
    assert select(FRONT, "best", drop).trial.number == number


def test_accuracies_in_percent() -> None:
    front = record([(97.0, 9.0), (96.5, 6.0), (95.0, 3.0)], (UP, LATENCY), 97.0)
    assert select(front, "best", 1.0).trial.number == 1


def test_a_minimised_metric_may_lose_percents() -> None:
    front = record([(2.00, 9.0), (2.015, 6.0), (2.03, 3.0)], (DOWN, LATENCY), 2.0)
    assert select(front, "best", 1.0).trial.number == 1
    assert select(front, "best", 2.0).trial.number == 2


def test_the_most_accurate_one_when_none_is_good_enough() -> None:
    front = record([(0.90, 9.0), (0.80, 2.0)], (UP, LATENCY), 0.97)
    selection = select(front, "best")
    assert selection.trial.number == 0
    assert selection.note == "no trial is within 1 points of the float model's accuracy; this is the most accurate one"


def test_smallest_goes_by_size_where_there_is_one() -> None:
    front = record([(0.9, 9.0, 10.0), (0.8, 2.0, 50.0)], (UP, LATENCY, SIZE), 0.9)
    assert select(front, "smallest") == select(front, "0")
    assert select(front, "fastest").trial.number == 1


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({}, "3"),
        ({"storage": {"containers": [4, 8], "bytes_per_channel": 1.0}}, "8"),
        ({"recipe": {"name": "qat", "options": {}}}, "3"),
        ({"recipe": {"name": "multipoint", "options": {"extra": 0.5}}}, "4"),  # three channels instead of two
    ],
)
def test_smallest_counts_the_weights_where_size_is_no_objective(more: dict, size: str) -> None:
    policies = [{"a": (8, 8), "b": (8, 8)}, {"a": (4, 8), "b": (2, 8)}, {"a": (8, 2), "b": (2, 2)}]
    front = record([(0.97, 9.0), (0.95, 4.0), (0.9, 3.0)], (UP, LATENCY), 0.97)
    layers = [
        {"name": "a", "kind": "linear", "weight_shape": [2, 2], "input_shape": [2], "output_shape": [2]},
        {"name": "b", "kind": "linear", "weight_shape": [2, 2], "input_shape": [2], "output_shape": [2]},
    ]
    trials = tuple(replace(t, policy=Policy.of(p)) for t, p in zip(front.trials, policies, strict=True))
    header = {**front.header, "layers": layers, **more}
    selection = select(replace(front, trials=trials, header=header), "smallest")
    assert selection.trial.number == 1
    assert selection.note == f"the study has no objective size_bytes; this policy's weights take {size} bytes"


def test_among_equals_the_most_accurate_one() -> None:
    front = record([(0.90, 5.0, 10.0), (0.97, 5.0, 20.0), (0.96, 6.0, 10.0)], (UP, LATENCY, SIZE), 0.97)
    assert select(front, "fastest").trial.number == 1
    assert select(front, "smallest").trial.number == 2
    assert select(front, "best", 10.0).trial.number == 1


def test_the_knee_weighs_quality_against_all_costs_together() -> None:
    """Three costs that go together: their sum would choose the cheap end, where two objectives choose the bend."""
    energy = ObjectiveInfo("energy_j", "J", "minimize", 10.0)  # type: ignore[arg-type]
    curve = [(0.97, 9.0), (0.96, 4.0), (0.90, 3.0), (0.70, 2.0)]
    assert select(record(curve, (UP, LATENCY), 0.97), "knee").trial.number == 1
    many = record([(q, c, c, 10 * c) for q, c in curve], (UP, LATENCY, energy, SIZE), 0.97)
    assert select(many, "knee").trial.number == 1


def test_the_knee_looks_at_what_is_of_interest() -> None:
    floor = replace(UP, reference=0.9)
    front = record([(0.97, 9.0), (0.96, 3.0), (0.93, 2.0), (0.1, 1.9)], (floor, LATENCY), 0.97)
    assert select(front, "knee").trial.number == 1  # a disaster beyond the reference would make it 2
    alone = record(
        [(0.5, 9.0), (0.4, 3.0), (0.1, 2.9)], (floor, LATENCY), 0.97
    )  # nothing is: the knee of the whole front
    assert select(alone, "knee").trial.number == 1


def test_a_best_that_disappoints_on_the_test_split_says_so() -> None:
    header = {**FRONT.header, "float": {"val": {"accuracy": [0.97, None]}, "test": {"accuracy": [0.97, None]}}}
    for tested, disappoints in ((0.961, False), (0.955, True)):
        study = replace(FRONT, header=header, tested={1: {"accuracy": Measurement(tested)}})
        assert ("on the test split it loses more than --max-drop 1" in select(study, "best").note) is disappoints


@pytest.mark.parametrize("drop", [-1.0, float("nan"), float("inf")])
def test_impossible_drops(drop: float) -> None:
    with pytest.raises(InputError, match="--max-drop is"):
        select(FRONT, "best", drop)


def test_best_is_about_latency_whatever_comes_first() -> None:
    front = record([(0.97, 10.0, 9.0), (0.965, 50.0, 2.0)], (UP, SIZE, LATENCY), 0.97)
    assert select(front, "best").trial.number == 1
    no_latency = record([(0.97, 10.0), (0.965, 5.0)], (UP, SIZE), 0.97)
    chosen = select(no_latency, "best")
    assert chosen.trial.number == 1
    assert chosen.note == "the study has no objective latency_s; this is the least size_bytes"


@pytest.mark.parametrize("number", ["²", "-1", "1.0"])
def test_what_is_no_number(number: str) -> None:
    with pytest.raises(UnknownName, match="unknown trial"):
        select(FRONT, number)


def test_bad_choices() -> None:
    with pytest.raises(UnknownName, match="unknown trial 'kneee'.*Did you mean 'knee'"):
        select(FRONT, "kneee")
    with pytest.raises(UnknownName, match="unknown trial '9'; known: 0 to 4"):
        select(FRONT, "9")
    empty = record([], (UP, LATENCY), 0.9)
    with pytest.raises(InputError, match="study 's' has no complete trial yet"):
        select(empty, "best")


def test_an_unfinished_trial_cannot_be_chosen() -> None:
    failed = Trial(0, TrialState.FAILED, None, "x", error="boom")
    study = StudyRecord(StudyFolder(Path("studies/s")), (UP, LATENCY), {}, (failed,), total=1)
    with pytest.raises(InputError, match=r"trial 0 is failed \(boom\)"):
        select(study, "0")
