"""A formula for each kind of layer, and the target that has them: ONNX Runtime on an x86 CPU."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.costs import cost_model
from mobo_mpq.objectives.formulas.by_kind import ByKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits
from mobo_mpq.testing.networks import mobilenet_v2, traced

CONV = LayerSpec("c", OpKind.CONV, (64, 32, 3, 3), (32, 28, 28), (64, 28, 28))
DEPTHWISE = LayerSpec("d", OpKind.DEPTHWISE, (32, 1, 3, 3), (32, 56, 56), (32, 56, 56), groups=32)
LINEAR = LayerSpec("l", OpKind.LINEAR, (4096, 4096), (4096,), (4096,))


def roofline(macs_per_s: float, *pairs: str) -> dict[str, Any]:
    rates = {pair: {"macs_per_s": macs_per_s} for pair in pairs or ("8/8",)}
    return {"model": "roofline", "bytes_per_s": 1e15, "pairs": rates}


def test_each_kind_has_its_own_formula() -> None:
    formula = ByKind(conv=roofline(1e9), depthwise=roofline(1e6), linear=roofline(1e12, "4/8"))
    for layer, bits, rate in ((CONV, (8, 8), 1e9), (DEPTHWISE, (8, 8), 1e6), (LINEAR, (4, 8), 1e12)):
        assert formula.covers(layer.kind, LayerBits(*bits))
        assert formula.refusal(layer, LayerBits(*bits)) is None
        assert formula.seconds(layer, LayerBits(*bits), 2) == pytest.approx(2 * layer.macs / rate)
    assert not formula.covers(OpKind.LINEAR, LayerBits(8, 8))
    assert formula.refusal(LINEAR, LayerBits(8, 8)) == "it covers 4/8 (weight/activation)"
    assert formula.coverage.endswith("linear layers: 4/8 (weight/activation)")


def test_depthwise_layers_are_convolutions_where_nothing_else_is_said() -> None:
    formula = ByKind(conv=roofline(1e9))
    assert formula.seconds(DEPTHWISE, LayerBits(8, 8), 1) == pytest.approx(DEPTHWISE.macs / 1e9)
    assert formula.refusal(LINEAR, LayerBits(8, 8)) == "it has a formula for conv, depthwise layers"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "no kind of layer has a formula; give at least one of conv, depthwise and linear"),
        ({"conv": {"model": "magic"}}, "conv.model is 'magic'; expected one of bit_"),
        ({"linear": {"rate": 1}}, "linear.model is None; expected one of"),
        ({"conv": {"model": "by_kind"}}, "conv.model is 'by_kind'; expected one of"),
        ({"conv": {"model": "mac_rate"}}, "conv.model 'mac_rate' gives cycles, and the document has no clock_hz"),
        ({"conv": roofline(-1.0)}, "conv.pairs.8/8.macs_per_s: Input should be greater than 0"),
    ],
)
def test_what_is_refused(tables: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace(".", r"\.")):
        ByKind.model_validate(tables)


def test_a_clock_serves_all_kinds() -> None:
    cycles = {"model": "mac_rate", "macs_per_cycle": {"8/8": 2.0}}
    formula = ByKind.model_validate({"linear": cycles}, context={"clock_hz": 1e6})
    assert formula.seconds(LINEAR, LayerBits(8, 8), 1, 1e6) == pytest.approx(LINEAR.macs / 2e6)


def test_x86_prices_the_measured_mobilenet() -> None:
    """MobileNetV2 at 224 pixels took 4.25 ms in float and 2.04 ms at 8 bits; layers of it were fitted, not the sum."""
    target, layers = load_target("x86-ort"), traced(mobilenet_v2, 3, 224, 224).layers
    for bits, milliseconds in ((32, 4.25), (8, 2.04)):
        total = sum(target.latency.layer_cost(layer, LayerBits(bits, bits)) for layer in layers)
        assert 1e3 * total == pytest.approx(milliseconds, rel=0.08)


def test_x86_prices_measured_products() -> None:
    """4096 x 4096 weights and one row: 1534 us in float, 212 at 8 bits, 167 at 4, 281 at 2."""
    latency = load_target("x86-ort").latency
    for bits, microseconds in (((32, 32), 1534), ((8, 8), 212), ((4, 8), 167), ((2, 8), 281)):
        assert 1e6 * latency.layer_cost(LINEAR, LayerBits(*bits)) == pytest.approx(microseconds, rel=0.5)
    assert latency.layer_cost(LINEAR, LayerBits(4, 8)) < latency.layer_cost(LINEAR, LayerBits(8, 8))


def test_x86_carries_narrow_convolutions_on_8_bits() -> None:
    target = load_target("x86-ort")
    eight = target.latency.layer_cost(CONV, LayerBits(8, 8))
    assert all(target.latency.layer_cost(CONV, LayerBits(bits, 8)) == eight for bits in range(2, 8))
    assert target.latency.layer_cost(LINEAR, LayerBits(3, 8)) == target.latency.layer_cost(LINEAR, LayerBits(8, 8))
    size = cost_model("size", target, [CONV])
    assert size.layer_cost(CONV, LayerBits(4, 8)) == size.layer_cost(CONV, LayerBits(8, 8)) / 2
