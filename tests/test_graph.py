from __future__ import annotations

import copy
import logging
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq import graph
from mobo_mpq.errors import InputError
from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network, call, capture, load_program, model_digest, save_program
from mobo_mpq.policy import LayerBits
from mobo_mpq.quant import apply_policy, calibrate
from mobo_mpq.quant.transform import QuantizedNetwork, quantizers


class Normed(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, groups=3, bias=bias)
        self.bn = nn.BatchNorm2d(6)
        self.line = nn.Conv1d(6, 4, 3, bias=bias)
        self.bn1 = nn.BatchNorm1d(4, affine=False)
        self.fc = nn.Linear(4, 5, bias=bias)
        self.bn2 = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        for norm in (self.bn, self.bn1, self.bn2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 3.0)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu_()
        x = self.bn1(self.line(x.flatten(2)))
        return self.bn2(self.fc(self.drop(x).mean(2)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bias", [False, True])
def test_folding_batch_norms_is_exact(x: Tensor, bias: bool) -> None:
    torch.manual_seed(1)
    model = Normed(bias).double().eval()
    network = Network.from_model(model, x.double())
    torch.testing.assert_close(network(x.double()), model(x.double()), rtol=1e-12, atol=1e-12)
    assert "batch_norm" not in network.code
    names = {name for name, _ in network.named_parameters()}
    assert names == {f"{m}.{p}" for m in ("conv", "line", "fc") for p in ("weight", "bias")}


def test_a_batch_norm_whose_input_is_read_twice_stays(x: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.free = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.free(x))
            return y * self.bn(y)

    model = Twice().eval()
    model.bn.running_mean.normal_()
    network = Network.from_model(model, x)
    assert torch.equal(network(x), model(x))
    assert [(u.name, u.parameters) for u in network.unquantized] == [("free", 6), ("bn", 6)]


def test_a_bias_is_added_beside_parameters_of_other_names(x: Tensor) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 3, 1, 1))
            self.bias = nn.Parameter(torch.randn(3, 1, 1))
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(nn.functional.conv2d(x, self.kernel)) + self.bias

    model = Own().eval()
    model.bn.running_mean.normal_()
    network = Network.from_model(model, x)
    torch.testing.assert_close(network(x), model(x))
    assert {name for name, _ in network.named_parameters()} == {"kernel", "bias", "kernel_bias"}
    assert [layer.name for layer in network.layers] == ["kernel"]


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_any_batch_of_the_example_gives_a_network_for_any_batch(x: Tensor, samples: int) -> None:
    model = Normed().eval()
    network = Network.from_model(model, x[:samples])
    for size in (1, 2, 5):
        torch.testing.assert_close(network(x[:size]), model(x[:size]))


