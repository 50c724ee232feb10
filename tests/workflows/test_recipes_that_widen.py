"""A search with ``multipoint``, from its costs to the exported files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mobo_mpq.export.policy_json import read_policy

Command = Callable[..., int]


def test_from_the_search_to_the_files(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.toml"
    study.write_text('recipe = "multipoint"\nstrategy = "amp"\n[recipe_options]\nextra = 0.3\n')
    home = ("--home", tmp_path / "home")
    for recipe in ("multipoint", "ptq"):
        arguments = ("--task", toy, "--name", recipe, "--recipe", recipe, "--trials", 4, "--runner", "serial")
        flags = study if recipe == "multipoint" else "--strategy=amp"
        assert command("search", flags, *arguments, "--objectives", "latency,size", *home) == 0
        capsys.readouterr()
    costs: dict[str, dict[str, list[float]]] = {}
    for name in ("multipoint", "ptq"):
        lines = (tmp_path / "home" / "studies" / name / "journal.jsonl").read_text().splitlines()
        trials = [event for event in map(json.loads, lines) if event.get("state") == "complete"]
        costs[name] = {
            json.dumps(trial["policy"]): [trial["values"][cost][0] for cost in ("latency_s", "size_bytes")]
            for trial in trials
        }
        assert json.loads(lines[0])["strategy"] == {"name": "amp", "options": {}}
    lowest, wide = min(costs["multipoint"].items(), key=lambda item: item[1][1])
    plain = costs["ptq"][lowest]  # both begin with the highest bits and the end of the list
    assert all(a > b for a, b in zip(wide, plain, strict=True))
    highest = next(iter(costs["ptq"]))
    assert costs["multipoint"][highest] == costs["ptq"][highest]  # 8 bits need no further points
    for form in ("policy", "onnx"):
        out = tmp_path / form
        arguments = ("--study", "multipoint", "--trial", "smallest", "--format", form, "--out", out)
        assert command("export", *arguments, *home) == 0
        document = read_policy(out / "policy.json")
        few = {name for name, bits in document.policy.items() if bits.weight < 8}
        assert few
        assert set(document.points) == few
        assert all(max(counts) > 1 for counts in document.points.values())
    assert (tmp_path / "onnx" / "model.onnx").exists()


def test_a_search_for_a_drop_is_resumed_with_its_options(
    command: Command, fails: Callable[..., str], toy: str, tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text('strategy = "amp"\nrecipe = "ptq"\n[strategy_options]\nsearch = "binary"\ndrop = 0.05\n')
    home = ("--home", tmp_path / "home")
    arguments = ("--task", toy, "--name", "drop", "--runner", "serial")
    assert command("search", study, *arguments, "--trials", 2, *home) == 0
    assert command("resume", "drop", "--trials", 5, "--runner", "serial", *home) == 0
    lines = (tmp_path / "home" / "studies" / "drop" / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert events[0]["strategy"] == {"name": "amp", "options": {"search": "binary", "drop": 0.05}}
    diagnosis = [event for event in events if event["event"] == "surrogate"][-1]["diagnosis"]
    assert diagnosis["search"] == "binary"
    assert diagnosis["target"] == pytest.approx(events[0]["float"]["val"]["accuracy"][0] - 0.05)
    assert command("search", "--task", toy, "--name", "once", "--strategy", "amp", "--recipe", "ptq",
                   "--trials", 1, "--runner", "serial", *home) == 0  # fmt: skip
    study.write_text('strategy = "amp"\n[strategy_options]\nsearch = "binary"\n')
    assert fails("search", study, *arguments, *home).startswith("option 'drop' of strategy 'amp' is None")
