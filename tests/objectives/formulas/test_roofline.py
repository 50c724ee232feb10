"""The roofline against its closed form, and against the fits that it was written for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.formulas.roofline import Roofline
from mobo_mpq.policy import LayerBits

CONV = LayerSpec("c", OpKind.CONV, (64, 32, 3, 3), (32, 56, 56), (64, 28, 28), stride=2)
DEPTHWISE = LayerSpec("d", OpKind.DEPTHWISE, (32, 1, 3, 3), (32, 56, 56), (32, 56, 56), groups=32)
LINEAR = LayerSpec("l", OpKind.LINEAR, (1000, 512), (512,), (1000,))
SLOW = {"macs_per_s": 1e9}


def roofline(**changes) -> Roofline:
    numbers = {"pairs": {"8/8": SLOW, "4/8": SLOW}, "bytes_per_s": 1e9} | changes
    return Roofline.model_validate(numbers)


def test_computing_by_hand():
    formula = roofline(bytes_per_s=1e15, overhead_s=2e-6, pairs={"8/8": {"macs_per_s": 4e12, "efficiency": 0.25}})
    macs = 64 * 28 * 28 * 32 * 9
    assert formula.seconds(CONV, LayerBits(8, 8), 8) == pytest.approx(2e-6 + 8 * macs / 1e12)


def test_moving_by_hand():
    formula = roofline(pairs={"4/8": {"macs_per_s": 1e15}}, bandwidth_efficiency=0.5, output_bits=32)
    moved = 8 * (32 * 56 * 56 + 4 * 64 * 28 * 28) + 64 * 32 * 9 / 2  # weights once, at half a byte
    assert formula.moved_bytes(CONV, LayerBits(4, 8), 8) == moved
    assert formula.seconds(CONV, LayerBits(4, 8), 8) == pytest.approx(moved / 0.5e9)


def test_outputs_are_as_wide_as_the_input_unless_their_bits_are_given():
    assert roofline().moved_bytes(LINEAR, LayerBits(8, 8), 1) == 512 + 1000 + 512_000
    assert roofline(output_bits=32).moved_bytes(LINEAR, LayerBits(8, 8), 1) == 512 + 4000 + 512_000


@settings(deadline=None)
@given(st.integers(1, 64), st.sampled_from([CONV, DEPTHWISE, LINEAR]))
def test_the_sum_is_the_longer_and_the_shorter_part(batch, layer):
    bits = LayerBits(8, 8)
    compute, memory = batch * layer.macs / 1e9, roofline().moved_bytes(layer, bits, batch) / 1e9
    assert roofline().seconds(layer, bits, batch) == max(compute, memory)
    assert roofline(combine="sum").seconds(layer, bits, batch) == pytest.approx(compute + memory)


def test_depthwise_layers_have_a_rate_of_their_own():
    rates = SLOW | {"efficiency": 0.5, "depthwise_macs_per_s": 1e6}
    formula = roofline(pairs={"8/8": rates}, bytes_per_s=1e15)
    assert formula.seconds(DEPTHWISE, LayerBits(8, 8), 1) == pytest.approx(DEPTHWISE.macs / 1e6)
    assert formula.seconds(LINEAR, LayerBits(8, 8), 1) == pytest.approx(LINEAR.macs / 0.5e9)
    without = roofline(pairs={"8/8": SLOW | {"efficiency": 0.5}}, bytes_per_s=1e15)
    assert without.seconds(DEPTHWISE, LayerBits(8, 8), 1) == pytest.approx(DEPTHWISE.macs / 0.5e9)


def test_a_pair_may_have_its_own_overhead_and_bandwidth():
    """The two fits of ONNX Runtime on an x86 CPU: ``t = o + MACs / P + bytes / BW``."""
    float32 = {"macs_per_s": 146e9, "depthwise_macs_per_s": 72e9, "bytes_per_s": 41.8e9, "overhead_s": 4.3e-6}
    formula = roofline(pairs={"32/32": float32, "8/8": SLOW}, combine="sum", overhead_s=0.0)
    moved = 4 * (32 * 56 * 56 + 32 * 56 * 56 + 32 * 9)
    expected = 4.3e-6 + DEPTHWISE.macs / 72e9 + moved / 41.8e9
    assert formula.seconds(DEPTHWISE, LayerBits(32, 32), 1) == pytest.approx(expected)
    assert formula.seconds(DEPTHWISE, LayerBits(8, 8), 1) == pytest.approx((DEPTHWISE.macs + moved / 4) / 1e9)


def test_an_overhead_of_zero_for_a_pair_is_not_taken_for_none():
    formula = roofline(pairs={"8/8": SLOW | {"overhead_s": 0.0}}, overhead_s=1.0)
    assert formula.seconds(LINEAR, LayerBits(8, 8), 1) < 1.0


def test_it_covers_its_pairs_alone():
    assert roofline().covers(OpKind.CONV, LayerBits(4, 8))
    assert not roofline().covers(OpKind.CONV, LayerBits(8, 4))
    assert roofline().coverage == "8/8, 4/8 (weight/activation)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": {}}, "at least 1 item"),
        ({"pairs": {"int8": SLOW}}, "key 'int8' is not WEIGHT/ACTIVATION bits"),
        ({"pairs": {"8/8": SLOW | {"efficiency": 1.5}}}, "less than or equal to 1"),
        ({"pairs": {"8/8": {"macs_per_s": float("nan")}}}, "finite|greater than 0"),
        ({"bytes_per_s": 0}, "greater than 0"),
        ({"overhead_s": -1e-6}, "greater than or equal to 0"),
        ({"combine": "mean"}, "'max' or 'sum'"),
        ({"output_bits": -1}, "greater than or equal to 0"),
        ({"clock": 1}, "not permitted"),
    ],
)
def test_nonsense_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        roofline(**changes)
