"""Whatever bits a layer's neighbours have, ONNX Runtime finds a fast kernel for it, and calls it after the layer."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from mobo_mpq.export.kernels import suit_kernels
from mobo_mpq.export.onnx_qdq import export_onnx
from mobo_mpq.export.verify import verify_onnx
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.quant import apply_policy, calibrate
from mobo_mpq.quant.transform import QuantizedNetwork

FLOAT, INT8, FOUR = (32, 32), (8, 8), (8, 4)


class Small(nn.Module):
    """Every kind of layer, a clipping rectifier, a pooling by maximum, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, stride=2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        x = F.max_pool2d(F.relu(self.depthwise(x)), 2)
        x = F.relu(self.last(F.relu(self.pointwise(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network.from_model(Small(), torch.randn(2, 1, 16, 16))


def exported(network: Network, path: Path, **bits: tuple[int, int]) -> QuantizedNetwork:
    pairs = {layer.name: bits.get(layer.name, INT8) for layer in network.layers}
    result = apply_policy(network, Policy.of(pairs))
    torch.manual_seed(1)
    calibrate(result, [torch.randn(64, 1, 16, 16)])
    export_onnx(result, torch.randn(2, 1, 16, 16), path)
    return result


def optimized(path: Path) -> Any:
    """The graph that ONNX Runtime runs, without kernels that only some processors have."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath).graph


CASES: list[tuple[dict[str, tuple[int, int]], int, int]] = [
    ({}, 3, 1),  # the last convolution is averaged in float
    ({"stem": FLOAT}, 2, 1),
    ({"depthwise": FLOAT}, 1, 1),  # the stem before it has no integers to give
    ({"head": FLOAT}, 3, 0),
    ({name: FLOAT for name in ("stem", "depthwise", "pointwise", "last")}, 0, 1),
    ({"pointwise": FOUR}, 1, 1),  # what gives narrow grids, or takes them, computes in float
    ({"pointwise": (32, 8)}, 2, 1),
]


@pytest.mark.parametrize(("bits", "convolutions", "products"), CASES)
def test_integer_kernels_where_there_are_some_and_constant_weights_elsewhere(
    network: Network, tmp_path: Path, bits: dict[str, tuple[int, int]], convolutions: int, products: int
) -> None:
    path = tmp_path / "model.onnx"
    quantized = exported(network, path, **bits)
    graph = optimized(path)
    found = Counter(node.op_type for node in graph.node)
    assert found["QLinearConv"] == convolutions
    assert found["MatMulIntegerToFloat"] == products
    constants = {entry.name for entry in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Conv", "FusedConv", "Gemm", "MatMul"):
            assert node.input[1] in constants, node.name  # no weight is dequantized at every run
    torch.manual_seed(2)
    assert verify_onnx(path, quantized, [torch.randn(300, 1, 16, 16)], agreement=0.99).samples == 300


@pytest.mark.parametrize("bits", [(32, 8), (4, 2), (2, 4)])
def test_the_runtime_makes_nothing_coarser_that_the_policy_leaves_fine(
    network: Network, tmp_path: Path, bits: tuple[int, int]
) -> None:
    """Float weights stay float and biases, too, although the layer's input and its result are quantized."""
    path = tmp_path / "model.onnx"
    quantized = exported(network, path, depthwise=FLOAT, pointwise=bits, last=(8, 8))
    batch = torch.randn(300, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    graph = optimized(path)
    assert Counter(node.op_type for node in graph.node)["QLinearConv"] == 0
    assert verify_onnx(path, quantized, [batch]).max_abs_difference < 1e-4


class Frozen(nn.Module):
    """Batch norms that are sums and products with constants, as object detectors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1 if i == 0 else 8, 8, 3, padding=1, bias=False) for i in range(4)])
        for i in range(4):
            self.register_buffer(f"scale{i}", torch.logspace(-1, 1, 8).roll(i)[:, None, None])
            self.register_buffer(f"shift{i}", torch.linspace(-0.3, 0.3, 8)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = F.relu(self.get_buffer(f"shift{i}") + layer(x) * self.get_buffer(f"scale{i}"))
        return x.mean((2, 3))


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (4, 4)])
def test_sums_and_products_behind_a_convolution_make_nothing_coarser(tmp_path: Path, bits: tuple[int, int]) -> None:
    torch.manual_seed(0)
    frozen = Network.from_model(Frozen(), torch.randn(2, 1, 12, 12))
    quantized = exported(frozen, tmp_path / "model.onnx", **{layer.name: bits for layer in frozen.layers})
    batch = torch.randn(200, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    found = verify_onnx(tmp_path / "model.onnx", quantized, [batch])
    with torch.no_grad():
        assert found.max_abs_difference < 1e-3 * float(quantized(batch).abs().max())


class Twice(nn.Module):
    """A linear layer that is called twice, and a minimum of the user's own between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last, self.again, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.minimum(F.relu(self.first(x)), torch.tensor(1e6))
        x = F.relu(self.last(F.relu(self.second(x)))).amax((2, 3))
        return self.head(F.relu(self.again(F.relu(self.again(x)))))


def test_a_layer_that_is_called_twice_and_a_minimum_that_cuts_nothing_off(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network.from_model(Twice(), torch.randn(2, 1, 16, 16))
    quantized = exported(network, tmp_path / "model.onnx")
    assert verify_onnx(tmp_path / "model.onnx", quantized, [torch.randn(200, 1, 16, 16)], agreement=0.98)
    assert Counter(node.op_type for node in optimized(tmp_path / "model.onnx").node)["QLinearConv"] >= 1


def test_weights_stay_integers_in_the_file(network: Network, tmp_path: Path) -> None:
    exported(network, tmp_path / "model.onnx", depthwise=FLOAT)
    kinds = {entry.name: entry.data_type for entry in onnx.load(tmp_path / "model.onnx").graph.initializer}
    stored = [name for name in kinds if name.endswith(".integers")]
    assert len(stored) == 4
    assert {kinds[name] for name in stored} == {TensorProto.INT8}


@pytest.mark.parametrize("bits", [FLOAT, INT8])
def test_profiles_name_the_layers(network: Network, tmp_path: Path, bits: tuple[int, int]) -> None:
    path = tmp_path / "model.onnx"
    exported(network, path, **{layer.name: bits for layer in network.layers})
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros((1, 1, 16, 16), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    named = {event["name"].partition("/")[0] for event in events if event["cat"] == "Node" and "/" in event["name"]}
    assert named == {layer.name for layer in network.layers}


def gemm(**attributes: float) -> ir.Model:
    """A product of quantized operands, with a bias that is an input."""
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale"], ["dequantized"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"]),
        helper.make_node("Gemm", ["dequantized", "weight", "bias"], ["y"], **attributes),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 4))]
    inputs.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, (3,)))
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, (), [0.5])]
    constants.append(helper.make_tensor("w", TensorProto.INT8, (4, 3), range(12)))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3))
    return ir.from_proto(helper.make_model(helper.make_graph(nodes, "gemm", inputs, [y], constants)))


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_products_that_are_more_than_one_are_left(attributes: dict[str, float]) -> None:
    model = gemm(**attributes)
    suit_kernels(model)
    assert [node.op_type for node in model.graph][-1] == "Gemm"
