"""Layers timed in ONNX Runtime: what is there, what it adds up to, and what is refused. No test looks at how long."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Example, Network
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.profiles.records import read_table
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.workflows import measuring, timing
from mobo_mpq.workflows.measuring import FLOAT, INT8, PRECISIONS, Timed, measure_network, measured_document
from mobo_mpq.workflows.timing import attribute, spread, time_file

Command = Callable[..., int]
Fails = Callable[..., str]


class Branching(nn.Module):
    """Two inputs by name, every kind of layer, a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3)
        self.depthwise, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 4)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        x = F.relu(self.stem(image) + self.side(other))
        return self.head(F.relu(self.depthwise(x)).mean((2, 3)))


def inputs() -> dict[str, Tensor]:
    return {"other": torch.randn(3, 1, 10, 10), "image": torch.randn(3, 1, 10, 10)}


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network.from_model(Branching(), inputs())


@pytest.fixture(scope="module")
def timed(network: Network) -> Timed:
    return measure_network(network, inputs(), repeats=2)


def test_every_layer_has_a_time_at_every_precision(timed: Timed, network: Network) -> None:
    names = [layer.name for layer in network.layers]
    assert [(row.layer, row.bits) for row in timed.rows] == [(name, bits) for bits in PRECISIONS for name in names]
    for row in timed.rows:
        assert row.latency_s > 0.0
        assert row.std_s is not None and row.std_s >= 0.0
        assert row.repeats == 2 * measuring.ROUNDS
    for word in (onnxruntime.__version__, "1 thread,", "5 rounds of 2 runs"):
        assert word in timed.source


def test_layers_add_up_to_the_network(timed: Timed, network: Network) -> None:
    for bits in PRECISIONS:
        uniform = Policy.uniform(network.layers, *bits)
        assert timed.latency_s(uniform) == pytest.approx(timed.whole_s[bits])
    mixed = Policy.uniform(network.layers, *INT8).with_bits("head", weight=32, activation=32)
    head = {row.bits: row.latency_s for row in timed.rows if row.layer == "head"}
    assert timed.latency_s(mixed) == pytest.approx(timed.whole_s[INT8] - head[INT8] + head[FLOAT])


def test_the_document_carries_narrow_weights(timed: Timed) -> None:
    document = measured_document(timed, name="here", file="here.csv")
    pairs = {(w, a) for entry in document["bit_pairs"] for w in entry["weight"] for a in entry["activation"]}
    assert pairs == {(32, 32), *((weight, 8) for weight in range(2, 9))}
    assert [entry["carrier"] for entry in document["bit_pairs"] if "carrier" in entry] == [[8, 8]]
    assert all(source == f"measured: {timed.source}" for source in document["sources"].values())


