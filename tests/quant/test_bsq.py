"""Bit planes: exact expansions, bookkeeping of scales, gradients by finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobo_mpq.quant import functional
from mobo_mpq.quant.bsq import BitPlanes, group_lasso, plane_norms, requantize

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def weights(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planes_of(weight: Tensor, bits: int, axis: int | None = None) -> BitPlanes:
    planes = BitPlanes(bits, axis)
    planes.calibrate(weight)
    return planes


def of_integers(integers: list[int], planes: int, bits: int = 8, scale: float = 0.7) -> BitPlanes:
    made = BitPlanes(bits)
    made.set_integers(torch.tensor(integers, dtype=torch.float64), planes)
    made.scale, made.calibrated = torch.tensor(scale, dtype=torch.float64), True
    return made


def value(planes: BitPlanes) -> Tensor:
    return planes(planes.planes[0][0]).detach()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**20), bits=st.integers(2, 8), axis=st.sampled_from([None, 0, 1]))
def test_planes_are_the_binary_expansion_of_the_nearest_integers(seed: int, bits: int, axis: int | None) -> None:
    weight = weights(seed, 5, 7)
    made = planes_of(weight, bits, axis)
    largest = 2 ** (bits - 1) - 1
    over = None if axis is None else 1 - axis
    scale = weight.abs().amax() if over is None else weight.abs().amax(over)
    torch.testing.assert_close(made.scale, scale, rtol=1e-6, atol=0)  # observers look in float32
    integers = torch.round(weight / functional.expand(made.scale, axis, 2) * largest)
    assert len(made.planes) == bits - 1 and made.found_bits == made.bits == bits
    for plane in made.planes:
        assert plane.shape == (2, 5, 7) and set(plane.detach().unique().tolist()) <= {0.0, 1.0}
        assert not bool((plane[0] * plane[1]).any())
    assert torch.equal(made.integers().detach(), integers)
    torch.testing.assert_close(value(made), integers * functional.expand(made.scale, axis, 2) / largest, **EXACT)
    requantize([made])
    torch.testing.assert_close(value(made), integers * functional.expand(scale, axis, 2) / largest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gone", range(5))
def test_lowest_planes_that_are_0_go(gone: int) -> None:
    """Section 3.2 of the paper: each doubles the step."""
    made = of_integers([n << gone for n in (3, -2, 0, 1, -3)], planes=7)
    before = value(made)
    requantize([made])
    assert len(made.planes) == 2 and made.bits == made.found_bits == 3
    torch.testing.assert_close(value(made), before, **EXACT)
    assert made.scale.item() == pytest.approx(0.7 * 2**gone * 3 / 127, rel=1e-12)


@pytest.mark.parametrize("left", range(1, 8))
def test_highest_planes_that_are_0_go(left: int) -> None:
    made = of_integers([2**left - 1, -1, 0], planes=7)
    before = value(made)
    requantize([made])
    assert len(made.planes) == left
    torch.testing.assert_close(value(made), before, **EXACT)
    assert made.scale.item() == pytest.approx(0.7 * (2**left - 1) / 127, rel=1e-12)


@pytest.mark.parametrize("planes", range(1, 7))
def test_sums_that_outgrew_their_planes_get_one_more(planes: int) -> None:
    made = of_integers([2**planes - 1, -1, 0], planes)
    with torch.no_grad():
        made.planes[-1][0, 0] = 2.0
    before = value(made)
    assert before[0] > 0.7  # more than the scale
    requantize([made])
    assert len(made.planes) == planes + 1
    torch.testing.assert_close(value(made), before, **EXACT)
    assert made.scale.item() == pytest.approx(0.7 * (2 ** (planes + 1) - 1) / (2**planes - 1), rel=1e-12)


def test_nothing_outgrows_the_bits_at_the_start() -> None:
    made = of_integers([7, -7, 3], planes=3, bits=4)
    with torch.no_grad():
        for plane in made.planes:
            plane.mul_(2.0)
    assert value(made).tolist() == pytest.approx([0.7, -0.7, 0.6])
    requantize([made])
    assert made.bits == 4 and value(made).tolist() == pytest.approx([0.7, -0.7, 0.6])


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    bits=st.integers(2, 8),
    planes=st.integers(1, 7),
    shrunk=st.lists(st.floats(0, 1), min_size=7, max_size=7),
)
def test_whatever_was_trained_stays_as_it_is(seed: int, bits: int, planes: int, shrunk: list[float]) -> None:
    planes = min(planes, bits - 1)
    tied = [of_integers([0] * 6, planes, bits), of_integers([0] * 4, planes, bits, scale=3.0)]
    generator = torch.Generator().manual_seed(seed)
    for one in tied:
        for plane, share in zip(one.planes, shrunk, strict=False):
            with torch.no_grad():
                plane.copy_(torch.rand(plane.shape, generator=generator, dtype=plane.dtype) * 2 * share)
    before = [value(one) for one in tied]
    unrounded = requantize(tied)
    for one, kept in zip(tied, unrounded, strict=True):
        assert torch.equal((kept / one.step).round(), one.integers())
    assert len(tied[0].planes) == len(tied[1].planes) and 2 <= tied[0].bits <= bits
    for one, expected in zip(tied, before, strict=True):
        torch.testing.assert_close(value(one), expected, **EXACT)
        assert bool(one.found_bits) == bool(expected.any())
        requantize([one])
        torch.testing.assert_close(value(one), expected, **EXACT)


def test_a_plane_below_one_half_rounds_no_more() -> None:
    made = of_integers([5, -3, 6], planes=3)
    with torch.no_grad():
        made.planes[0].mul_(0.49)
    assert made.present() == [False, True, True]
    assert made.integers().tolist() == [4.0, -2.0, 6.0]
    with torch.no_grad():
        made.planes[0].fill_(0.0)[0, 0] = 0.5
    assert made.present() == [True, True, True]


def test_a_weight_whose_planes_are_all_below_one_half_is_0() -> None:
    made = of_integers([5, -3, 7], planes=3)
    with torch.no_grad():
        for plane in made.planes:
            plane.mul_(0.49)
    assert made.sums().tolist() == pytest.approx([2.45, -1.47, 3.43])
    assert made.found_bits == 0 and not made.integers().any() and not value(made).any()
    requantize([made])
    assert len(made.planes) == 1 and made.found_bits == 0 and not value(made).any()


def test_all_planes_may_vanish() -> None:
    made = of_integers([5, -3, 6], planes=3)
    with torch.no_grad():
        for plane in made.planes:
            plane.zero_()
    requantize([made])
    assert len(made.planes) == 1 and made.found_bits == 0 and not value(made).any()
    assert torch.isfinite(made.scale)


def test_a_weight_of_zeros_has_planes() -> None:
    made = planes_of(torch.zeros(3, 2), 8, axis=0)
    assert made.found_bits == 0 and not value(made).any()


@pytest.mark.parametrize("axis", [None, 0])
def test_gradients_of_bits_pass_straight_through_the_rounding(axis: int | None) -> None:
    """``dL/dp_b = 2^b / (2^n - 1) S dL/dW``, with ``dL/dW`` by central differences at the rounded weight."""
    made = planes_of(weights(0, 3, 4), 5, axis)
    with torch.no_grad():
        for bit, plane in enumerate(made.planes):
            plane.add_(0.01 * (bit + 1) * weights(bit, 2, 3, 4)).clamp_(0.0, 2.0)
            plane[:, 0, 0] = torch.tensor([2.0, 0.0])
    target = weights(9, 3, 4)

    def loss(weight: Tensor) -> Tensor:
        return (torch.tanh(weight) - target).pow(3).sum()

    loss(made(target)).backward()
    inside = made.sums().detach().abs() < 15  # what is clamped has no gradient
    assert 1 <= int((~inside).sum()) < 12
    for index in range(12):
        shift = torch.zeros(12, dtype=torch.float64)
        shift[index] = 1e-5
        up, down = (loss(value(made) + sign * shift.reshape(3, 4)) for sign in (1, -1))
        slope = (up - down).item() / 2e-5 * bool(inside.flatten()[index])
        scale = made.scale.item() if axis is None else made.scale[index // 4].item()
        for bit, plane in enumerate(made.planes):
            assert plane.grad is not None
            expected = 2**bit / 15 * scale * slope
            assert plane.grad[0].flatten()[index].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
            assert plane.grad[1].flatten()[index].item() == pytest.approx(-expected, rel=1e-6, abs=1e-9)


def test_what_rounding_loses_is_left_wherever_the_new_step_loses_it_again() -> None:
    """Planes that vanish from one weight alone leave the step as it is, and must not come back by its rounding."""
    one, other = of_integers([5, -2, 4], planes=3), of_integers([1, -3, 7], planes=3)
    with torch.no_grad():
        one.planes[1].mul_(0.8)
        other.planes[0].mul_(0.49)
        other.planes[1].mul_(0.49)
    kept, left = requantize([one, other])
    assert kept.tolist() == pytest.approx([0.5, -0.16, 0.4])  # steps of 0.1
    assert value(one).tolist() == pytest.approx([0.5, -0.2, 0.4])
    assert left.tolist() == pytest.approx([0.049, 0.0, 0.4])  # 0.49, -1.47 and 5.47 steps, in multiples of 4
    assert value(other).tolist() == pytest.approx([0.0, 0.0, 0.4])
    assert (one.found_bits, other.found_bits) == (4, 4)


def test_unrounded_weights_are_off_by_half_a_step_at_most() -> None:
    made = of_integers([5, -3, 6], planes=3)
    with torch.no_grad():
        made.planes[1].mul_(0.8)
    assert made.unrounded().tolist() == pytest.approx([0.5, -0.26, 0.56])  # 5, -1 - 1.6 and 4 + 1.6 steps of 0.1
    assert bool(((made.unrounded() - value(made)).abs() <= 0.05 + 1e-12).all())


def test_the_lasso_by_hand() -> None:
    one, two = of_integers([1, -3], planes=2), of_integers([2, 0], planes=2)
    assert plane_norms([one, two]).tolist() == pytest.approx([2**0.5, 2**0.5])
    assert group_lasso([one, two]).item() == pytest.approx(2 * 2**0.5)
    assert group_lasso([two]).item() == pytest.approx(1.0)


def test_planes_are_kept_with_the_network() -> None:
    made = planes_of(weights(3, 4, 2), 6, axis=0)
    restored = planes_of(weights(4, 4, 2), 6, axis=0)
    restored.load_state_dict(made.state_dict())
    assert torch.equal(value(restored), value(made))
