"""Gradients of the learned step size, against the closed form of Esser et al. (2020), equations 3 and 5."""

from __future__ import annotations

import math

import pytest
import torch

from mobo_mpq.quant import LsqQuantizer, LsqScheme, Role, Site, build_quantizer
from mobo_mpq.quant.observers import SMALLEST_SCALE


def quantizer(bits: int, shape: tuple[int, ...] = (), axis: int | None = None, symmetric: bool = True) -> LsqQuantizer:
    scheme = LsqScheme(symmetric=symmetric, per_channel=axis is not None, observer="minmax")
    built = build_quantizer(scheme, bits, shape=shape, axis=axis)
    assert isinstance(built, LsqQuantizer)
    return built


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_of_weights(bits: int, axis: int | None) -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(bits), dtype=torch.float32)
    lsq = quantizer(bits, weight.shape, axis)
    lsq.calibrate(weight)
    with torch.no_grad():
        lsq.scale.mul_(0.4)  # so that some values are clamped
    weight.requires_grad_()
    upstream = torch.randn(6, 8, generator=torch.Generator().manual_seed(9))
    lsq(weight).backward(upstream)

    scale = lsq.scale.detach() if axis is None else lsq.scale.detach().unsqueeze(1 - axis)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    v = weight.detach() / scale
    slope = torch.where(v.round() < low, low, torch.where(v.round() > high, high, v.round() - v))
    count = weight.numel() if axis is None else weight.numel() // weight.shape[axis]
    expected = (slope * upstream) / math.sqrt(count * high)
    expected = expected.sum() if axis is None else expected.sum(1 - axis)
    torch.testing.assert_close(lsq.scale.grad, expected, rtol=1e-4, atol=1e-5)
    inside = (v.round() >= low) & (v.round() <= high)
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(weight.grad, upstream * inside)


def test_gradient_of_an_activation_is_scaled_by_the_features_of_one_sample() -> None:
    lsq = quantizer(4, symmetric=False)
    lsq.site = Site(Role.ACTIVATION, "relu", ("conv",))
    assert lsq.gradient_scale(torch.zeros(32, 3, 5)) == pytest.approx(1 / math.sqrt(15 * 15))
    lsq.site = Site(Role.WEIGHT, "conv.weight", ("conv",), 0)
    assert lsq.gradient_scale(torch.zeros(32, 3, 5)) == pytest.approx(1 / math.sqrt(32 * 15 * 15))


def test_the_zero_point_stays_while_the_scale_learns() -> None:
    lsq = quantizer(4, symmetric=False)
    lsq.calibrate(torch.tensor([-1.0, 2.0]))
    assert int(lsq.zero_point) == 5
    x = torch.linspace(-2, 4, 101)
    optimizer = torch.optim.SGD(lsq.parameters(), 0.5)
    before = (lsq(x) - x).square().mean()
    for _ in range(200):
        optimizer.zero_grad()
        (lsq(x) - x).square().mean().backward()
        optimizer.step()
    assert int(lsq.zero_point) == 5
    assert (lsq(x) - x).square().mean() < 0.6 * before  # it widened to what the data needs
    assert float(lsq.scale.detach()) > 0.25


def test_a_scale_that_overshot_is_held_positive_and_comes_back() -> None:
    lsq = quantizer(4)
    lsq.calibrate(torch.tensor([-1.0, 1.0]))
    with torch.no_grad():
        lsq.scale.fill_(-0.5)
    x = torch.linspace(-1, 1, 21)
    assert float(lsq.qparams().scale) == pytest.approx(SMALLEST_SCALE)
    assert torch.equal(lsq(x), lsq.qparams().dequantize(lsq.integers(x)))
    (lsq(x) - x).square().sum().backward()
    assert lsq.scale.grad < 0  # descent makes it larger
