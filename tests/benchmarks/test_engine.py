import json
from pathlib import Path

import engine
import engine_report as report
import numpy as np
import pytest
from engine_runs import Job, Size, make_case, measure_growth, run, stripped

from mobo_mpq.errors import InputError, UnknownName

SMALL = "synthetic-L4-good-noise0.3"


def record(
    curve: list[float], *, trials: int | None = None, spent: int = 0, seed: int = 0, strategy: str = "mobo"
) -> report.Record:
    return {
        "problem": SMALL,
        "strategy": strategy,
        "seed": seed,
        "batch": 8,
        "trials": len(curve) if trials is None else trials,
        "curve": curve,
        "sensitivity_evaluations": spent,
        "cpu_s": 0.25,
        "memory_bytes": 12_000_000,
    }


# --- shares ---------------------------------------------------------------------------------------------------------


def test_a_budget_is_that_many_trials() -> None:
    assert report.share_at(record([0.1, 0.2, 0.3]), 2) == 0.2
    assert report.share_at(record([0.1, 0.2, 0.3]), 3) == 0.3


def test_sensitivities_are_paid_for_out_of_the_budget() -> None:
    paid = record([0.1, 0.2, 0.3], spent=2)
    assert [report.share_at(paid, budget) for budget in (1, 2, 3, 5)] == [0.0, 0.0, 0.1, 0.3]


def test_a_used_up_strategy_keeps_its_last_share_and_a_shorter_run_has_none() -> None:
    assert report.share_at(record([0.1, 0.2], trials=5), 5) == 0.2
    assert report.share_at(record([0.1, 0.2]), 5) is None


def test_medians_and_lowest_are_over_the_seeds_that_got_that_far() -> None:
    runs = [record([0.1 * seed] * 24, seed=seed) for seed in range(1, 4)] + [record([0.9], seed=4)]
    assert report.across_seeds(runs, 24) == pytest.approx((0.2, 0.1))
    assert report.across_seeds(runs, 112) is None


# --- the file -------------------------------------------------------------------------------------------------------


def test_of_runs_that_measure_the_same_the_last_is_kept() -> None:
    old = [record([0.1], seed=1), record([0.2], seed=0)]
    merged = report.merge(old, [record([0.3], seed=1), record([0.4], strategy="ax")], report.run_key)
    assert [(each["strategy"], each["seed"], each["curve"]) for each in merged] == [
        ("ax", 0, [0.4]),
        ("mobo", 0, [0.2]),
        ("mobo", 1, [0.3]),
    ]


def test_records_are_added_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out" / "engine.json"
    assert report.read(path) == []
    for seed in (1, 0):
        report.add(path, record([0.5], seed=seed), report.run_key)
    assert [each["seed"] for each in json.loads(path.read_text())] == [0, 1]
    assert report.read(path)[1] == record([0.5], seed=1)


# --- tables and plots -----------------------------------------------------------------------------------------------


def test_a_table_shows_medians_and_the_lowest_seed() -> None:
    runs = [record([0.9 + 0.01 * seed] * 40, seed=seed) for seed in range(3)]
    assert report.table("small", {"mobo": runs, "ax": []}).splitlines() == [
        "| small | 24 | 40 | 64 | 112 | CPU s / proposal | MB | seeds |",
        "|---|---|---|---|---|---|---|---|",
        "| mobo | 0.9100 (0.9000) | 0.9100 (0.9000) | – | – | 0.250 | 12 | 3 |",
    ]


def test_a_table_of_growth_has_a_column_for_each_number_of_trials() -> None:
    sizes = [Size("mobo", 20, n, 16) for n in (50, 100)] + [Size("mobo", 50, 100, 16)]
    grown = [{**size._asdict(), "first_cpu_s": 1.0, "cpu_s": 0.01, "memory_bytes": 5e6} for size in sizes]
    assert report.growth_table(grown).splitlines()[2:] == [
        "| mobo | 20 | 16 | 0.010 (5) | 0.010 (5) |",
        "| mobo | 50 | 16 | – | 0.010 (5) |",
    ]


def test_plots_are_drawn(tmp_path: Path) -> None:
    lines = {"mobo": [record([0.95] * 30, spent=3), record([0.97] * 20, seed=1)], "q = 1": [record([0.9] * 30)]}
    report.plot_curves(tmp_path / "curves.png", {f"panel {i}": lines for i in range(4)})
    grown = [{**Size("mobo", 20, n, 16)._asdict(), "cpu_s": 0.01, "memory_bytes": 5e6} for n in (50, 100)]
    report.plot_growth(tmp_path / "growth.png", grown)
    assert (tmp_path / "curves.png").read_bytes()[:4] == (tmp_path / "growth.png").read_bytes()[:4] == b"\x89PNG"


# --- problems by name -----------------------------------------------------------------------------------------------


