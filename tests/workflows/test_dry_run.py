"""What a search would look at, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fails = Callable[..., str]
Command = Callable[..., int]
Capture = pytest.CaptureFixture[str]

MACS = {"0": 8 * 16 * 9, "2": 8 * 16 * 9, "5": 1280}
WEIGHTS = {"0": 72, "2": 72, "5": 1280}


@pytest.fixture
def dry_run(command: Command, toy: str, capsys: Capture) -> Callable[..., dict[str, Any]]:
    """The document of a dry run of the toy."""

    def run(*arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        assert command("search", "--task", toy, "--dry-run", "--json", *arguments) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    return run


def corners(document: dict[str, Any], cost: str) -> dict[str, float]:
    return {corner["policy"]: corner["costs"][cost] for corner in document["corners"]}


def test_uniform_policies_are_corners(dry_run: Callable[..., dict[str, Any]]) -> None:
    document = dry_run("--objectives", "bops,size")
    every = sum(MACS.values())
    found = corners(document, "bops")
    assert list(found) == ["highest", "lowest", "W8/A4", "W8/A2", "W4/A8", "W4/A4", "W2/A8"]
    for name in list(found)[2:]:
        weight, activation = int(name[1]), int(name[-1])
        assert found[name] == every * weight * activation
    assert (found["highest"], found["lowest"]) == (every * 64, every * 4)
    assert corners(document, "size_bytes")["W4/A8"] == sum(WEIGHTS.values()) / 2
    assert all(set(corner["bits"]) == set(MACS) for corner in document["corners"])


def test_costs_of_layers_add_up_to_the_highest_policy(dry_run: Callable[..., dict[str, Any]]) -> None:
    document = dry_run("--objectives", "latency,energy,size")
    (highest,) = (corner for corner in document["corners"] if corner["policy"] == "highest")
    for name in ("latency_s", "energy_j", "size_bytes"):
        assert sum(layer["costs"][name] for layer in document["layers"]) == pytest.approx(highest["costs"][name])
    assert {layer["name"]: layer["costs"]["size_bytes"] for layer in document["layers"]} == WEIGHTS


def test_peak_memory_follows_the_bits_of_the_inputs(dry_run: Callable[..., dict[str, Any]]) -> None:
    peaks = {corner["policy"]: corner["peak_activation_bytes"] for corner in dry_run()["corners"]}
    assert peaks["highest"] == peaks["W2/A8"] > peaks["W8/A4"] == peaks["W4/A4"] > peaks["lowest"] > 0


def test_pinned_layers_keep_their_bits_in_uniform_policies(dry_run: Callable[..., dict[str, Any]]) -> None:
    document = dry_run("--pin", "0=8/8", "--objectives", "bops")
    assert corners(document, "bops")["W4/A4"] == 64 * MACS["0"] + 16 * (MACS["2"] + MACS["5"])


def test_a_uniform_policy_that_a_layer_cannot_have_is_left_out(
    dry_run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    target = tmp_path / "npu.toml"
    target.write_text(NPU)
    document = dry_run("--target", target, "--objectives", "size")
    assert list(corners(document, "size_bytes")) == ["highest", "lowest"], "linear layers have no 4 bits"
    assert {layer["name"]: layer["bits"] for layer in document["layers"]} == {
        "0": [[4, 8], [8, 8]],
        "2": [[4, 8], [8, 8]],
        "5": [[8, 8]],
    }


def test_the_cheapest_policy_is_shown_where_it_is_no_uniform_one(
    dry_run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A device on which four bits are fastest for weights and eight for inputs, kind by kind."""
    target = tmp_path / "odd.toml"
    target.write_text(ODD)
    document = dry_run("--target", target, "--weight-bits", "2,4,8", "--activation-bits", "4,8")
    found = corners(document, "latency_s")
    rate = {"conv": 5.0, "depthwise": 4.0, "linear": 4.0}  # conv has no 8/4, which is the fastest of all
    kinds = {layer["name"]: layer["kind"] for layer in document["layers"]}
    cheapest = sum(macs / rate[kinds[name]] for name, macs in MACS.items()) / 1e6
    assert found["least latency_s"] == pytest.approx(cheapest)
    assert found["least latency_s"] < min(value for name, value in found.items() if name != "least latency_s")


def test_a_target_without_latency(dry_run: Callable[..., dict[str, Any]], fails: Fails, toy: str) -> None:
    document = dry_run("--target", "edge-tpu", "--objectives", "size")
    assert document["policies"] == 1
    assert corners(document, "size_bytes") == dict.fromkeys(("highest", "lowest"), sum(WEIGHTS.values()))
    sentence = fails("search", "--task", toy, "--target", "edge-tpu", "--dry-run")
    assert "target 'edge-tpu' has no latency" in sentence
    assert "or search with --objectives size or bops" in sentence


def test_carried_bits_cost_what_their_carrier_costs(dry_run: Callable[..., dict[str, Any]]) -> None:
    document = dry_run("--target", "gap8", "--objectives", "latency,size")
    latency, size = corners(document, "latency_s"), corners(document, "size_bytes")
    assert len(set(latency.values())) == 1
    assert size["lowest"] == size["highest"] / 4


def test_the_tables_for_people(command: Command, toy: str, capsys: Capture) -> None:
    assert command("search", "--task", toy, "--objectives", "latency,energy", "--dry-run") == 0
    shown = capsys.readouterr().out
    for words in ("latency at highest", "2, 4, 8 × 2, 4, 8", "W4/A8", "peak activations", "energy"):
        assert words in shown
    assert "729 legal policies in 6 variables; 3584 MACs and 1424 weights per inference; costs on mpic are" in shown


NPU = """
schema = 1
name = "npu"
description = "fewer bits for convolutions alone"
bit_pairs = [
    { kinds = ["conv", "depthwise", "linear"], weight = [8], activation = [8] },
    { kinds = ["conv", "depthwise"], weight = [4], activation = [8], carrier = [8, 8] },
]
[sources]
bit_pairs = "assumed: an example"
"""

ODD = """
schema = 1
name = "odd"
description = "speed does not follow bits"
clock_hz = 1e6
bit_pairs = [
    { kinds = ["conv"], weight = [2, 4, 8], activation = [8] },
    { kinds = ["depthwise", "linear"], weight = [4, 8], activation = [4, 8] },
]
[latency]
model = "mac_rate"
macs_per_cycle = { "2/8" = 5.0, "4/8" = 3.0, "8/8" = 2.0, "4/4" = 3.5, "8/4" = 4.0 }
[sources]
bit_pairs = "assumed: an example"
clock_hz = "assumed: an example"
latency = "assumed: an example"
"""
