"""Pictures: what they show of one cost and of several."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.journal import measurement_to_list
from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.home import StudyFolder
from mobo_mpq.workflows.plotting import Picture, plot
from mobo_mpq.workflows.record import Learned, StudyRecord

ACCURACY = ObjectiveInfo("accuracy", "", "maximize", 0.9)  # type: ignore[arg-type]
COSTS = (
    ObjectiveInfo("latency_s", "s", "minimize", 9e-3),  # type: ignore[arg-type]
    ObjectiveInfo("energy_j", "J", "minimize", 9e-6),  # type: ignore[arg-type]
    ObjectiveInfo("size_bytes", "byte", "minimize", 9e3),  # type: ignore[arg-type]
    ObjectiveInfo("bops", "bit-op", "minimize", 9e8),  # type: ignore[arg-type]
)
POINTS = [
    (0.98, 9e-3, 8e-6, 5e3, 6e8),
    (0.97, 5e-3, 7e-6, 6e3, 5e8),
    (0.95, 4e-3, 2e-6, 7e3, 4e8),
    (0.94, 6e-3, 8e-6, 8e3, 7e8),  # beaten by the second in all but nothing
    (0.20, 1e-3, 1e-6, 1e3, 1e8),  # on the front, and a disaster
]


def record(costs: int, points: list[tuple[float, ...]] = POINTS) -> StudyRecord:
    infos = (ACCURACY, *COSTS[:costs])
    trials = tuple(
        Trial(n, TrialState.COMPLETE, None, "x", {i.name: Measurement(v) for i, v in zip(infos, point, strict=False)})
        for n, point in enumerate(points)
    )
    header = {"float": {"val": {"accuracy": measurement_to_list(Measurement(0.985))}}, "trials": len(points)}
    return StudyRecord(StudyFolder(Path("studies/s")), infos, header, trials, total=len(points))


def numbers(trials: list[Trial]) -> list[int]:
    return [trial.number for trial in trials]


def test_axes_are_in_units_that_suit_the_largest_value() -> None:
    picture = Picture(record(4))
    titles = [picture.quality.title, *(cost.title for cost in picture.costs)]
    assert titles == ["accuracy, %", "latency, ms", "energy, µJ", "size, kB", "bops, MBOP"]
    assert picture.costs[0].values(picture.front)[0] == pytest.approx(9.0)
    assert picture.quality.values(picture.front) == pytest.approx([98.0, 97.0, 95.0, 20.0])
    assert picture.float_quality == pytest.approx(98.5)


def test_disasters_beyond_the_reference_do_not_flatten_the_front() -> None:
    picture = Picture(record(3))
    assert numbers(picture.front) == [0, 1, 2, 4]
    assert numbers(picture.shown) == [0, 1, 2]
    assert numbers(picture.others) == [3]
    low, high = picture.quality_limits
    assert 89 < low < 90 and 98.5 < high < 99.5, "from the worst of interest to the float model"
    low, high = picture.cost_limits(picture.costs[2])
    assert 4.5 < low < 5.0 and 9.0 < high < 9.5, "up to the highest bits"


def test_the_steps_of_a_panel_are_the_front_in_its_two_objectives() -> None:
    picture = Picture(record(3))
    assert numbers(picture.line(picture.costs[0], picture.front)) == [4, 2, 1, 0]
    assert numbers(picture.line(picture.costs[2], picture.front)) == [4, 0], "1 and 2 are larger and worse than 0"
    assert picture.line(picture.costs[0], []) == []


def test_a_front_of_nothing_but_disasters_is_shown_all_the_same() -> None:
    assert numbers(Picture(record(2, [POINTS[4]])).shown) == [0]


@pytest.mark.parametrize("costs", [1, 2, 3, 4])
@pytest.mark.parametrize("points", [POINTS, POINTS[:1]])
def test_pictures_of_any_number_of_costs(costs: int, points: list[tuple[float, ...]], tmp_path: Path) -> None:
    study = record(costs, points)
    plot(study, tmp_path / "new" / "front.png")
    assert (tmp_path / "new" / "front.png").read_bytes().startswith(b"\x89PNG")
    plot(study, tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    assert ('"dimensions":[{' in page) == (costs > 1)
    assert "trial 0" in page


def test_the_denoised_front_is_drawn_beside_the_raw_one(tmp_path: Path) -> None:
    estimates = {n: Measurement(point[0] - 0.01) for n, point in enumerate(POINTS)}
    study = record(3)
    denoised = StudyRecord(
        study.folder, study.infos, study.header, study.trials, total=5, learned=Learned(5, {}, estimates)
    )
    for plain, expected in ((study, False), (denoised, True)):
        plot(plain, tmp_path / "front.html")
        assert ("circle-open" in (tmp_path / "front.html").read_text().rsplit("Plotly.newPlot", 1)[1]) is expected
        plot(plain, tmp_path / "front.png")


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot plot to 'front.svg'; expected a name that ends in .png or .html"):
        plot(record(2), tmp_path / "front.svg")
    with pytest.raises(InputError, match="study 's' has no complete trial yet"):
        plot(record(2, []), tmp_path / "front.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write .*; choose another --out"):
        plot(record(2), tmp_path / "file" / "front.png")
