"""What profilers write, and the ways in which such a file is broken."""

import json
from pathlib import Path

import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.profiles.entries import CONVOLUTIONS, PRODUCTS, Profile
from mobo_mpq.objectives.profiles.importing import read_file

TRTEXEC = [
    {"count": 612},
    {
        "name": "Reformatting CopyNode for Input Tensor 0 to /stem/stem.0/Conv + /stem/stem.2/Relu",
        "timeMs": 1.2,
        "averageMs": 0.002,
        "medianMs": 0.0019,
        "percentage": 8.1,
    },
    {
        "name": "/stem/stem.0/Conv + /stem/stem.2/Relu",
        "timeMs": 6.1,
        "averageMs": 0.0101,
        "medianMs": 0.01,
        "percentage": 40.0,
    },
    {"name": "/block/Add", "timeMs": 0.6, "averageMs": 0.001, "medianMs": 0.001, "percentage": 4.0},
    {"name": "/classifier/Gemm", "timeMs": 2.4, "averageMs": 0.004, "medianMs": 0.0039, "percentage": 16.0},
]

HEADER = "node type, first, avg_ms, %, cdf%, mem KB, times called, name"
LITERT = f"""\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
ModifyGraphWithDelegate, 1.204, 1.204, 61%, 61%, 0, 1, ModifyGraphWithDelegate/0
AllocateTensors, 0.766, 0.766, 39%, 100%, 0, 1, AllocateTensors/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
{HEADER}
CONV_2D, 0.050, 0.0480, 40%, 40%, 0, 1, [net/stem/Relu;net/stem/Conv2D]:0
DEPTHWISE_CONV_2D, 0.031, 0.0300, 25%, 65%, 0, 1, [net/block/depthwise]:1
MEAN, 0.002, 0.0020, 2%, 67%, 0, 1, [net/mean]:2
FULLY_CONNECTED, 0.005, 0.0020, 33%, 100%, 0, 2, [net/classifier/MatMul;net/classifier/BiasAdd]:3

============================== Top by Computation Time ==============================
{HEADER}
CONV_2D, 0.050, 0.9999, 40%, 40%, 0, 1, [net/stem/Relu;net/stem/Conv2D]:0
"""


def event(name: str, microseconds, operator="Conv", shape=(1, 8, 4, 4), **arguments) -> dict:
    given = {"op_name": operator, "output_type_shape": [{"float": list(shape)}], "parameter_size": "64"} | arguments
    return {"cat": "Node", "ph": "X", "pid": 1, "tid": 1, "ts": 0, "dur": microseconds, "name": name, "args": given}


RUN = {"cat": "Session", "ph": "X", "name": "model_run", "dur": 99, "ts": 0, "args": {}}


def written(tmp_path: Path, content) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def profile(tmp_path: Path, content) -> Profile:
    read = read_file(written(tmp_path, content))
    assert isinstance(read, Profile)
    return read


