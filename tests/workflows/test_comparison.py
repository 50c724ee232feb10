"""What a comparison makes of its studies, on studies made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError
from mobo_mpq.objective import Direction, Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.trial import Trial, TrialState
from mobo_mpq.workflows.comparison import Comparison, CpuTime, Curve, comparison_document, comparison_table
from mobo_mpq.workflows.comparison_plot import panels, plot_comparison
from mobo_mpq.workflows.home import StudyFolder
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import stdout

INFOS = (
    ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.5),
    ObjectiveInfo("latency_s", "s", Direction.MINIMIZE, 1.0),
)
POLICY = Policy.of({"a": (4, 4)})


def complete(number: int, accuracy: float, latency_s: float, cpu_s: float | None = 2.0) -> Trial:
    values = {"accuracy": Measurement(accuracy, 0.0), "latency_s": Measurement(latency_s, 0.0)}
    proposal = None if cpu_s is None else 0.5
    return Trial(number, TrialState.COMPLETE, POLICY, "test", values, seconds=3.0, cpu_s=cpu_s, proposal_cpu_s=proposal)


REFUSED = Trial(1, TrialState.PRUNED, POLICY, "test", error="too dear", proposal_cpu_s=0.25)
FAILED = Trial(2, TrialState.FAILED, POLICY, "test", error="no luck", seconds=1.0, cpu_s=1.0, proposal_cpu_s=0.5)
LOST = Trial(2, TrialState.FAILED, POLICY, "test", error="the worker was lost", proposal_cpu_s=0.5)


def record(*trials: Trial, sensitivity: float | None = None, total: int = 3, **fields: object) -> StudyRecord:
    """Of a float model with accuracies 1.0 on the validation and 0.9 on the test split."""
    header: dict[str, object] = {"float": {"val": {"accuracy": [1.0, 0.0]}, "test": {"accuracy": [0.9, 0.0]}}}
    header |= {"target": "mpic"}
    if sensitivity is not None:
        header["sensitivity"] = {"cpu_s": sensitivity, "evaluations": 5, "cached": True}
    folder = StudyFolder(Path("studies/by-hand"))
    return StudyRecord(folder, INFOS, header, trials, total=total, **fields)  # type: ignore[arg-type]


def comparison(**curves: list[Curve]) -> Comparison:
    return Comparison(StudyConfig(name="both", trials=4), curves)


def shown(found: Comparison) -> str:
    with stdout.capture() as capture:
        stdout.print(comparison_table(found))
    return capture.get()


def test_shares_of_the_box_by_hand() -> None:
    # The box is 0.5 of accuracy times 1 s. A trial above 0.75 and below 0.5 s takes a quarter.
    trials = [complete(0, 0.75, 0.5), FAILED, complete(3, 1.0, 0.75), complete(4, 1.0, 0.0)]
    curve = Curve(record(*trials), seed=0, trials=3)
    assert curve.shares == pytest.approx([0.25, 0.25, 0.375])
    assert [curve.share(count) for count in (1, 2, 3, 4)] == pytest.approx([0.25, 0.25, 0.375, 0.375])


def test_a_refused_trial_is_no_evaluation_but_its_proposal_takes_time() -> None:
    curve = Curve(record(complete(0, 0.75, 0.5), REFUSED, FAILED, sensitivity=10.0), seed=0, trials=3)
    assert curve.evaluations == [1, 3]
    assert curve.cpu_times == [CpuTime(2.0, 0.5, 10.0), CpuTime(3.0, 1.25, 10.0)]
    assert curve.cpu_times[-1].total == 14.25


def test_a_lost_worker_leaves_no_time_and_an_old_trial_makes_it_unknown() -> None:
    lost = Curve(record(complete(0, 0.75, 0.5), LOST), seed=0, trials=3)
    assert lost.cpu_times == [CpuTime(2.0, 0.5, 0.0), CpuTime(2.0, 1.0, 0.0)]
    old = Curve(record(complete(0, 0.75, 0.5, cpu_s=None), complete(1, 0.75, 0.5)), seed=0, trials=3)
    assert old.cpu_times is None
    found = comparison(new=[lost], old=[old])
    assert [line.name for panel in panels(found) for line in panel.lines] == ["new", "old", "new"]
    assert len(panels(comparison(old=[old]))) == 1
    first, second = comparison_document(found)["strategies"]
    assert first["cpu_s"] == {"total": 3.0, "evaluations": 2.0, "proposals": 1.0, "sensitivities": 0.0}
    assert second["cpu_s"] is None
    assert second["studies"][0]["cpu_s"] is None


def test_the_front_on_the_test_split_by_hand() -> None:
    tested = {0: {"accuracy": Measurement(0.7, 0.0)}, 1: {"accuracy": Measurement(0.8, 0.0)}}
    trials = [complete(0, 0.75, 0.5), complete(1, 0.95, 0.75)]
    curve = Curve(record(*trials, tested=tested), seed=0, trials=2)
    # The box ends at the float model's 0.9: 0.4 times 1 s. Below 0.5 s there are 0.2, from there to 0.25 s above, 0.3.
    assert curve.test_share == pytest.approx((0.2 * 0.5 + 0.1 * 0.25) / 0.4)
    assert Curve(record(*trials, tested=tested), seed=0, trials=1).test_share is None  # it has more than are compared


def test_medians_over_seeds_as_steps() -> None:
    first = Curve(record(complete(0, 0.75, 0.5), complete(1, 1.0, 0.5)), seed=0, trials=4)  # 25 %, 50 %
    second = Curve(record(complete(0, 0.5, 0.5), complete(1, 1.0, 0.75, cpu_s=6.0)), seed=1, trials=4)  # 0 %, 25 %
    found = comparison(one=[first, second])
    by_trials, by_time = (panel.lines[0] for panel in panels(found))
    assert (by_trials.x, by_trials.middle) == ([1.0, 2.0], pytest.approx([12.5, 37.5]))
    assert (by_trials.low, by_trials.high) == (pytest.approx([0.0, 25.0]), pytest.approx([25.0, 50.0]))
    assert by_time.x == [2.5, 5.0, 9.0]  # both begin at 2.5 s; one goes on at 5 s, the other at 9 s
    assert by_time.middle == pytest.approx([12.5, 25.0, 37.5])
    assert found.cpu_time("one") == CpuTime(6.0, 1.0, 0.0)
    assert found.marks == [1, 2, 4]


def test_the_table_has_the_best_first_and_says_what_it_does_not_show() -> None:
    tested = {0: {"accuracy": Measurement(0.7, 0.0)}}
    worse = Curve(record(complete(0, 0.75, 0.5), tested=tested, sensitivity=0.125), seed=0, trials=4)
    better = Curve(record(complete(0, 1.0, 0.5), complete(1, 1.0, 0.25)), 0, 4)
    lines = shown(comparison(worse=[worse], better=[better])).splitlines()
    rows = [line.replace("│", " ").split() for line in lines if line.startswith("│")]
    assert [row[0] for row in rows] == ["better", "worse"]
    assert rows[1][1:] == ["25.00", "%"] * 3 + ["25.00", "%", "2.62", "2.00", "0.50", "0.12"]
    text = " ".join(" ".join(lines).split())
    assert "worse had nothing more to propose after 1 trials" in text
    assert "in passes over some training samples: 5 for worse" in text
    assert "both: 4 trials of recipe 'qat' for each strategy, 1 seed" in text


@pytest.mark.parametrize("ending", ["png", "html"])
def test_pictures_are_written(ending: str, tmp_path: Path) -> None:
    curves = [Curve(record(complete(0, 0.75, 0.5), complete(1, 1.0, 0.5)), seed, 4) for seed in range(2)]
    out = tmp_path / "new" / f"comparison.{ending}"
    plot_comparison(comparison(one=curves, two=curves[:1] * 2), out)
    content = out.read_bytes()
    if ending == "png":
        assert content.startswith(b"\x89PNG")
    else:
        assert all(word in content for word in (b'"one"', b'"two"', b"CPU time"))


def test_pictures_that_cannot_be_written(tmp_path: Path) -> None:
    found = comparison(one=[Curve(record(complete(0, 0.75, 0.5)), 0, 4)])
    with pytest.raises(InputError, match=r"cannot plot to 'front.pdf'; expected a name that ends in .png or .html"):
        plot_comparison(found, tmp_path / "front.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*choose another --out"):
        plot_comparison(found, tmp_path / "file" / "front.png")
