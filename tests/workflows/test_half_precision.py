"""``search --precision fp16``: what it says, writes down, and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mobo_mpq.config import StudyConfig
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.preparation import resolve, study_recipe
from mobo_mpq.workflows.record import StudyRecord

Command = Callable[..., int]
COMMON = ("--strategy", "sobol", "--trials", 2, "--runner", "serial", "--epochs", "0.2")


@pytest.mark.parametrize(("flags", "scaling"), [((), "auto"), (("--loss-scaling", "dynamic"), "dynamic")])
def test_a_search_in_float16(
    flags: tuple[str, ...],
    scaling: str,
    command: Command,
    toy: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("search", "--task", toy, "--name", "half", "--precision", "fp16", *flags, "--home", tmp_path)
    assert command(*given, *COMMON) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fp16 on the CPU")]
    assert len(said) == 1
    assert "torch's float16" in said[0]
    folder = Home.of(tmp_path).existing("half")
    recipe = study_recipe(folder.config())
    assert (recipe.options["precision"], recipe.options["loss_scaling"]) == ("fp16", scaling)
    for trial in StudyRecord.read(folder).trials:
        assert {"overflow_steps", "underflow_share", "underflows"} <= trial.details.keys()
    assert command("pareto", "half", "--json", "--home", tmp_path) == 0
    shown = json.loads(capsys.readouterr().out)["trials"]
    assert all(0.0 <= trial["details"]["underflow_share"] <= 1.0 for trial in shown)


def test_float32_says_nothing(command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("search", "--task", toy, "--name", "single", "--precision", "fp32", "--home", tmp_path)
    assert command(*given, *COMMON) == 0
    assert "float16" not in capsys.readouterr().err
    trials = StudyRecord.read(Home.of(tmp_path).existing("single")).trials
    assert all(dict(trial.details) == {} for trial in trials)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--recipe", "ptq", "--precision", "fp16"),
            "--precision is 'fp16', but recipe 'ptq' has no fine-tune whose arithmetic could be chosen; leave it out, "
            "or take --recipe ",
        ),
        (("--recipe", "multipoint", "--loss-scaling", "static"), "--loss-scaling is 'static', but recipe 'multipoint'"),
        (
            ("--loss-scaling", "static"),
            "loss scaling 'static' is for precision 'fp16', and this fine-tune is in 'fp32'; add --precision fp16, or "
            "leave --loss-scaling out",
        ),
        (("--precision", "half"), "unknown precision 'half'; known: fp16, fp32."),
        (("--precision", "fp16", "--loss-scaling", "adaptiv"), "unknown loss scaling 'adaptiv'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    flags: tuple[str, ...], sentence: str, fails: Callable[..., str], toy: str, tmp_path: Path
) -> None:
    assert fails("search", "--task", toy, "--home", tmp_path, *flags).startswith(sentence)


def test_options_of_the_study_file_mean_the_same(toy: str) -> None:
    by_fields = {"precision": "fp16", "loss_scaling": "static"}
    found = [
        study_recipe(resolve(StudyConfig.parse({"task": toy, **given})))
        for given in (by_fields, {"recipe_options": by_fields})
    ]
    assert found[0] == found[1]
