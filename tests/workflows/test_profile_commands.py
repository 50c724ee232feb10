"""``mobo-mpq profile`` as users type it: from a profiler's file to a search, and from a table to a fitted target."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.profiles.records import Row, write_table
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import LayerBits

Command = Callable[..., int]
Fails = Callable[..., str]

LITERT = """\
node type, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0.050, 0.048, 40%, 40%, 0, 1, conv:0
DEPTHWISE_CONV_2D, 0.031, 0.030, 25%, 65%, 0, 1, depthwise:1
RESHAPE, 0.001, 0.001, 2%, 67%, 0, 1, flatten:2
FULLY_CONNECTED, 0.005, 0.004, 33%, 100%, 0, 1, dense:3
"""


@pytest.fixture
def trtexec(tmp_path: Path) -> Path:
    """A profile of the toy network in 8 bits, and of the same in 4, ``int4.json``."""
    for bits in (8, 4):
        times = {"/0/Conv + /1/Relu": 0.012, "/2/Conv + /3/Relu": 0.02, "/4/Flatten": 0.001, "/5/Gemm": 0.004}
        content = [{"count": 9}, *({"name": name, "averageMs": ms * bits / 8} for name, ms in times.items())]
        (tmp_path / f"int{bits}.json").write_text(json.dumps(content))
    return tmp_path / "int8.json"


def test_from_profiles_to_a_search(
    command: Command, toy: str, trtexec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my-board.toml"
    files = (trtexec, trtexec.with_name("int4.json"))
    assert command("profile", "import", *files, "--bits", "8/8", "--bits", "4/4", "--task", toy, "--out", out) == 0
    printed = capsys.readouterr()
    assert str(out) in printed.out
    assert "int8.json: 1.000 µs of 37.000 µs belong to no layer, and are in no cost: /4/Flatten" in (printed.err)
    assert load_target(out).name == "my-board"
    arguments = ("search", "--task", toy, "--target", out, "--recipe", "ptq", "--weight-bits", "4,8")
    assert command(*arguments, "--activation-bits", "4,8", "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {layer["name"]: layer["bits"] for layer in document["layers"]} == dict.fromkeys("025", [[4, 4], [8, 8]])
    costs = {corner["policy"]: corner["costs"]["latency_s"] for corner in document["corners"]}
    assert costs["highest"] == pytest.approx(36e-6)
    assert costs["lowest"] == pytest.approx(18e-6)
    assert command("profile", "import", out.with_suffix(".csv"), "--task", toy, "--out", tmp_path / "again.toml") == 0
    again = load_target(tmp_path / "again.toml")
    assert again.bit_pairs == load_target(out).bit_pairs


@pytest.mark.slow
def test_a_search_on_measured_latencies(command: Command, toy: str, trtexec: Path, tmp_path: Path) -> None:
    out = tmp_path / "my-board.toml"
    files = (trtexec, trtexec.with_name("int4.json"))
    assert command("profile", "import", *files, "--bits", "8/8,4/4", "--task", toy, "--out", out) == 0
    small = (
        "--recipe",
        "ptq",
        "--strategy",
        "sobol",
        "--trials",
        "3",
        "--runner",
        "serial",
        "--home",
        tmp_path / "home",
    )
    assert command("search", "--task", toy, "--target", out, *small) == 0
    studies = list((tmp_path / "home" / "studies").iterdir())
    assert [study.name for study in studies] == ["toy_task-Toy-my-board"]


def test_a_table_alone_is_searched(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "board.csv"
    table.write_text("layer,w_bits,a_bits,latency_ms\n" + "".join(f"{n},{b},8,{b}\n" for n in "025" for b in (4, 8)))
    assert command("search", "--task", toy, "--target", table, "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["target"] == "board"
    assert document["corners"][0]["costs"]["latency_s"] == pytest.approx(24e-3)


def test_json_says_what_was_found_where(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profile.csv").write_text(LITERT)
    out = tmp_path / "phone.toml"
    arguments = ("profile", "import", tmp_path / "profile.csv", "--bits", "8/8", "--task", toy, "--out", out, "--json")
    assert command(*arguments, "--name", "phone-8", "--source", "a phone, 2 threads") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    document = json.loads(printed.out)
    assert document["schema"] == 1
    assert document["target"] == load_target(out).name == "phone-8"
    assert document["files"] == [str(out), str(out.with_suffix(".csv"))]
    assert [one["found_by"] for one in document["layers"]] == ["order"] * 3
    assert document["layers"][1]["operators"] == ["depthwise:1"]
    assert document["layers"][1]["latency_s"] == pytest.approx(30e-6)
    (profile,) = document["profiles"]
    assert profile["fixed_s"] == pytest.approx(1e-6)
    assert profile["unclaimed"] == [{"name": "flatten:2", "latency_s": pytest.approx(1e-6)}]
    assert load_target(out).sources["latency"] == "measured: a phone, 2 threads, profile.csv"


def test_a_profile_of_onnx_runtime(
    command: Command, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real one, of the network's own export; operators are called after what is fused into them."""
    onnxruntime = pytest.importorskip("onnxruntime")
    task = load_task(toy)
    images = torch.zeros(4, 1, 8, 8)
    with pytest.warns():  # of the exporter's parts
        torch.onnx.export(task.model(), (images,), str(tmp_path / "toy.onnx"), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.intra_op_num_threads = True, 1
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(str(tmp_path / "toy.onnx"), options, providers=["CPUExecutionProvider"])
    for _ in range(10):
        session.run(None, {session.get_inputs()[0].name: images.numpy().astype(np.float32)})
    profile, out = session.end_profiling(), tmp_path / "cpu.toml"
    arguments = ("profile", "import", profile, "--bits", "32/32", "--task", toy, "--out", out)
    assert command(*arguments) == 2
    assert "is of batch 4, not 1; give --batch 4" in capsys.readouterr().err
    assert command(*arguments, "--batch", "4", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["layer"] for one in document["layers"]] == ["0", "2", "5"]
    assert all(one["latency_s"] > 0 for one in document["layers"])
    target = load_target(out)
    assert target.batch == 4
    assert target.bit_pairs[OpKind.CONV] == {(32, 32)}


def test_maps_and_constraints(
    command: Command, toy: str, trtexec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hexagon-board.toml"
    arguments = ("profile", "import", trtexec, "--bits", "8/8", "--task", toy, "--out", out, "--target", "hexagon")
    assert command(*arguments, "--map", "5=/4/Flatten", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["layers"][2]["found_by"] == "map"
    assert document["layers"][2]["latency_s"] == pytest.approx(1e-6)
    assert (8, 8) in load_target(out).bit_pairs[OpKind.CONV]


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ('[{"count": 9}, {"name": "/0/Conv", "aver', ("--bits", "8/8"), "is not whole JSON"),
        ('[{"count": 9}, {"name": "/0/Conv", "averageMs": -1}]', ("--bits", "8/8"), "operator '/0/Conv' took -1 ms"),
        ('[{"count": 9}, {"name": "/0/Conv", "averageMs": NaN}]', ("--bits", "8/8"), "operator '/0/Conv' took nan ms"),
        ('[{"count": 9}, {"name": "/0/Conv", "averageS": 1}]', ("--bits", "8/8"), "has neither medianMs nor averageMs"),
        ('[{"count": 9}, {"name": "features.0", "averageMs": 1}]', ("--bits", "8/8"), "it may be of another model"),
        (LITERT.replace("avg_ms", "avg_us"), ("--bits", "8/8"), "expected avg_ms and name"),
        (LITERT, (), "1 different profiles and 0 pairs of bits"),
        (LITERT, ("--bits", "8"), "--bits is '8'; expected WEIGHT/ACTIVATION bits from 1 to 32"),
        (LITERT, ("--bits", "8/64"), "--bits is '8/64'; expected"),
        (LITERT, ("--bits", "8/8,4/4"), "1 different profiles and 2 pairs of bits"),
        (LITERT, ("--bits", "8/8", "--map", "0"), "--map is '0'; expected LAYER=NAME"),
        (LITERT, ("--bits", "8/8", "--map", "conv=x"), "unknown layer 'conv'; known: 0, 2, 5"),
        (LITERT, ("--bits", "8/8", "--batch", "0"), "--batch is '0'; expected a whole number of at least 1"),
        (
            LITERT,
            ("--bits", "8/8", "--missing", "guess"),
            "--missing is 'guess'; expected one of error, round_up, model",
        ),
        (LITERT, ("--bits", "8/8", "--missing", "model"), "--missing model and --fallback TARGET belong together"),
        (LITERT, ("--bits", "8/8", "--fallback", "t4"), "--missing model and --fallback TARGET belong together"),
        (LITERT, ("--bits", "8/8", "--target", "mpik"), "unknown target 'mpik'"),
        (LITERT, ("--bits", "3/3", "--target", "mpic"), "none of the measured pairs is one that target 'mpic'"),
        ("layer,w_bits,a_bits,latency_us\n0,8,8,1\n", (), "the table has no row for 2 of 3 layers"),
        ("layer,w_bits,a_bits,latency_us\n0,8,8,1\n0,8,8,2\n", (), "line 3 repeats line 2: layer '0' at 8 weight"),
        ("layer,w_bits,a_bits,latency_ns\n0,8,8,1\n", (), "column 'latency_ns' is not known"),
        ("layer,w_bits,a_bits,latency_us\n0,8,8,-1\n", (), "line 2: latency_us is '-1'"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    fails: Fails, toy: str, tmp_path: Path, content: str, arguments: tuple[str, ...], words: str
) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    out = tmp_path / "board.toml"
    assert words in fails("profile", "import", file, "--task", toy, "--out", out, *arguments)
    assert list(tmp_path.iterdir()) == [file]


def test_more_bad_input(fails: Fails, toy: str, trtexec: Path, tmp_path: Path) -> None:
    bits = ("--bits", "8/8")
    assert "needs the layers of its network; give --task" in fails("profile", "import", trtexec, *bits)
    assert "expected a path that ends in .toml" in fails("profile", "import", trtexec, *bits, "--out", "board.json")
    assert "cannot be read (No such file" in fails("profile", "import", tmp_path / "none.json", *bits, "--task", toy)
    assert "see 'mobo-mpq profile import --help'" in fails("profile", "import")
    assert fails("profile") == "Missing command; see 'mobo-mpq profile --help'"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The published kernels of a T4, as a long table."""
    rows = []
    with (Path(__file__).parents[1] / "data" / "t4_kernels_resnet18.csv").open() as file:
        for kernel in csv.DictReader(file):
            if "HWNC" in kernel["task"]:
                height, width, batch, _ = map(int, kernel["data_shape"].split("x"))
                kh, kw, outputs, inputs = map(int, kernel["weight_shape"].split("x"))
                stride, bits = json.loads(kernel["stride"])[0], 4 if kernel["weight_dtype"] == "int4" else 8
                space = ((height - kh) // stride + 1, (width - kw) // stride + 1)
                shape = Shape(OpKind.CONV, inputs, outputs, kh, kw, stride, 1, *space)
                seconds = float(kernel["best_latency_us"]) * 1e-6
                rows.append(Row(LayerBits(bits, bits), seconds, shape=shape, batch=batch))
    (tmp_path / "kernels.csv").write_text(write_table(rows, "t4"))
    return tmp_path / "kernels.csv"


def test_calibrate(command: Command, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.toml"
    assert command("profile", "calibrate", "rtx4090", table, "--out", out, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["target"], document["file"], document["rows"]) == (1, "rtx4090", str(out), 20)
    assert set(document["numbers"]) == {
        "pairs.4/4.efficiency", "pairs.8/8.efficiency", "overhead_s", "bandwidth_efficiency",
    }  # fmt: skip
    assert document["held_out"]["mean"] < 0.20 < document["before"]["mean"]
    target = load_target(out)
    assert target.name == "mine"
    assert target.latency.formula.pairs["8/8"].efficiency == document["numbers"]["pairs.8/8.efficiency"]
    assert "kernels.csv" in target.sources["latency.pairs.8/8.efficiency"]


def test_calibrate_prints_a_table(command: Command, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("profile", "calibrate", "t4", table) == 0
    printed = capsys.readouterr()
    assert "pairs.8/8.efficiency │ 0.1058" in printed.out
    assert "held_out │" in printed.out
    assert "20 rows; 'held_out': each row predicted from a fit to other rows, in 5 folds" in printed.err


def test_calibrate_refuses(fails: Fails, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    assert "target 'mpic' has no roofline" in fails("profile", "calibrate", "mpic", table, "--out", out)
    assert "unknown target 'v100'" in fails("profile", "calibrate", "v100", table)
    assert "ends in .toml" in fails("profile", "calibrate", "t4", table, "--out", tmp_path / "mine.json")
    text = table.read_text()
    table.write_text("\n".join(text.splitlines()[:3]) + "\n")
    assert "2 rows are too few" in fails("profile", "calibrate", "t4", table, "--out", out)
    rows = list(csv.DictReader(text.splitlines()))
    lines = [",".join([*row.values()][:-1] + [str(float(row["latency_us"]) / 1000)]) for row in rows]
    table.write_text("\n".join([text.splitlines()[0], *lines]))  # milliseconds under the name of microseconds
    assert "rows are faster than the peaks of target 't4' allow" in fails("profile", "calibrate", "t4", table)
    assert "cannot be read" in fails("profile", "calibrate", "t4", tmp_path / "none.csv")
    table.write_text("layer,w_bits,a_bits,latency_us\n" + "".join(f"c{i},8,8,{i + 1}\n" for i in range(9)))
    assert "has layer 'c0' without a shape" in fails("profile", "calibrate", "t4", table, "--out", out)
    assert not out.exists()
