"""Exported files against the networks that they were written from, in ONNX Runtime."""

import functools
import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mobo_mpq
from mobo_mpq.errors import ExportMismatch, InputError
from mobo_mpq.export.carriers import WeightCarrier
from mobo_mpq.export.onnx_qdq import export_onnx, lower
from mobo_mpq.export.policy_json import read_policy
from mobo_mpq.export.verify import verify_onnx
from mobo_mpq.graph import Network
from mobo_mpq.layers import OpKind
from mobo_mpq.policy import Policy
from mobo_mpq.quant import LsqScheme, UniformScheme, apply_policy, calibrate, quantizers
from mobo_mpq.quant.base import Role, TensorQuantizer, build_quantizer


class Residual(nn.Module):
    """Convolution, depthwise, pointwise, an addition, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.depthwise(x))
        x = F.relu(x + self.pointwise(y))
        return self.head(F.max_pool2d(x, 2).flatten(1))


class Block(nn.Module):
    """Embedding, causal attention, residual additions, and a head tied to the embedding."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(24, 16), nn.Parameter(torch.randn(10, 16) / 4)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 24, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)

    def forward(self, left, right):
        return self.left(left), {"sum": F.relu(self.right(right))}


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 1, 16, 16)


def texts(n: int) -> torch.Tensor:
    return torch.randint(24, (n, 10))


def mixed(network: Network) -> Policy:
    """2, 4 and 8 bits in turn for weights; 4 and 8 for activations, alike within ties."""
    ties = {layer.activation_tie: 8 - 4 * (i % 2) for i, layer in enumerate(network.layers)}
    pairs = {layer.name: ((2, 4, 8)[i % 3], ties[layer.activation_tie]) for i, layer in enumerate(network.layers)}
    return Policy.of(pairs)


POLICIES = {
    "W8A8": lambda network: Policy.uniform(network.layers, 8, 8),
    "W4A4": lambda network: Policy.uniform(network.layers, 4, 4),
    "W2A8": lambda network: Policy.uniform(network.layers, 2, 8),
    "W8A2": lambda network: Policy.uniform(network.layers, 8, 2),
    "W4A16": lambda network: Policy.uniform(network.layers, 4, 16),
    "float": lambda network: Policy.uniform(network.layers, 32, 32),
    "mixed": mixed,
}


@pytest.fixture(scope="module")
def networks():
    """Captured once; tests quantize copies."""
    torch.manual_seed(0)
    convolutional = Residual()
    with torch.no_grad():
        for _ in range(5):  # statistics for the batch norm
            convolutional(images(32))
    return {
        "conv": (Network.from_model(convolutional, images(2)), images),
        "text": (Network.from_model(Block(), texts(2)), texts),
        "tied": (Network.from_model(Block(tied=True), texts(2)), texts),
    }


def quantized(networks, kind, policy, **schemes):
    network, inputs = networks[kind]
    result = apply_policy(network, POLICIES[policy](network), **schemes)
    torch.manual_seed(1)
    calibrate(result, [inputs(64)])
    return result, inputs


@pytest.fixture(scope="module")
def exported(networks, tmp_path_factory):
    """Quantized network, function that makes inputs, and file, of a kind and a policy; written once."""

    @functools.cache
    def make(kind, policy):
        network, inputs = quantized(networks, kind, policy)
        path = tmp_path_factory.mktemp("exported") / "model.onnx"
        export_onnx(network, inputs(3), path, model_digest="abc", target="mpic")
        return network, inputs, path

    return make


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("conv", name) for name in POLICIES]
    + [("text", name) for name in ("W8A8", "W4A4", "W2A8", "W4A16", "mixed")]
    + [("tied", "W4A4")],
)
def test_onnx_runtime_computes_the_same(exported, kind, policy):
    network, inputs, path = exported(kind, policy)
    torch.manual_seed(2)
    result = verify_onnx(path, network, [inputs(250), inputs(1), inputs(249)])
    assert result.samples == 500 * (1 if kind == "conv" else 10)
    assert result.agreement >= 0.998


@pytest.mark.parametrize(
    "schemes",
    [
        {"weight": UniformScheme(symmetric=False), "activation": UniformScheme(symmetric=True, per_channel=False)},
        {"weight": UniformScheme(per_channel=False), "activation": LsqScheme(symmetric=False, per_channel=False)},
        {"weight": LsqScheme(), "activation": LsqScheme(symmetric=True, per_channel=False)},
    ],
    ids=["affine weights", "per tensor", "learned"],
)
def test_every_scheme(tmp_path, networks, schemes):
    network, inputs = quantized(networks, "conv", "mixed", **schemes)
    path = tmp_path / "model.onnx"
    export_onnx(network, inputs(2), path)
    assert verify_onnx(path, network, [inputs(500)]).agreement >= 0.998
    stored_weights_are_the_fake_quantized_ones(path, network)


