"""Layers with several points in exported files: wider, and added up again."""

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobo_mpq.errors import PolicyError
from mobo_mpq.export.onnx_qdq import export_onnx
from mobo_mpq.export.policy_json import PolicyDocument, read_policy, write_policy
from mobo_mpq.export.verify import verify_onnx
from mobo_mpq.export.wide import Fold
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.quant.base import build_quantizer
from mobo_mpq.quant.multipoint import MultipointQuantizer, next_point, points_of
from mobo_mpq.quant.transform import WEIGHT, QuantizedNetwork
from mobo_mpq.training.losses import default_loss
from mobo_mpq.training.recipes import TrainingContext, run_recipe
from mobo_mpq.trial import Recipe


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.pointwise(F.relu(self.depthwise(x))))
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Tied(nn.Module):
    """A head that reads the embedding's weight, and a product of stored matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(24, 16)
        self.up = nn.Linear(16, 16)
        self.matrix = nn.Parameter(torch.randn(16, 16) / 4)
        self.head = nn.Linear(16, 24, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = F.gelu(self.up(self.embedding(ids)))
        return self.head(x @ self.matrix)


def inputs_of(kind: str, n: int) -> Tensor:
    return torch.randn(n, 1, 16, 16) if kind == "conv" else torch.randint(24, (n, 10))


def made(kind: str, activation: int = 16, **options: float | str) -> QuantizedNetwork:
    torch.manual_seed(0)
    model = Convolutions() if kind == "conv" else Tied()
    calibration = [inputs_of(kind, 16)]
    network = Network.from_model(model, calibration[0])
    context = TrainingContext(network, [], default_loss, calibration)
    policy = Policy.uniform(network.layers, 3, activation)
    return run_recipe(Recipe("multipoint", options={"extra": 0.5, **options}), context, policy, seed=0)


@pytest.mark.parametrize("points", [2.0, 3.0])
@pytest.mark.parametrize("kind", ["conv", "tied"])
def test_the_runtime_computes_the_sums_of_points(kind: str, points: float, tmp_path: Path) -> None:
    network = made(kind, points=points)
    path, x = tmp_path / "model.onnx", inputs_of(kind, 5)
    export_onnx(network, inputs_of(kind, 2), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=1e-4, atol=1e-5)


def test_layers_are_wider_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    network = made("conv", activation=8)
    export_onnx(network, inputs_of("conv", 2), path, model_digest="d", target="mpic")
    assert verify_onnx(path, network, [inputs_of("conv", 64)], agreement=0.95).samples == 64
    model = onnx.load(path)
    outs = {
        tuple(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims
    }
    assert {(12, 1, 3, 3), (12, 8, 1, 1), (15, 128)} & outs >= {(12, 1, 3, 3), (12, 8, 1, 1)}
    groups = [a.i for node in model.graph.node for a in node.attribute if a.name == "group" and a.i > 1]
    assert groups == [12]  # the depthwise one
    (text,) = (entry.value for entry in model.metadata_props if entry.key == "mobo_mpq.policy")
    layers = json.loads(text)["layers"]
    assert sum(layers["stem"]["points"]) == 12
    assert layers["stem"]["points"] == list(points_of(network)["stem"])


@pytest.mark.parametrize("kind", ["conv", "depthwise", "linear"])
def test_the_folded_wide_layer_is_the_sum_of_the_points(kind: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn({"conv": (6, 4, 3, 3), "depthwise": (6, 1, 3, 3), "linear": (6, 9)}[kind])
    first = build_quantizer(WEIGHT, 2, shape=weight.shape, axis=0)
    assert first is not None
    first.calibrate(weight)
    quantizer = MultipointQuantizer(first, tuple(weight.shape), 4)
    residual = (weight - first(weight)).flatten(1)
    integers, scale = next_point(residual, 2)
    again, scale_again = next_point(residual - scale[:, None] * integers, 2)
    quantizer.set(
        torch.tensor([1, 4, 1]),
        torch.stack([scale[1], scale[4], scale_again[1]]),
        torch.stack([integers[1], integers[4], again[1]]),
    )
    grid, wide, source = quantizer.wide(weight)
    fold = Fold(source, 6, -1 if kind == "linear" else 1)
    if kind == "linear":
        x = torch.randn(7, 9)
        found, expected = fold(x @ grid.dequantize(wide).T), x @ quantizer(weight).T
    elif kind == "conv":
        x = torch.randn(2, 4, 5, 5)
        found, expected = fold(F.conv2d(x, grid.dequantize(wide))), F.conv2d(x, quantizer(weight))
    else:
        x = torch.randn(2, 6, 5, 5)
        found = fold(F.conv2d(x[:, source], grid.dequantize(wide), groups=len(source)))
        expected = F.conv2d(x, quantizer(weight), groups=6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_points_in_the_policy_file(tmp_path: Path) -> None:
    policy, path = Policy.of({"a": (4, 8), "b": (8, 8)}), tmp_path / "policy.json"
    write_policy(path, policy, model_digest="d", target="t", points={"a": (1, 2, 1)})
    document = read_policy(path)
    assert document == PolicyDocument(policy, "d", "t", {"a": [1, 2, 1]})
    assert json.loads(path.read_text())["layers"]["a"] == {"weight": 4, "activation": 8, "points": [1, 2, 1]}
    path.write_text(path.read_text().replace("2", "0"))
    with pytest.raises(
        PolicyError, match=r"\"points\" of layer 'a' is \[1, 0, 1\]; expected a list of whole numbers ab"
    ):
        read_policy(path)