def test_from_a_task_to_a_target_that_a_search_takes(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "here.toml"
    assert command("profile", "measure", "--task", toy, "--out", out, "--repeats", 2, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == 1
    assert report["target"] == "here"
    assert report["files"] == [str(out), str(out.with_suffix(".csv"))]
    target = load_target(out)
    rows = {(row.layer, row.bits): row for row in read_table(out.with_suffix(".csv"))}
    assert len(rows) == len(report["layers"]) == 3 * len(PRECISIONS)
    for layer in report["layers"]:
        row = rows[layer["layer"], LayerBits(layer["weight"], layer["activation"])]
        assert row.latency_s == pytest.approx(layer["latency_s"], rel=1e-5)
        assert row.shape is not None
        spec = row.shape.layer(row.layer)
        assert target.latency.layer_cost(spec, row.bits) == row.latency_s
        if row.bits == INT8:
            assert target.latency.layer_cost(spec, LayerBits(4, 8)) == row.latency_s
    assert [network["weight"] for network in report["networks"]] == [32, 8]
    flags = ("--target", out, "--weight-bits", "4,8,32", "--activation-bits", "8,32", "--dry-run")
    assert command("search", "--task", toy, *flags, "--json") == 0
    corners = {c["policy"]: c["costs"]["latency_s"] for c in json.loads(capsys.readouterr().out)["corners"]}
    assert corners["highest"] == pytest.approx(report["networks"][0]["latency_s"], rel=1e-5)
    assert corners["lowest"] == pytest.approx(report["networks"][1]["latency_s"], rel=1e-5)


def test_the_table_for_people(
    command: Command, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("profile", "measure", "--task", toy, "--repeats", 1, "--threads", 2) == 0
    captured = capsys.readouterr()
    assert "this-machine.toml" in captured.out.splitlines()
    assert (tmp_path / "this-machine.csv").exists()
    assert "µs" in captured.out
    assert "2 threads" in captured.err
    assert "next: 'mobo-mpq search --task" in captured.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--repeats", 0), "--repeats is '0'; expected a whole number of at least 1"),
        (("--threads", "many"), "--threads is 'many'; expected a whole number of at least 1"),
        (("--out", "here.csv"), "--out is 'here.csv'; expected a path that ends in .toml"),
        (("--task", "nothing"), "nothing"),
    ],
)
def test_wrong_flags(fails: Fails, flags: tuple[object, ...], words: str, tmp_path: Path) -> None:
    assert words in fails("profile", "measure", *flags)


def test_less_than_one_repeat_or_thread(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--repeats is 0; expected a whole number of at least 1"):
        measure_network(network, inputs(), repeats=0)
    with pytest.raises(InputError, match="--threads is -1; expected a whole number of at least 1"):
        time_file(tmp_path / "none.onnx", torch.zeros(1), repeats=1, threads=-1)


def test_without_onnx_runtime(fails: Fails, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    sentence = fails("profile", "measure", "--task", toy)
    assert sentence.startswith("ONNX Runtime is not installed, which 'profile measure' times layers in; run 'pip")


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("no such operator\nmore"), "no such operator"), (KeyError(), "KeyError")]
)
def test_a_model_that_cannot_be_exported(
    network: Network, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(measuring, "export_onnx", fail)
    with pytest.raises(
        InputError, match=rf"cannot be exported to ONNX \({reason}\); measure its layers in the device's"
    ):
        measure_network(network, inputs(), repeats=1)


def test_an_error_that_says_enough_is_passed_on(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr(measuring, "export_onnx", fail)
    with pytest.raises(InputError, match="^the disk is full$"):
        measure_network(network, inputs(), repeats=1)


# --- kernels and layers ---------------------------------------------------------------------------------------------

LAYERS = [LayerSpec(name, OpKind.LINEAR, (2, 2), (2,), (2,)) for name in ("a", "a.b", "c")]


def test_what_belongs_to_no_layer_counts_towards_the_next() -> None:
    kernels = [("Quantize", 1.0), ("a/Conv_nchwc", 10.0), ("node_add", 2.0), ("a.b/MatMul", 20.0), ("a.b/Add", 3.0)]
    kernels += [("Reorder", 4.0), ("c/Conv_token_3", 30.0), ("Softmax", 5.0)]
    assert attribute(kernels, LAYERS) == {"a": 11.0, "a.b": 25.0, "c": 39.0}


def test_less_than_the_profiler_can_tell_is_not_nothing() -> None:
    assert attribute([(f"{layer.name}/MatMul", 0.0) for layer in LAYERS], LAYERS) == dict.fromkeys(
        ("a", "a.b", "c"), 1e-7
    )


def test_a_layer_without_a_kernel() -> None:
    with pytest.raises(
        InputError, match="has no kernel of layer 'c': it fused it with another, or never runs it; import"
    ):
        attribute([("a/Conv", 1.0), ("a.b/Conv", 1.0), ("other", 1.0)], LAYERS)


def test_a_time_that_is_none() -> None:
    kernels = [("a/Conv", 1.0), ("a.b/Conv", float("nan")), ("c/Conv", 1.0)]
    with pytest.raises(InputError, match=r"layer 'a\.b' took nan s; expected a finite time: measure again"):
        attribute(kernels, LAYERS)


def test_spread_is_that_of_a_normal_distribution() -> None:
    values = torch.distributions.Normal(3.0, 2.0).icdf(torch.linspace(0.001, 0.999, 999)).tolist()
    assert spread(values) == pytest.approx(2.0, rel=0.01)
    assert spread([5.0, 5.0, 90.0]) == 0.0


def test_the_machine_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert timing.machine()
    monkeypatch.setattr(timing, "Path", lambda _: tmp_path / "none")
    assert timing.machine()


def test_samples_of_every_structure(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.left(left) + self.right(right)

    example: Example = (torch.randn(5, 4), torch.randn(5, 3))
    timed = measure_network(Network.from_model(Sum(), example), example, repeats=1)
    assert {row.layer for row in timed.rows} == {"left", "right"}