def stored_weights_are_the_fake_quantized_ones(path, network) -> int:
    """Bit for bit, and as 8-bit integers; how many there are."""
    model = onnx.load(path)
    arrays = {entry.name: entry for entry in model.graph.initializer}
    stored = []
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "Cast") and node.input[0] in arrays:
            assert arrays[node.input[0]].data_type == onnx.TensorProto.INT8
            nodes = [node]
            while following := [
                n for n in model.graph.node if n.op_type in ("Sub", "Mul") and n.input[0] in nodes[-1].output
            ]:
                nodes += following
            stored.append(run(nodes, [arrays[name] for n in nodes for name in n.input if name in arrays]))
    weights = [q for q in quantizers(network).values() if q.site.role is Role.WEIGHT]
    assert len(stored) == len(weights)
    parameters = dict(network.named_parameters())
    for quantizer in weights:
        expected = quantizer(parameters[quantizer.site.tensor]).detach().numpy()
        assert any(np.array_equal(expected, array) for array in stored)
    return len(weights)


def run(nodes, initializers):
    output = onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "part", [], [output], initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})[0]


@pytest.mark.parametrize(("kind", "weights"), [("conv", 4), ("text", 5)])
@pytest.mark.parametrize("policy", ["W8A8", "mixed", "W4A16"])
def test_weights_are_stored_as_integers_and_no_float_copy_remains(exported, kind, weights, policy):
    network, _, path = exported(kind, policy)
    assert stored_weights_are_the_fake_quantized_ones(path, network) == weights
    shapes = {layer.weight_shape for layer in network.layers}
    for entry in onnx.load(path).graph.initializer:
        if entry.name != "embedding.weight":  # as large as the head, and in float
            assert entry.data_type != onnx.TensorProto.FLOAT or tuple(entry.dims) not in shapes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_of_few_bits_are_spread_by_a_power_of_two(bits, symmetric):
    weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(bits))
    quantizer = build_quantizer(UniformScheme(symmetric=symmetric), bits, shape=weight.shape, axis=0)
    quantizer.calibrate(weight)
    grid = quantizer.qparams()
    carrier = WeightCarrier(grid, weight)
    spread = (grid.scale / carrier.scale).unique()
    assert spread.tolist() == [2 ** max(7 - bits, 0)]
    integers = carrier.integers.int() - carrier.zero_point.int()[:, None]
    assert torch.equal(integers * carrier.scale[:, None], quantizer(weight))
    assert len(carrier.integers.unique()) <= 2**bits
    assert int(carrier.integers.int().abs().max()) <= (64 if bits < 8 else 128)


def test_grids_of_few_bits_are_cut_off_and_full_ones_are_not(exported):
    for policy, expected in (("W8A8", 0), ("W4A4", 1)):
        network, _, path = exported("conv", policy)
        nodes = [node.op_type for node in onnx.load(path).graph.node]
        assert nodes.count("QuantizeLinear") == len(quantizers(network)) - 4  # the others are weights
        assert nodes.count("Min") == expected * nodes.count("QuantizeLinear")
        assert "Clip" not in nodes  # ONNX Runtime would look through it, and round the bias before it


def test_a_float_network_has_no_quantizers(exported):
    kinds = {node.op_type for node in onnx.load(exported("conv", "float")[2]).graph.node}
    assert kinds.isdisjoint({"QuantizeLinear", "DequantizeLinear", "Min"})


def test_the_file_says_where_it_comes_from(tmp_path, networks, capsys, caplog):
    network, inputs = quantized(networks, "conv", "mixed")
    path = tmp_path / "model.onnx"
    export_onnx(network, inputs(2), path, model_digest="abc", target="mpic")
    assert capsys.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    (tmp_path / "policy.json").write_text(properties["mobo_mpq.policy"])
    document = read_policy(tmp_path / "policy.json", network.layers, model_digest="abc")
    assert (document.policy, document.target) == (network.policy, "mpic")
    assert properties["mobo_mpq.model_digest"] == "abc"
    assert properties["mobo_mpq.version"] == mobo_mpq.__version__
    assert json.loads(properties["mobo_mpq.policy"])["schema"] == 1
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)
    assert (model.producer_name, model.producer_version) == ("mobo-mpq", mobo_mpq.__version__)


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_and_outputs(tmp_path, as_dict):
    def inputs(n):
        pair = (torch.randn(n, 6), torch.randn(n, 4))
        return dict(zip(("right", "left"), pair[::-1], strict=True)) if as_dict else pair

    torch.manual_seed(0)
    network = Network.from_model(TwoInputs(), inputs(2))
    network = apply_policy(network, Policy.uniform(network.layers, 8, 8))
    calibrate(network, [inputs(64)])
    path = tmp_path / "model.onnx"
    export_onnx(network, inputs(1), path)
    assert verify_onnx(path, network, [inputs(100)]).agreement >= 0.99


