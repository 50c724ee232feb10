"""Files against networks of other sizes, other axes and named inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobo_mpq.errors import ExportMismatch
from mobo_mpq.export.onnx_qdq import export_onnx
from mobo_mpq.export.verify import verify_onnx
from mobo_mpq.graph import Example, Network
from mobo_mpq.policy import Policy
from mobo_mpq.quant import apply_policy, calibrate
from mobo_mpq.quant.transform import QuantizedNetwork


class Tagger(nn.Module):
    """Embedding, attention and a head for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv, self.head = nn.Embedding(24, 16), nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embedding(ids)
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool()[:, None, None, :])
        return {"logits": self.head(x + y.transpose(1, 2).reshape(batch, length, width))}


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


def tokens(batch: int, length: int) -> dict[str, Any]:
    return {"ids": torch.randint(24, (batch, length)), "mask": torch.ones(batch, length, dtype=torch.long)}


def quantized(model: nn.Module, example: Example, bits: int = 8) -> QuantizedNetwork:
    network = Network.from_model(model, example)
    result = apply_policy(network, Policy.uniform(network.layers, bits, bits))
    calibrate(result, [example])
    return result


def shapes(entries: Any) -> dict[str, list[Any]]:
    return {entry.name: entry.shape for entry in entries}


def test_sequences_of_other_lengths(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = quantized(Tagger(), tokens(32, 9)), tmp_path / "model.onnx"
    swapped = dict(reversed(tokens(3, 7).items()))
    export_onnx(network, {**swapped, "labels": torch.zeros(3)}, path)
    session = onnxruntime.InferenceSession(path)
    assert shapes(session.get_inputs()) == {"ids": ["batch", "size_1"], "mask": ["batch", "size_1"]}
    assert shapes(session.get_outputs()) == {"logits": ["batch", "size_1", 5]}
    assert verify_onnx(path, network, [tokens(20, 9), tokens(20, 5)]).samples == 20 * 14


def test_axes_that_the_exporter_refuses_to_leave_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, path, export = quantized(Tagger(), tokens(32, 9)), tmp_path / "model.onnx", torch.onnx.export
    asked = []

    def batch_alone(*args: Any, dynamic_shapes: Any, **options: Any) -> Any:
        asked.append(dynamic_shapes["ids"])
        if len(dynamic_shapes["ids"]) > 1:
            raise RuntimeError("constraints violated")
        return export(*args, dynamic_shapes=dynamic_shapes, **options)

    monkeypatch.setattr(torch.onnx, "export", batch_alone)
    export_onnx(network, tokens(3, 9), path)
    assert asked == [{0: "batch", 1: "size_1"}, {0: "batch"}]
    assert verify_onnx(path, network, [tokens(20, 9)]).samples == 180
    expected = (
        r"does not take a batch that the network takes: got 'ids' \(20, 5\) int64, 'mask' .*, expected "
        r"'ids' \('batch', 9\) tensor\(int64\), .*; export the network again with an example shaped like"
    )
    with pytest.raises(ExportMismatch, match=expected):
        verify_onnx(path, network, [tokens(20, 5)])


def test_an_error_of_the_exporter_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("constraints violated")

    network = quantized(nn.Linear(4, 3), torch.randn(8, 4))
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(RuntimeError, match="constraints violated"):
        export_onnx(network, torch.randn(2, 4), tmp_path / "model.onnx")


def test_outputs_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    x = torch.randn(8, 4)
    export_onnx(quantized(nn.Linear(4, 3), x), x, path)
    with pytest.raises(ExportMismatch, match=r"of shape \(8, 3\) where the network gives \(8, 2\); export the network"):
        verify_onnx(path, quantized(nn.Linear(4, 2), x), [x])


@pytest.mark.parametrize("with_target", [False, True])
def test_classes_of_a_map_lie_on_axis_1(tmp_path: Path, with_target: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 1, 6, 10)
    network, path = quantized(Segmenter(), x), tmp_path / "model.onnx"
    export_onnx(network, x, path)
    batch = (x, torch.zeros(8, 6, 10, dtype=torch.long)) if with_target else x
    assert verify_onnx(path, network, [batch]).samples == 8 * 6 * 10
    with torch.no_grad():
        network.get_parameter("last.bias").copy_(torch.tensor([0.0, 0.0, 0.0, 100.0]))  # rows keep their maxima
    with pytest.raises(ExportMismatch):
        verify_onnx(path, network, [batch])


def test_the_target_tells_the_axis_of_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 1, 20)
    network, path = quantized(nn.Conv1d(1, 4, 3, padding=1), x), tmp_path / "model.onnx"
    export_onnx(network, x, path)
    assert verify_onnx(path, network, [(x, torch.zeros(8, 20, dtype=torch.long))]).samples == 160
    assert verify_onnx(path, network, [x]).samples == 32