class Hidden(nn.Module):
    """Whose parts are called as attributes of networks are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.layers_ = nn.Linear(8, 8)
        self.policy = nn.Linear(8, 4)
        self.trace = nn.Parameter(torch.randn(8))
        self.register_buffer("example", torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).relu() + self.trace
        return self.policy(self.layers_(x) * self.example)


def test_names_of_the_models_parts_may_be_those_of_a_networks_attributes() -> None:
    torch.manual_seed(0)
    model, x = Hidden(), torch.randn(5, 8)
    program, captured = load_program(save_program(capture(model, x))), Network.from_model(model, x)
    for network in (captured, copy.deepcopy(captured), Network.from_program(program)):
        assert torch.equal(network(x), model(x)) and torch.equal(network.twin()(x), model(x))
        assert [layer.name for layer in network.layers] == ["layers.0", "layers.1", "layers_", "policy"]
        assert {"layers__.0.weight", "layers_.weight", "policy_.bias", "trace_"} <= dict(
            network.named_parameters()
        ).keys()
    bits = {layer.name: LayerBits(32, 32) for layer in network.layers} | {"layers.1": LayerBits(4, 8)}
    quantized = apply_policy(network, bits)
    calibrate(quantized, [x])
    assert {q.site.layers for q in quantizers(quantized).values()} == {("layers.1",)}
    assert 0 < (quantized(x) - model(x)).abs().max() < 1


def test_every_public_attribute_of_networks_makes_room_for_the_models() -> None:
    own = {name for kind in (Network, QuantizedNetwork) for name in vars(kind) if not name.startswith("_")}
    assert own - {"from_program", "from_model"} == graph._OWN


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor | None = None, scale: float = 1.0) -> dict[str, Tensor]:
        y = self.fc(a) * scale
        return {"y": y, "z": y if b is None else y + b}


def test_inputs_and_outputs_keep_their_structure() -> None:
    model, a, b = Keywords(), torch.randn(3, 4), torch.randn(3, 3)
    for example in (a, (a, b), [a, b], {"a": a, "b": b}):
        network = Network.from_model(model, example)
        expected, got = call(model, example), call(network, example)
        assert got.keys() == expected.keys()
        assert torch.equal(got["z"], expected["z"])
    assert torch.equal(network(b=b, a=a)["z"], model(a, b)["z"])


def test_labels_are_ignored_unless_captured() -> None:
    class Labelled(nn.Module):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
            return x * 2 if labels is None else x * labels

    x, labels = torch.randn(3, 4), torch.randn(3, 4)
    for example in ({"x": x}, x):
        without = copy.deepcopy(Network.from_model(Labelled(), example))
        assert torch.equal(without(x=x, labels=labels), x * 2)
        with pytest.raises(TypeError, match="unexpected keyword argument 'label'"):
            without(x=x, label=labels)
    for example in ({"x": x, "labels": labels}, (x, labels)):
        assert torch.equal(Network.from_model(Labelled(), example)(x=x, labels=labels), x * labels)


def test_a_network_is_a_module_like_any_other(x: Tensor) -> None:
    torch.manual_seed(0)
    model = Normed()
    digest = model_digest(model)
    network = Network.from_model(model, x)
    twin = copy.deepcopy(network)
    network.train()
    assert network.training and torch.equal(network(x), twin(x))  # eval semantics in either mode
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(network(x), twin(x))
    assert model_digest(model) == digest  # the model's own parameters are untouched
    twin.load_state_dict(network.state_dict())
    assert torch.equal(network(x), twin(x))
    assert network.to(torch.float64)(x.double()).dtype == torch.float64
    assert twin.layers == network.layers and twin.example[0][0].shape[0] == 2


def test_modes_and_configuration_are_restored(x: Tensor) -> None:
    model = Normed().train()
    model.bn.eval()
    model.config = type("Config", (), {"use_cache": True})()
    capture(model, x)
    assert model.training and model.conv.training and not model.bn.training
    assert model.config.use_cache is True
    assert torch.backends.mha.get_fastpath_enabled()
    assert logging.getLogger("torch.export").level == logging.NOTSET


def test_use_cache_is_off_while_capturing() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"use_cache": True})()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (self.fc(x), x) if self.config.use_cache else (self.fc(x),)

    assert len(Network.from_model(Cached(), torch.randn(2, 2))(torch.randn(3, 2))) == 1


def test_programs_travel_as_bytes(x: Tensor) -> None:
    program = capture(Normed(), x)
    network, copied = Network.from_program(program), Network.from_program(load_program(save_program(program)))
    assert torch.equal(network(x), copied(x))
    assert copied.layers == network.layers and copied.unquantized == network.unquantized
    assert copied.trace.parameters == network.trace.parameters
    assert model_digest(network) == model_digest(copied)


def test_a_worker_needs_no_import_of_its_own(tmp_path) -> None:
    """Output classes register with torch where they are defined: loading imports that module."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    program = capture(ResNetForImageClassification(config), {"pixel_values": torch.randn(1, 3, 16, 16)})
    (tmp_path / "program").write_bytes(save_program(program))
    script = (
        "import pathlib, sys, torch; from mobo_mpq.graph import Network, load_program;"
        "n = Network.from_program(load_program(pathlib.Path(sys.argv[1]).read_bytes()));"
        "print(type(n(pixel_values=torch.randn(3, 3, 16, 16))).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "program")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "ImageClassifierOutputWithNoAttention"


def test_garbage_is_no_program() -> None:
    with pytest.raises(InputError, match=r"the saved program cannot be read .*expected bytes of save_program"):
        load_program(b"garbage")


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(2, 1, 1)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (Branching(), torch.ones(2, 2), "model Branching cannot be captured as a graph: .*control flow"),
        (nn.Linear(3, 2), torch.ones(2, 2), "model Linear cannot be captured as a graph: .*run on the example"),
        (Silent(), torch.ones(2, 2), "model Silent cannot be captured as a graph: RuntimeError;"),
        (Fixed(), torch.ones(4, 3, 2), r"model Fixed works for one batch size only: its input 'x' .*\(2, .*x.shape"),
        (nn.Linear(2, 2), (), "the example holds no samples; expected at least one tensor"),
        (nn.Linear(2, 2), torch.ones(0, 2), "the example holds no samples"),
        (nn.Linear(2, 2), 3.0, "inputs of a model are a float; expected a tensor, a tuple"),
    ],
)
def test_models_that_cannot_be_captured(model: nn.Module, example: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        capture(model, example)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_capturing_is_silent(x: Tensor, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Network.from_model(Normed(), x[:, :, :, :6])
        Network.from_model(nn.Conv2d(1, 2, 3), x[:, :1])  # one channel: torch would log the constant
    captured = capfd.readouterr()
    assert not captured.out and not captured.err
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_digest_sees_names_types_shapes_and_values() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    digests = {model_digest(model), model_digest(nn.Sequential(model)), model_digest(copy.deepcopy(model).half())}
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.weight[0, 0] += 1e-6
    reshaped = nn.ParameterDict({"weight": model.weight.detach().reshape(2, 3), "bias": model.bias.detach()})
    digests |= {model_digest(changed), model_digest(reshaped)}
    assert len(digests) == 5
    assert model_digest(copy.deepcopy(model)) == model_digest(model)


def test_features_of_a_sequence_are_not_the_channels_of_its_norm() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.fc(x))

    model, x = Normalised().eval(), torch.randn(2, 3, 4)
    model.bn.running_mean.normal_()
    network = Network.from_model(model, x)
    assert torch.equal(network(x), model(x))
    assert [u.name for u in network.unquantized] == ["bn"]


def test_only_tensors_have_names() -> None:
    model = nn.Linear(2, 3)
    assert tensor_of(model, "weight") is model.weight
    with pytest.raises(TypeError, match="'in_features' is a int, not a tensor"):
        tensor_of(model, "in_features")
