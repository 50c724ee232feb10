"""Passes with scales: exact in float32, close in float16, whatever the graph looks like."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobo_mpq.graph import Network, call
from mobo_mpq.policy import Policy
from mobo_mpq.quant.lsq import LsqScheme
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, calibrate
from mobo_mpq.testing import networks
from mobo_mpq.training.half import scaled
from mobo_mpq.training.half.ledger import Ledger
from mobo_mpq.training.half.network import HalfNetwork, in_half
from mobo_mpq.training.half.rule import LARGEST_TOTAL, Spread
from mobo_mpq.training.margin import FeatureRecorder, large_margin


class Shared(nn.Module):
    """One linear layer called twice, with a third reader of the same tensor, and an output that nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.relu(self.linear(x))
        second = torch.relu(self.linear(first)) + first * first
        return self.head(second + first), second.flatten(1)


class Transformer(nn.Module):
    """Embeddings with positions, layer norms, attention over one projection cut in three, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols = nn.Embedding(11, 16)
        self.positions = nn.Parameter(torch.randn(6, 16) * 0.1)
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.symbols(ids) + self.positions[: ids.shape[1]]
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out((q @ k.transpose(1, 2) / 4.0).softmax(-1) @ v)
        return F.linear(self.last(x), self.symbols.weight)


class Computed(nn.Module):
    """A weight that is a product of two parameters: no layer of ours, but its gradients carry scales all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 5)
        self.left, self.right = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.stem(x)), self.left @ self.right)


def images() -> Tensor:
    return torch.rand(8, 1, 8, 8)


def residual() -> nn.Module:
    blocks = networks.Residual(nn.Sequential(networks.Conv(4, 4), networks.Conv(4, 4, rectifier=None)))
    body = nn.Sequential(networks.Conv(4, 8, 3, 2), networks.Conv(8, 8, rectifier=None))
    wider = networks.Residual(body, networks.Conv(4, 8, 1, 2, rectifier=None))
    return networks.Classifier(nn.Sequential(networks.Conv(1, 4), blocks, wider), 8, 10)


def depthwise() -> nn.Module:
    inverted = [networks.Conv(4, 12, 1), networks.Conv(12, 12, groups=12), networks.Conv(12, 4, 1, rectifier=None)]
    block = networks.Residual(nn.Sequential(*inverted), rectified=False)
    return networks.Classifier(nn.Sequential(networks.Conv(1, 4, 3, 2), block, networks.Conv(4, 8, groups=2)), 8, 10)


def linear() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 10)
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int]] = {
    "residual": (residual, images, 10),
    "depthwise": (depthwise, images, 10),
    "linear": (linear, images, 10),
    "shared": (Shared, lambda: torch.randn(8, 8), 3),
    "transformer": (Transformer, lambda: torch.randint(0, 11, (4, 6)), 11),
    "computed": (Computed, lambda: torch.randn(8, 6), 4),
    "single": (lambda: nn.Linear(4, 3), lambda: torch.randn(8, 4), 3),
}


@lru_cache
def captured(case: str) -> tuple[Network, Tensor, Tensor]:
    model, inputs, classes = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made, x = model(), inputs()
        target = torch.randint(0, classes, (len(x), 6) if case == "transformer" else (len(x),))
    return Network.from_model(made, x), x, target


def build(case: str, weight: int = 8, activation: int = 8) -> tuple[QuantizedNetwork, Tensor, Tensor]:
    network, x, target = captured(case)
    schemes = {"weight": LsqScheme(), "activation": LsqScheme(symmetric=False, per_channel=False)}
    quantized = apply_policy(network, Policy.uniform(network.layers, weight, activation), **schemes)
    calibrate(quantized, [x])
    return quantized.requires_grad_(), x, target