def test_exporting_leaves_the_network_alone(tmp_path, networks):
    network, inputs = quantized(networks, "text", "mixed")
    before, code, x = network.state_dict(), network.code, inputs(8)
    expected = network(x)
    pointers = {name: tensor.data_ptr() for name, tensor in before.items()}
    export_onnx(network, x, tmp_path / "model.onnx")
    assert torch.equal(network(x), expected)
    assert network.code == code
    assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == pointers
    assert any(layer.kind is OpKind.LINEAR for layer in network.layers)


def test_an_uncalibrated_network_is_refused(tmp_path, networks):
    network, inputs = networks["conv"]
    fresh = apply_policy(network, Policy.uniform(network.layers, 8, 8))
    with pytest.raises(InputError, match="the activation quantizer of '.*' has seen no data yet; run calibrate"):
        export_onnx(fresh, inputs(2), tmp_path / "model.onnx")
    with pytest.raises(InputError):
        lower(fresh)


class Halves(TensorQuantizer):
    """Levels that are no even grid: 0 and the powers of two."""

    def quantize(self, x):
        return torch.where(x == 0, x, x.sign() * torch.exp2(torch.log2(x.abs()).round()))

    def fit(self, observer):
        """Has nothing to choose."""


def test_levels_that_are_no_even_grid_are_refused(networks):
    network, _ = quantized(networks, "conv", "W8A8")
    name, quantizer = next(item for item in quantizers(network).items() if item[1].site.role is Role.WEIGHT)
    uneven = Halves(4)
    uneven.site, uneven.calibrated = quantizer.site, True
    network.set_submodule(name, uneven)
    with pytest.raises(InputError, match="levels of the weight quantizer of '.*' are no even grid.*'--format policy'"):
        lower(network)


def test_a_file_that_cannot_be_written(tmp_path, networks):
    network, inputs = quantized(networks, "conv", "W8A8")
    with pytest.raises(InputError, match="ONNX file '.*' cannot be written .*; choose another folder"):
        export_onnx(network, inputs(2), tmp_path / "none" / "model.onnx")


def test_a_file_of_another_network_is_refused(exported):
    network, inputs, _ = exported("conv", "W8A8")
    path = exported("conv", "W2A8")[2]
    words = r"agrees with the network on \d+\.\d+% of 400 predictions, expected at least 99.50% \(largest .*do not use"
    with pytest.raises(ExportMismatch, match=words):
        verify_onnx(path, network, [inputs(400)])
    assert verify_onnx(path, network, [inputs(400)], agreement=0.0).max_abs_difference > 0


def test_outputs_without_classes_are_compared_by_value(tmp_path):
    torch.manual_seed(0)
    network = Network.from_model(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(2, 4))
    fine = apply_policy(network, Policy.uniform(network.layers, 8, 8))
    coarse = apply_policy(network, Policy.uniform(network.layers, 2, 8))
    for quantized_network in (fine, coarse):
        calibrate(quantized_network, [torch.randn(64, 4)])
    path = tmp_path / "model.onnx"
    export_onnx(fine, torch.randn(2, 4), path)
    assert verify_onnx(path, fine, [torch.randn(200, 4)]).agreement >= 0.995
    with pytest.raises(ExportMismatch):
        verify_onnx(path, coarse, [torch.randn(200, 4)])


def test_what_cannot_be_verified(tmp_path, exported):
    network, inputs, path = exported("conv", "W8A8")
    with pytest.raises(InputError, match="got no batch"):
        verify_onnx(path, network, [])
    missing, torn = tmp_path / "none.onnx", tmp_path / "torn.onnx"
    torn.write_bytes(path.read_bytes()[:100])
    for broken in (missing, torn):
        with pytest.raises(InputError, match=f"'{broken}' cannot be loaded by ONNX Runtime"):
            verify_onnx(broken, network, [inputs(2)])


def test_batches_of_a_loader_may_hold_the_target(exported):
    network, inputs, path = exported("conv", "W8A8")
    batch = inputs(20), torch.zeros(20)
    assert verify_onnx(path, network, [batch]).samples == 20