def test_strategies_that_use_no_sensitivities_see_one_problem() -> None:
    assert stripped("synthetic-L50-bad-hard-noise0.1", "ax") == "synthetic-L50-none-hard-noise0.1"
    assert stripped("synthetic-L50-bad-hard-noise0.1", "mobo") == "synthetic-L50-bad-hard-noise0.1"
    assert stripped("digits-qat", "tpe") == stripped("digits-qat-none", "tpe") == "digits-qat-none"
    assert stripped("digits-qat", "sensitivity") == "digits-qat"


def test_the_variants_of_a_problem_differ_in_their_sensitivities_alone() -> None:
    good, bad, none = (make_case(f"synthetic-L6-{quality}-hard-noise0", 2) for quality in ("good", "bad", "none"))
    policy = good.problem.space.lowest()
    assert good.evaluate(policy, 0) == bad.evaluate(policy, 0) == none.evaluate(policy, 0)
    assert good.problem.costs[0](policy) == none.problem.costs[0](policy)
    assert good.problem.sensitivity is not None and bad.problem.sensitivity is not None
    assert not np.allclose(good.problem.sensitivity, bad.problem.sensitivity)
    assert none.problem.sensitivity is None


def test_problems_that_do_not_exist_are_refused() -> None:
    with pytest.raises(
        InputError, match="problem 'synthetic-L50' does not exist; expected a name like synthetic-L50-g"
    ):
        make_case("synthetic-L50", 0)
    with pytest.raises(UnknownName, match="unknown table 'mnist'"):
        engine.expand(["mnist"])
    with pytest.raises(UnknownName, match="unknown strategy 'axe'"):
        engine.check(["ax", "axe"])


def test_groups_are_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAIN_SYNTHETIC", (SMALL,))
    assert engine.expand(["synthetic", SMALL]) == [SMALL]
    assert len(engine.ALL_SYNTHETIC) == len(set(engine.ALL_SYNTHETIC)) == 36


def test_what_cannot_run_does_not() -> None:
    assert not engine.applies("sensitivity", "synthetic-L4-none-noise0.3", named=True)
    assert engine.applies("sensitivity", SMALL, named=False)
    assert not engine.applies("qlognehvi-mixed", SMALL, named=False)
    assert engine.applies("qlognehvi-mixed", SMALL, named=True)
    assert engine.applies("qlognehvi-mixed", "digits-qat", named=False)
    assert set(engine.available(["tpe", "astrology"])) == {"tpe"}


@pytest.mark.parametrize(("words", "trials"), [([], 40), (["--strategies", "ax"], 112), (["--trials", "24"], 24)])
def test_slow_strategies_have_fewer_evaluations_unless_they_are_named(words: list[str], trials: int) -> None:
    assert engine.evaluations(engine.parse(words), "ax") == trials


# --- searches -------------------------------------------------------------------------------------------------------


def test_a_run_records_how_its_front_grew() -> None:
    job = Job(SMALL, "random", 3, 4, 30)
    done = run(job)
    assert {name: done[name] for name in job._fields} == job._asdict()
    assert len(done["curve"]) == 30
    assert done["curve"] == sorted(done["curve"])
    assert 0.3 < done["curve"][-1] <= 1
    assert done["cpu_s"] > 0
    assert {**run(job), "cpu_s": 0, "memory_bytes": 0} == {**done, "cpu_s": 0, "memory_bytes": 0}


def test_growth_is_timed_after_so_many_trials() -> None:
    timed = measure_growth(Size("random", 5, 20, 2))
    assert (timed["strategy"], timed["layers"], timed["trials"], timed["batch"]) == ("random", 5, 20, 2)
    assert timed["cpu_s"] > 0
    assert timed["first_cpu_s"] > 0


def test_the_command_prints_a_table_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["engine.py", "--problems", SMALL, "--strategies", "random", "sobol", "--seeds", "2", "--trials", "24"]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path)])
    monkeypatch.setattr(engine, "in_processes", lambda measure, jobs, processes: map(measure, jobs))
    assert engine.main() == 0
    shown = capsys.readouterr()
    assert shown.out.count("| random |") == shown.out.count("| sobol |") == 1
    assert len(shown.err.splitlines()) == 4
    assert (tmp_path / "engine-synthetic.png").exists()
    assert engine.main() == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (shown.out, "")


def test_a_wrong_name_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["engine.py", "--problems", "synthetic-50"])
    assert engine.main() == 2
    assert capsys.readouterr().err.startswith("problem 'synthetic-50' does not exist")


def test_quick_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "table_names", lambda: ("one", "two"))
    quick = engine.parse(["--quick"])
    assert (quick.seeds, quick.trials, quick.problems) == (2, 24, ["synthetic-L20-good-noise0.3", "one"])