def gradients(trained: nn.Module, called: nn.Module, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    trained.zero_grad()
    output = call(called, x)
    logits = output[0] if isinstance(output, tuple) else output
    F.cross_entropy(logits.flatten(0, -2), target.flatten()).backward()
    return {name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None}


def unequal(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("case", CASES)
def test_any_scales_give_the_same_bits_in_float32(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Powers of two at every layer, meeting in every branch, and at the loss: not one bit of one gradient changes."""
    network, x, target = build(case, 4, 4)
    plain = gradients(network, in_half(network, Ledger(torch.float32)), x, target)
    scales = iter(2.0 ** torch.randint(-6, 7, (10_000,), generator=torch.Generator().manual_seed(1)))
    used: list[float] = []

    def choose(*_: Any) -> float:
        used.append(float(next(scales)))
        return used[-1]

    monkeypatch.setattr(scaled, "layer_scale", choose)
    monkeypatch.setattr(scaled, "common_scale", lambda _, carried: choose())
    ledger = Ledger(torch.float32, adaptive=True, loss_scale=0.125)
    assert unequal(plain, gradients(network, in_half(network, ledger), x, target)) == []
    assert len(set(used)) > 1 or case == "single"


@pytest.mark.parametrize("case", ["residual", "depthwise", "linear", "single", "computed"])
def test_without_scales_it_is_the_network(case: str) -> None:
    """Where no tensor has three readers, whose gradients could be added in another order, to the last bit."""
    network, x, target = build(case, 4, 4)
    half = in_half(network, Ledger(torch.float32))
    assert torch.equal(call(half, x), call(network, x))
    assert unequal(gradients(network, network, x, target), gradients(network, half, x, target)) == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("adaptive", [False, True])
def test_float16_is_close(case: str, adaptive: bool) -> None:
    """Without quantizers, whose roundings jump: gradients differ by what 11 bits of precision explain."""
    network, x, target = build(case, 32, 32)
    exact = gradients(network, network, x, target)
    ledger = Ledger(adaptive=adaptive, counting=True, loss_scale=1.0 if adaptive else 64.0)
    half = in_half(network, ledger)
    found = gradients(network, half, x, target)
    assert found.keys() == exact.keys()
    assert all(gradient.dtype is torch.float32 for gradient in found.values())
    whole = torch.cat([gradient.flatten() for gradient in exact.values()]).norm()
    error = torch.cat([(found[name] - exact[name]).flatten() for name in exact]).norm()
    assert 0.0 < error < 0.02 * whole
    assert ledger.total().largest_scale <= LARGEST_TOTAL


def test_parameters_are_shared_and_outputs_float32() -> None:
    network, x, _ = build("residual")
    half = in_half(network, Ledger())
    assert {id(p) for p in half.parameters()} == {id(p) for p in network.parameters()}
    output = call(half, x)
    assert output.dtype is torch.float32
    assert torch.equal(output, output.half().float())  # what a layer in float16 gives
    assert not torch.equal(output, call(network, x))


def test_the_first_network_is_left_alone() -> None:
    network, x, target = build("residual", 4, 4)
    code, before = network.code, gradients(network, network, x, target)
    in_half(network, Ledger(adaptive=True))
    assert network.code == code
    assert unequal(before, gradients(network, network, x, target)) == []


@pytest.mark.parametrize("adaptive", [False, True])
def test_what_a_loss_reads_on_the_way_carries_no_scale(adaptive: bool) -> None:
    """A margin between classes, in the features before the last layer: bit for bit that of the network itself."""
    network, x, target = build("residual", 4, 4)
    found = []
    for half in (False, True):
        recorder = FeatureRecorder(network)
        ledger = Ledger(torch.float32, adaptive=adaptive, loss_scale=2.0**-3)
        called = in_half(recorder.network, ledger) if half else recorder.network
        network.zero_grad()
        logits = call(called, x)
        loss = 1e-6 * F.cross_entropy(logits, target) + 1e-4 * large_margin(recorder.features(target), target)
        loss.backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert unequal(*found) == []


def test_the_scale_of_the_loss_cancels_in_float16() -> None:
    """A gradient that is exactly representable comes back the same, whatever it was multiplied by on the way."""
    network, _, _ = build("single", 32, 32)
    x = torch.eye(4).repeat(2, 1)
    found = []
    for scale in (2.0**-4, 1.0, 2.0**9):
        half = in_half(network, Ledger(loss_scale=scale))
        network.zero_grad()
        call(half, x).sum().backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert unequal(found[0], found[1]) == unequal(found[1], found[2]) == []
    assert torch.equal(found[0]["weight"], torch.full((3, 4), 2.0))


def test_small_gradients_vanish_without_scales_and_stay_with_them() -> None:
    network, x, target = build("residual", 32, 32)
    exact = gradients(network, network, x, target)
    first = next(name for name in exact if name.endswith("weight"))
    kept = {}
    for adaptive in (False, True):
        ledger = Ledger(adaptive=adaptive, counting=True)
        half = in_half(network, ledger)
        network.zero_grad()
        (F.cross_entropy(call(half, x), target) * 2.0**-17).backward()
        found = dict(network.named_parameters())[first].grad
        assert found is not None
        error = (found * 2.0**17 - exact[first]).norm() / exact[first].norm()
        kept[adaptive] = float(error), ledger.total()
    assert kept[False][0] > 0.5 > 0.1 > kept[True][0]
    assert kept[False][1].zero_share > kept[True][1].zero_share + 0.2


def test_scales_serve_until_new_ones_are_due() -> None:
    """Those of a small loss serve a large one, too; then all kinds of scales are others. In float32 none overflows."""
    network, x, target = build("residual", 32, 32)
    ledger = Ledger(torch.float32, adaptive=True)
    half = in_half(network, ledger)

    def scales(size: float) -> dict[str, list[float]]:
        (F.cross_entropy(call(half, x), target) * size).backward()
        modules = list(half.modules())
        return {
            "layers": [module.factor for module in modules if isinstance(module, scaled.ScaledLayer)],
            "outlets": [module.factor for module in modules if isinstance(module, scaled.Outlet)],
            "sums": [module.below.scale for module in modules if isinstance(module, scaled.Meet)],
        }

    first = scales(2.0**-12)
    assert all(max(found) > 1.0 for found in first.values())
    ledger.fresh = False
    assert scales(2.0**20) == first
    ledger.fresh = True
    anew = scales(2.0**20)
    assert all(anew[kind] != first[kind] for kind in first)


def test_counts_of_one_layer() -> None:
    """2**-20 in each of three products is there in float32 alone; the gradient that arrives has one zero of six."""
    network, _, _ = build("single", 32, 32)
    ledger = Ledger(torch.float16, counting=True)
    half = in_half(network, ledger)
    with torch.no_grad():
        network.get_parameter("weight").fill_(2.0**-10)
    x = torch.ones(2, 4, requires_grad=True)
    output = call(half, x)
    output.backward(torch.tensor([[2.0**-20, 0.0, 2.0**-20], [2.0**-4, 2.0**-4, 2.0**-4]]))
    (tally,) = ledger.tallies.values()
    assert (tally.received, tally.zeros) == (6, 1)
    assert (tally.passed, tally.lost) == (8, 4)  # 2**-29 in the four elements of the first sample
    assert tally.zero_share == pytest.approx(1 / 6)
    assert tally.underflow_share == 0.5
    assert x.grad is not None
    assert x.grad[0].count_nonzero() == 0


def test_no_gradients_are_kept_where_none_are_wanted() -> None:
    network, x, _ = build("residual")
    with torch.no_grad():
        output = in_half(network, Ledger())(x)
    assert not output.requires_grad


def test_spread_of_a_layer_is_that_of_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fan-in of the way back: outputs per group times positions of the kernel."""
    seen: list[tuple[float, int]] = []

    def spy(gradient: Spread, weight: Spread, fan_in: int, carried: float) -> float:
        seen.append((weight.rms, fan_in))
        return 1.0

    monkeypatch.setattr(scaled, "layer_scale", spy)
    network, x, target = build("depthwise", 32, 32)
    half = in_half(network, Ledger(torch.float32, adaptive=True))
    gradients(network, half, x, target)
    layers = list(reversed(network.layers))[
        : len(seen) - 1
    ]  # the first one passes nothing on, and the loss comes first
    expected = [
        layer.weight_shape[0] // layer.groups * (layer.weight_shape[2] ** 2 if len(layer.weight_shape) > 2 else 1)
        for layer in layers
    ]
    assert [fan_in for _, fan_in in seen[1:]] == expected
    assert {layer.kind.value for layer in layers} == {"conv", "depthwise", "linear"}
    assert isinstance(half, HalfNetwork)
