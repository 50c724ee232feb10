"""What `mobo-mpq targets` says about devices, and how broken documents are refused on the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import mobo_mpq as mm
from mobo_mpq.objectives.hardware import target_names

Fails = Callable[..., str]
Command = Callable[..., int]
Capture = pytest.CaptureFixture[str]

NPU = """
schema = 1
name = "npu"
description = "a device of which little is known [see its data sheet]"

[[bit_pairs]]
kinds = ["conv", "linear"]
weight = [8]
activation = [8, 16]

[[bit_pairs]]
kinds = ["conv"]
weight = [3, 4, 5]
activation = [8]
carrier = [8, 8]

[size]
containers = [4, 8]
bytes_per_channel = 8

[sources]
bit_pairs = "assumed: an example [1]"
size = "assumed: an example"
"""


def document(name: str) -> dict[str, Any]:
    return tomllib.loads((files("mobo_mpq.objectives.targets") / f"{name}.toml").read_text())


def test_the_list_says_what_each_target_has(command: Command, capsys: Capture) -> None:
    assert command("targets", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == target_names()
    assert rows["mpic"] == {
        "name": "mpic",
        "weight_bits": [2, 4, 8],
        "activation_bits": [2, 4, 8],
        "kinds": ["conv", "depthwise", "linear"],
        "latency": True,
        "model": "mac_rate",
        "energy": True,
        "batch": 1,
        "description": document("mpic")["description"],
    }
    assert rows["bismo-cloud"]["batch"] == 16
    assert not rows["bismo-cloud"]["energy"]


@pytest.mark.parametrize("name", target_names())
def test_every_target_can_be_shown(name: str, command: Command, capsys: Capture) -> None:
    assert command("targets", name, "--json") == 0
    shown, target = json.loads(capsys.readouterr().out), mm.load_target(name)
    assert shown["schema"] == 1
    assert (shown["name"], shown["batch"], shown["clock_hz"]) == (name, target.batch, target.clock_hz)
    assert shown["sources"] == document(name)["sources"]
    for kind, pairs in shown["kinds"].items():
        every = {tuple(pair) for pair in pairs["native"]} | {tuple(entry["pair"]) for entry in pairs["carried"]}
        assert every == target.bit_pairs[kind]
    assert (shown["energy"] is None) == (target.energy is None)
    assert command("targets", name) == 0
    text = capsys.readouterr().out
    assert document(name)["description"] in text
    assert all(field in text for field in shown["sources"])


def test_a_device_shows_its_numbers(command: Command, capsys: Capture) -> None:
    assert command("targets", "mpic", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    written = document("mpic")
    assert shown["latency"]["model"] == "mac_rate"
    assert shown["latency"]["constants"]["macs_per_cycle"] == written["latency"]["macs_per_cycle"]
    assert shown["energy"] == {"model": "active_power", "constants": {"power_w": written["energy"]["power_w"]}}
    assert shown["size"] == {"containers": [], "bytes_per_channel": 0.0}
    assert command("targets", "mpic") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2, 4, 8 × 2, 4, 8" in text
    assert "4/4 = 3.5" in text
    assert "costs: of a batch of 1, at 250 MHz" in text
    assert "size: weights are packed without gaps" in text


def test_a_device_of_which_only_the_bits_are_known(command: Command, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "npu.toml"
    path.write_text(NPU)
    assert command("targets", path, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["latency"] is shown["energy"] is shown["clock_hz"] is None
    assert shown["kinds"]["conv"] == {
        "native": [[8, 8], [8, 16]],
        "carried": [{"pair": [weight, 8], "carrier": [8, 8]} for weight in (3, 4, 5)],
        "unpriced": [[3, 8], [4, 8], [5, 8], [8, 8], [8, 16]],
    }
    assert command("targets", path) == 0
    text = capsys.readouterr().out
    assert "a device of which little is known [see its data sheet]" in text
    assert "assumed: an example [1]" in text, "brackets are text, not markup"
    assert "3-5 × 8 as 8/8" in text
    assert "latency: none published; measure the layers and import them with 'mobo-mpq profile import FILE" in text
    assert "energy: no source gives one" in text
    assert "size: weights are stored in 4, 8 bits, and 8 bytes per output channel" in text
    assert "containers = 4, 8, bytes_per_channel = 8" in text


def test_long_tables_of_numbers_are_cut_for_people(command: Command, tmp_path: Path, capsys: Capture) -> None:
    content = document("mpic")
    content["latency"]["macs_per_cycle"] |= {f"{w}/{a}": 1.0 for w in range(9, 15) for a in range(9, 15)}
    (tmp_path / "wide.toml").write_text(tomli_w.dumps(content))
    assert command("targets", tmp_path / "wide.toml") == 0
    assert "and 21 more: see --json" in " ".join(capsys.readouterr().out.replace("│", " ").split())


# --- refused documents ------------------------------------------------------------------------------------------------


def test_unknown_targets(fails: Fails, tmp_path: Path) -> None:
    assert "unknown target 'mpik'; known: " in (sentence := fails("targets", "mpik"))
    assert "Did you mean 'mpic'?" in sentence
    assert f"target '{tmp_path / 'no.toml'}' cannot be read" in fails("targets", tmp_path / "no.toml", "--json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "field 'schema' is 2; this version reads schema 1"),
        ({"schema": None}, "field 'schema' is None; this version reads schema 1"),
        ({"cores": 2}, "field 'cores': Extra inputs are not permitted"),
        ({"name": None}, "field 'name': Field required"),
        ({"bit_pairs": None}, "field 'bit_pairs': Field required"),
        ({"sources": {}}, "has no source; say in [sources]"),
        ({"clock_hz": None}, "field 'clock_hz' is missing"),
        ({"clock_hz": float("nan")}, "field 'clock_hz': Input should be a finite number"),
        ({"batch": -1}, "field 'batch': Input should be greater than 0"),
        ({"latency": {"model": "mac_rat"}}, "unknown latency model 'mac_rat'; known: "),
        ({"latency": {"model": "mac_rate", "macs_per_cycle": {"8/8": -1.0}}}, "field 'latency.macs_per_cycle.8/8'"),
        ({"latency": {"model": "mac_rate", "macs_per_cycle": {"8/8": 1.0}, "x": 1}}, "field 'latency.x': Extra inputs"),
        ({"energy": {"model": "active_powr", "power_w": 1.0}}, "unknown energy model 'active_powr'; known: "),
    ],
)
@pytest.mark.parametrize("verb", [["targets"], ["search", "--dry-run", "--task", "digits", "--target"]])
def test_broken_documents(change: dict[str, Any], words: str, verb: list[str], fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(tomli_w.dumps({k: v for k, v in (document("mpic") | change).items() if v is not None}))
    assert words in (sentence := fails(*verb, path))
    assert sentence.startswith(("target document '", "unknown "))
    assert str(path) in sentence


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"schema = 1\nname = ", "is not TOML: "),
        (b"schema = 1\nschema = 1\n", "is not TOML: "),
        (b"\xff\xfe", "cannot be read"),
        (b"", "field 'schema' is None"),
    ],
)
def test_what_is_no_document(content: bytes, words: str, fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(content)
    assert words in (sentence := fails("targets", path))
    assert str(path) in sentence
