from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network, capture
from mobo_mpq.layers import OpKind
from mobo_mpq.tracing import Trace, trace, trace_layers
from mobo_mpq.unquantized import Unquantized


class TestPublished:
    """Counts of models built from the configurations of transformers, with random weights."""

    def test_resnet18(self) -> None:
        from transformers import ResNetConfig, ResNetForImageClassification

        config = ResNetConfig(
            layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], num_labels=1000
        )
        found = trace(ResNetForImageClassification(config), {"pixel_values": torch.randn(1, 3, 224, 224)})
        assert (found.macs, found.parameters) == (1_814_073_344, 11_689_512)
        assert len(found.layers) == 21 and not found.unquantized
        ties = {layer.name.removeprefix("resnet.encoder."): layer.activation_group for layer in found.layers}
        first, second = (ties[f"stages.{i}.layers.{j}.layer.0.convolution"] for i, j in ((0, 0), (1, 1)))
        assert first == "resnet.encoder.stages.0.layers.0.layer.0.convolution"
        # the stream of a stage runs through both blocks and into the next stage's first block and its shortcut
        for name in ("0.layers.1.layer.0", "1.layers.0.layer.0", "1.layers.0.shortcut"):
            assert ties[f"stages.{name}.convolution"] == first
        assert second != first and ties["stages.2.layers.0.shortcut.convolution"] == second
        assert ties["stages.0.layers.0.layer.1.convolution"] == ""

    def test_mobilenet_v2(self) -> None:
        from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

        model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=1000))
        found = trace(model, {"pixel_values": torch.randn(1, 3, 224, 224)})
        assert (found.macs, found.parameters) == (300_774_272, 3_504_872)
        kinds = [layer.kind for layer in found.layers]
        assert kinds.count(OpKind.DEPTHWISE) == 17 and kinds.count(OpKind.CONV) == 35 and len(kinds) == 53
        assert not found.unquantized

    def test_vit(self) -> None:
        from transformers import ViTConfig, ViTForImageClassification

        found = trace(ViTForImageClassification(ViTConfig()), {"pixel_values": torch.randn(1, 3, 224, 224)})
        assert len(found.layers) == 1 + 12 * 6 + 1
        patches, tokens, width = 196, 197, 768
        assert found.macs == patches * width * width + 12 * 12 * tokens * width**2 + 2 * width
        attention = [u for u in found.unquantized if u.op == "scaled_dot_product_attention"]
        assert [u.macs for u in attention] == [2 * tokens * tokens * width] * 12
        assert {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"} <= {u.name for u in found.unquantized}

    def test_bert(self) -> None:
        from transformers import BertConfig, BertModel

        ids = torch.randint(0, 1000, (1, 16))
        found = trace(BertModel(BertConfig()), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        assert len(found.layers) == 12 * 6 + 1
        assert found.layers[0].input_shape == (16, 768)
        assert found.macs == 12 * 12 * 16 * 768**2 + 768**2
        group = "encoder.layer.0.attention.self.query"
        assert [layer.name.rpartition(".")[2] for layer in found.layers if layer.activation_group == group] == [
            "query", "key", "value",
        ]  # fmt: skip
        names = {u.name for u in found.unquantized if u.op == "embedding"}
        assert names == {f"embeddings.{k}_embeddings" for k in ("word", "token_type", "position")}

    def test_gpt2(self) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(GPT2Config())
        found = trace(model, {"input_ids": torch.randint(0, 1000, (1, 16))})
        assert model.config.use_cache is True
        assert found.parameters == 124_439_808
        assert len(found.layers) == 12 * 4 + 1
        assert found.macs == 16 * (12 * 12 * 768**2 + 768 * 50257)
        by_name = {layer.name: layer for layer in found.layers}
        assert by_name["transformer.h.0.attn.c_attn"].weight_shape == (2304, 768)  # Conv1D holds (in, out)
        assert by_name["transformer.h.0.attn.c_attn"].input_shape == (16, 768)
        assert by_name["lm_head"].weight_shape == (50257, 768) and by_name["lm_head"].weight_group == ""
        axes = {operator.spec.name: operator.axis for operator in found.operators}
        assert (axes["transformer.h.0.attn.c_attn"], axes["lm_head"]) == (1, 0)
        # the tied head quantizes the table of the token embedding too, so that only positions stay in float
        assert [u.name for u in found.unquantized if u.op == "embedding"] == ["transformer.wpe"]


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head, self.tied = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(torch.tanh(self.head(torch.tanh(self.fc(torch.tanh(self.fc(x)))))))


def test_a_module_called_twice_is_two_layers_of_one_weight() -> None:
    found = trace(Shared(), torch.randn(3, 4))
    assert [(layer.name, layer.weight_group) for layer in found.layers] == [
        ("fc", "fc"), ("fc@1", "fc"), ("head", "head"), ("tied", "head"),
    ]  # fmt: skip
    assert found.macs == 4 * 16 and found.parameters == 16 + 16 + 3 * 4


class Operators(nn.Module):
    """One of everything that is a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(4, 6, 3, stride=2, padding=1)
        self.same = nn.Conv2d(6, 6, 3, padding="same", groups=2)
        self.wise = nn.Conv2d(6, 12, (3, 1), groups=6)
        self.proj = nn.Parameter(torch.randn(12, 5))
        self.rows = nn.Parameter(torch.randn(5, 7))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wise(self.same(self.line(x).unsqueeze(3).expand(-1, -1, -1, 4)))
        y = torch.tanh(y.mean((2, 3)) @ self.proj)
        y = F.linear(y, self.rows.T)  # batch x 7
        z = F.pad(y, (0, 1)).unsqueeze(1).repeat(1, 3, 1)
        return self.attention(z, z, z)[0]


def test_every_kind_of_layer() -> None:
    found = trace(Operators(), torch.randn(1, 4, 10))
    got = {
        layer.name: (layer.kind.value, layer.weight_shape, layer.input_shape, layer.output_shape, layer.groups)
        for layer in found.layers
    }
    assert got == {
        "line": ("conv", (6, 4, 3), (4, 10), (6, 5), 1),
        "same": ("conv", (6, 3, 3, 3), (6, 5, 4), (6, 5, 4), 2),
        "wise": ("depthwise", (12, 1, 3, 1), (6, 5, 4), (12, 3, 4), 6),
        "proj": ("linear", (5, 12), (12,), (5,), 1),
        "rows": ("linear", (7, 5), (5,), (7,), 1),
        "attention.in_proj_weight": ("linear", (24, 8), (3, 8), (3, 24), 1),
        "attention.out_proj": ("linear", (8, 8), (3, 8), (3, 8), 1),
    }
    assert found.layers[0].stride == 2
    assert found.layers[0].macs == 6 * 5 * 4 * 3
    axes = {operator.spec.name: operator.axis for operator in found.operators}
    assert axes["proj"] == axes["rows"] == 1 and axes["attention.out_proj"] == 0


class Leftovers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Conv3d(2, 3, 2)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))
        self.gain = nn.Parameter(torch.ones(5))
        self.left = nn.Parameter(torch.randn(5, 5))
        self.prelu = nn.PReLU()
        self.rnn = nn.GRU(5, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.volume(x).mean(2))  # batch x 2 x 5 x 5
        y = self.prelu(self.normed(y)) * self.gain
        y = torch.matmul(self.left, y)
        y = torch.einsum("bcij,bckj->bcik", y, y)
        return self.rnn(y.mean(1))[0]


def test_what_is_left_in_float_is_named_with_its_reason() -> None:
    found = trace(Leftovers(), torch.randn(1, 2, 3, 5, 5))
    assert not found.layers
    by_name = {(u.name, u.op): u for u in found.unquantized}
    volume, up = by_name["volume", "conv3d"], by_name["up", "conv_transpose2d"]
    assert (volume.macs, volume.parameters) == (3 * 2 * 4 * 4 * 2 * 8, 3 * 2 * 8 + 3)
    assert volume.reason == "no cost model covers conv3d"
    assert up.macs == 3 * 4 * 4 * 2 * 4
    linear = next(u for u in found.unquantized if u.op == "linear")
    assert linear.macs == 2 * 5 * 25 and "its weight is computed" in linear.reason
    left = by_name["left", "matmul"]
    assert left.macs == 2 * 5 * 25 and left.parameters == 25
    assert by_name["gain", "mul"].reason == "its parameters are not the weight of a convolution or a product"
    assert "prelu" in {u.name for u in found.unquantized}
    product = [u for u in found.unquantized if u.reason == "a product of two activations"]
    assert len(product) == 1
    assert by_name["rnn", "gru"].reason == "recurrent layers are not supported"


def test_what_is_left_in_float_reads_as_a_sentence() -> None:
    norm = Unquantized("norm", "layer_norm", "normalisation is computed in float", parameters=128)
    assert str(norm) == "norm (layer_norm): normalisation is computed in float; 128 parameters"
    product = Unquantized("attention", "matmul", "no weight", macs=64, parameters=2)
    assert str(product) == "attention (matmul): no weight; 64 MACs, 2 parameters"
    assert str(Unquantized("x", "add", "nothing to count")) == "x (add): nothing to count"


def test_what_is_left_in_float_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(6)])
    with caplog.at_level(logging.WARNING, logger="mobo_mpq"):
        layers = trace_layers(model, torch.randn(1, 4))
    assert [layer.name for layer in layers] == [f"{i}.0" for i in range(6)]
    (record,) = [r for r in caplog.records if r.name.startswith("mobo_mpq")]
    assert record.getMessage() == "left in float: layer_norm (0.1, 1.1, 2.1, 3.1 and 2 more)"


def test_nothing_is_logged_when_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    trace_layers(nn.Linear(2, 2), torch.randn(1, 2))
    assert not [r for r in caplog.records if r.name.startswith("mobo_mpq")]


def test_programs_and_networks_are_traced_too() -> None:
    model, x = Shared(), torch.randn(2, 4)
    program = capture(model, x)
    expected = trace(model, x)
    assert trace(program) == expected and trace(Network.from_program(program)) == expected
    assert Trace((), ()).macs == 0
    with pytest.raises(InputError, match="needs an example input; pass trace"):
        trace(model)


class Sequence(nn.Module):
    """Positions first, and positions folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(3, 3)
        self.queries = nn.Parameter(torch.randn(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x.transpose(0, 1))
        y = self.b(torch.tanh(y).flatten(0, 1))
        return y.sum() + self.c(self.queries).sum() + x


def test_macs_are_those_of_one_inference() -> None:
    layers = {layer.name: layer for layer in trace_layers(Sequence(), torch.randn(3, 5, 4))}
    assert layers["a"].input_shape == (5, 4) and layers["a"].macs == 5 * 24
    assert layers["b"].input_shape == (5, 6) and layers["b"].macs == 5 * 12
    assert layers["c"].input_shape == (7, 3)  # does not depend on the batch


class Ties(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in "abcdefgh":
            self.add_module(name, nn.Linear(4, 4))
        self.position = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.a(x) + self.position  # a parameter is no tie
        y = self.b(x) + x
        z = self.c(y.view(-1, 2, 2).flatten(1)) * 2.0  # read through reshapes: the same site as d's
        z = self.d(y) + z
        u = F.gelu(z)
        u = self.e(u) + mask.unsqueeze(1)  # of another shape: no tie
        v = self.f(F.relu(u))
        return self.g(F.max_pool1d(v, 1)) + self.h(v)


def test_ties_follow_additions_and_stop_at_new_tensors() -> None:
    found = trace(Ties(), (torch.randn(2, 4), torch.randn(2)))
    groups = {layer.name: layer.activation_group for layer in found.layers}
    tensors = {layer.name: layer.input_tensor for layer in found.layers}
    assert groups == {"a": "", "b": "b", "c": "b", "d": "b", "e": "", "f": "", "g": "g", "h": "g"}
    assert tensors["c"] == tensors["d"] and tensors["b"] != tensors["c"] and tensors["g"] == tensors["h"]
    assert len(found.ties["b"]) == 3  # x, b's result, their sum
    assert found.ties["g"] == (tensors["g"],)


class Rectified(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) + x
        y = F.relu(x)  # x is read again below, so that the rectifier is a site of its own, tied to x
        return self.b(y) + self.c(x) + self.d(F.relu6(self.c(y)))


def test_a_rectifier_ties_its_input_to_its_output() -> None:
    found = trace(Rectified(), torch.randn(2, 4))
    by_name = {layer.name: layer for layer in found.layers}
    assert {n: layer.activation_group for n, layer in by_name.items()} == {
        "a": "a", "b": "a", "c": "a", "c@1": "a", "d": "",
    }  # fmt: skip
    assert by_name["b"].input_tensor != by_name["c"].input_tensor
    assert by_name["d"].input_tensor == "relu6"


def test_a_tensor_that_only_a_rectifier_reads_has_no_quantizer() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 2, 3), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(F.max_pool2d(self.conv(x), 2)).flatten(1))

    found = trace(Pooled(), torch.randn(1, 1, 6, 6))
    assert dict(found.ties) == {"conv": ("x",), "fc": ("relu",)}


class Pieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 4)
        self.table = nn.Embedding(5, 4)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        first, second = self.a(x).chunk(2, -1)
        both = self.d(torch.cat([first, second], -1))  # a new tensor
        known = self.table(ids) + x  # depends on what the user feeds: a tie
        constant = self.table(torch.arange(4)).mean(0).expand_as(x) + x  # does not
        return self.b(first) + self.c(second) + both.double().float() + known + constant


def test_pieces_of_a_tensor_are_that_tensor() -> None:
    layers = {layer.name: layer for layer in trace_layers(Pieces(), (torch.randn(3, 4), torch.tensor([0, 1, 2])))}
    assert layers["b"].input_tensor == layers["c"].input_tensor == "linear"
    assert layers["d"].input_tensor.startswith("cat")
    assert layers["b"].activation_group == "b"


class Turned(nn.Module):
    """Weights behind transposes, and products of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(*s)) for s in ((4, 6), (5, 6), (5, 3)))
        self.cube = nn.Parameter(torch.randn(2, 3, 3))
        self.frozen = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        y = torch.tanh(x @ self.a.permute(0, 1))  # turned by nothing
        y = torch.tanh(y @ self.b.permute(1, 0).contiguous())
        y = torch.tanh(F.linear(y, self.c.transpose(0, 1).clone()))
        z = torch.baddbmm(y.unsqueeze(1), y.unsqueeze(1), self.cube.sum(0).expand(x.shape[0], -1, -1))
        single = self.frozen(image[0])  # a convolution without a batch
        return z.sum() + single.sum() + torch.mm(y, y.t())


def test_transposes_are_followed_to_the_parameter() -> None:
    found = trace(Turned(), (torch.randn(2, 4), torch.randn(2, 1, 5, 5)))
    assert [(o.spec.name, o.spec.weight_shape, o.axis) for o in found.operators] == [
        ("a", (6, 4), 1), ("b", (5, 6), 0), ("c", (3, 5), 1),
    ]  # fmt: skip
    reasons = {u.op: u.reason for u in found.unquantized}
    assert reasons["mm"] == reasons["baddbmm"] == "a product of two activations"
    assert "conv2d" in reasons and "sum" in reasons


def test_integer_and_fixed_inputs_come_first_or_last() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, times: int, x: Tensor) -> Tensor:
            return self.fc(x) * times

    (layer,) = trace_layers(Scaled(), (3, torch.randn(1, 3)))
    assert layer.input_shape == (3,)