def refusal(tmp_path: Path, content) -> str:
    path = written(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_trtexec(tmp_path):
    read = profile(tmp_path, TRTEXEC)
    assert read.runtime == "TensorRT trtexec"
    copy, stem, add, classifier = read.entries
    assert (copy.kinds, add.kinds) == (frozenset(), frozenset())
    assert (stem.name, stem.seconds, stem.kinds) == (TRTEXEC[2]["name"], pytest.approx(10e-6), CONVOLUTIONS)
    assert (classifier.seconds, classifier.kinds) == (pytest.approx(3.9e-6), PRODUCTS)


def test_old_versions_of_trtexec_have_no_median(tmp_path):
    old = [{key: value for key, value in element.items() if key != "medianMs"} for element in TRTEXEC]
    assert profile(tmp_path, old).entries[1].seconds == pytest.approx(10.1e-6)


def test_litert(tmp_path):
    read = profile(tmp_path, LITERT)
    assert read.runtime == "LiteRT benchmark_model"
    stem, depthwise, mean, classifier = read.entries
    assert (stem.seconds, stem.kinds) == (pytest.approx(48e-6), {OpKind.CONV})
    assert stem.name == "[net/stem/Relu;net/stem/Conv2D]:0"
    assert (depthwise.kinds, mean.kinds, classifier.kinds) == ({OpKind.DEPTHWISE}, frozenset(), PRODUCTS)
    assert classifier.seconds == pytest.approx(4e-6)  # called twice per run


def test_names_of_xnnpack(tmp_path):
    lines = [
        HEADER,
        "Convolution (NHWC QC8) IGEMM, 1, 0.1, 1%, 1%, 0, 1, Delegate/Convolution (NHWC, QC8) IGEMM:0",
        "Convolution (NHWC QC8) DWConv, 1, 0.1, 1%, 1%, 0, 1, Delegate/Convolution (NHWC, QC8) DWConv:1",
        "Transpose Conv, 1, 0.1, 1%, 1%, 0, 1, Delegate/Transpose Conv:2",
        "Fully Connected (NC QC8) GEMM, 1, 0.1, 1%, 1%, 0, 1, Delegate/Fully Connected (NC, QC8) GEMM:3",
    ]
    entries = profile(tmp_path, "\n".join(lines)).entries
    assert [entry.kinds for entry in entries] == [{OpKind.CONV}, {OpKind.DEPTHWISE}, frozenset(), PRODUCTS]
    assert entries[0].name == "Delegate/Convolution (NHWC,QC8) IGEMM:0"


def test_onnx_runtime_takes_the_middle_of_the_runs_after_the_first(tmp_path):
    events = []
    for microseconds in (90, 3, 5, 4, 4, 80):
        events += [event("c_kernel_time", microseconds), {**event("c_fence_before", 7)}, RUN]
    (entry,) = profile(tmp_path, events).entries
    assert (entry.name, entry.kinds, entry.output_shape) == ("c", CONVOLUTIONS, (1, 8, 4, 4))
    assert entry.seconds == pytest.approx((5 + 4 + 4) / 3 * 1e-6)
    assert entry.repeats == 5


def test_nodes_of_one_name_add_up_within_a_run(tmp_path):
    events = []
    for _ in range(3):
        events += [event("ReorderOutput_kernel_time", 2, "ReorderOutput"), event("c_kernel_time", 6)]
        events += [event("ReorderOutput_kernel_time", 3, "ReorderOutput"), RUN]
    reorder, conv = profile(tmp_path, events).entries
    assert (reorder.seconds, conv.seconds) == (pytest.approx(5e-6), pytest.approx(6e-6))
    assert reorder.kinds == frozenset()


def test_a_single_run_counts_and_so_does_a_profile_without_sessions(tmp_path):
    assert profile(tmp_path, [event("c_kernel_time", 4), RUN]).entries[0].seconds == pytest.approx(4e-6)
    bare = [event("c_kernel_time", 9), event("c_kernel_time", 4)]
    assert profile(tmp_path, bare).entries[0].seconds == pytest.approx(4e-6)


@pytest.mark.parametrize(
    ("operator", "arguments", "kinds"),
    [
        ("QLinearConv", {}, CONVOLUTIONS),
        ("FusedConv", {}, CONVOLUTIONS),
        ("QGemm", {}, PRODUCTS),
        ("MatMulNBits", {}, PRODUCTS),
        ("MatMul", {"parameter_size": "0"}, frozenset()),  # of two activations
        ("QuantizeLinear", {}, frozenset()),
        ("ConvTranspose", {}, frozenset()),
    ],
)
def test_operators_of_onnx_runtime(tmp_path, operator, arguments, kinds):
    (entry,) = profile(tmp_path, [event("n_kernel_time", 1, operator, **arguments)]).entries
    assert entry.kinds == kinds


@pytest.mark.parametrize("shapes", [None, [], [{}], [{"float": "x"}], [{"float": ["N", 8]}], "?"])
def test_shapes_that_are_not_known(tmp_path, shapes):
    assert profile(tmp_path, [event("n_kernel_time", 1, output_type_shape=shapes)]).entries[0].output_shape == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(TRTEXEC)[:-40], "is not whole JSON: "),
        ("[" * 100_000, "is n"),
        ('{"layers": []}', "is no profile that is known; expected one of TensorRT trtexec, ONNX Runtime, LiteRT"),
        ("[]", "is no profile that is known"),
        ("", "is no profile that is known"),
        ("hello", "is no profile that is known"),
        ([{"count": 5}], "holds no operator that took any time"),
        ([{"count": 5}, "x"], "element 1 has no name"),
        ([*TRTEXEC, TRTEXEC[-1]], "operator '/classifier/Gemm' comes twice"),
        (
            [{"count": 5}, {"name": "c", "averageUs": 3.0}],
            "operator 'c' has neither medianMs nor averageMs, but name, av",
        ),
        ([{"count": 5}, {"name": "c", "averageMs": -1.0}], "operator 'c' took -1.0 ms; expected a finite number of at"),
        ('[{"count": 5}, {"name": "c", "averageMs": NaN}]', "operator 'c' took nan ms"),
        ([{"count": 5}, {"name": "c", "averageMs": "3"}], "operator 'c' took '3' ms"),
        ([{"count": 5}, {"name": "c", "averageMs": True}], "operator 'c' took True ms"),
        ([event("c_kernel_time", -3)], "operator 'c' took -3 µs"),
        ([event("c_kernel_time", None)], "operator 'c' took None µs"),
        ([RUN], "of ONNX Runtime holds no operator that took any time; profile some runs"),
        ([event("c_kernel_time", 0)], "holds no operator that took any time"),
        (LITERT.split("Operator-wise")[0], "has no table of operators of the regular runs; give benchmark_model"),
        (LITERT.replace("avg_ms", "avg_us"), "the columns are node type, first, avg_us, %, cdf%, mem kb"),
        (LITERT.replace("0.0480", "nan"), "operator '[net/stem/Relu;net/stem/Conv2D]:0' took nan ms"),
        (LITERT.replace("0.0480", "-1"), "took -1.0 ms"),
        (LITERT.replace("0.0480", "slow"), "took 'slow' ms"),
        (LITERT[: LITERT.index("DEPTHWISE") + 22], "line 11: 2 cells under 8 columns; copy the whole file"),
    ],
)
def test_broken_files(tmp_path, content, words):
    assert words in refusal(tmp_path, content)


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="profile '.*none.json' cannot be read .No such file"):
        read_file(tmp_path / "none.json")
