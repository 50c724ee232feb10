"""The rule by which a layer's gradient is enlarged, against arXiv 1910.12385 and what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erfinv

from mobo_mpq.training.half.rule import (
    LARGEST,
    LARGEST_FACTOR,
    LARGEST_TOTAL,
    SHARE,
    SMALLEST,
    Spread,
    common_scale,
    layer_scale,
    power_of_two,
)

POWERS = st.integers(-20, 14).map(lambda exponent: 2.0**exponent)
SIZES = st.floats(1e-12, 6e4)


@pytest.mark.parametrize(
    ("number", "power"), [(1.0, 1.0), (1.23, 1.0), (0.23, 0.125), (1024.0, 1024.0), (1023.9, 512.0)]
)
def test_powers_of_two_as_the_authors_test_them(number: float, power: float) -> None:
    assert power_of_two(number) == power


def test_limits_are_those_of_float16() -> None:
    half = torch.finfo(torch.float16)
    assert float(torch.tensor(SMALLEST, dtype=torch.float16)) == half.smallest_normal * half.eps == 2.0**-24
    assert LARGEST < half.max < 1.1 * LARGEST


def test_the_factor_is_the_published_one() -> None:
    """u_min / (sqrt(2) erfinv(p) sd), whose root was published as 0.00125331; no bound is active."""
    assert math.sqrt(2) * erfinv(SHARE) == pytest.approx(0.00125331, rel=1e-5)
    for sd in (5e-6, 1e-5, 4e-5):
        exact = SMALLEST / (0.00125331 * sd)
        assert 1.0 < exact < LARGEST_FACTOR
        assert layer_scale(Spread(sd, sd), Spread(1.0, 1.0), 1, 1.0) == power_of_two(exact)


def test_mean_squares_of_factors_multiply() -> None:
    """(sd_g^2 + mean_g^2)(sd_w^2 + mean_w^2) is the mean square of the products of independent elements."""
    rng = np.random.default_rng(0)
    g, w = rng.normal(0.3, 1.0, 2000), rng.normal(-0.1, 0.5, 3000)
    spread = Spread.of(torch.tensor(g)).rms * Spread.of(torch.tensor(w)).rms
    assert spread**2 == pytest.approx((g.var() + g.mean() ** 2) * (w.var() + w.mean() ** 2))
    assert spread == pytest.approx(np.sqrt(np.mean(np.outer(g, w) ** 2)))


@pytest.mark.parametrize("sd", [5e-6, 1.3e-5, 2.3e-5])
def test_the_share_that_vanishes_is_bounded(sd: float) -> None:
    """Of normal products, as the rule assumes them: p at the exact factor, up to 2p at the power of two below it."""
    scale = layer_scale(Spread(sd, sd), Spread(1.0, 1.0), 1, 1.0)
    products = np.random.default_rng(1).normal(0.0, sd, 4_000_000)
    share = float(np.mean(np.abs(products * scale) < SMALLEST))
    without = float(np.mean(np.abs(products) < SMALLEST))
    assert SHARE * 0.9 < share < 2 * SHARE * 1.1
    assert without > 1.9 * share
    exact = SMALLEST / (0.00125331 * sd)
    assert float(np.mean(np.abs(products * exact) < SMALLEST)) == pytest.approx(SHARE, rel=0.1)


def test_the_gradient_of_a_gaussian_layer_keeps_its_elements() -> None:
    """Sums of fan-in many products are normal, and wider than one product: fewer than 2p of them vanish in float16."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(512, 64, generator=generator, dtype=torch.float64) * 2e-5
    weight = torch.randn(64, 256, generator=generator, dtype=torch.float64) * 0.02
    exact = gradient @ weight
    scale = layer_scale(Spread.of(gradient), Spread.of(weight), 64, 1.0)
    assert scale > 1.0
    vanished = [float(((exact * factor).half() == 0).double().mean()) for factor in (1.0, scale)]
    assert vanished[1] <= 2 * SHARE < vanished[0]


@settings(deadline=None)
@given(SIZES, SIZES, st.floats(1e-6, 1e3), st.integers(1, 10_000), POWERS)
def test_bounds(rms: float, peak: float, weight: float, fan_in: int, carried: float) -> None:
    gradient = Spread(rms, rms * max(1.0, peak / rms))
    scale = layer_scale(gradient, Spread(weight, 2 * weight), fan_in, carried)
    assert scale == power_of_two(scale)
    assert scale <= LARGEST_FACTOR
    assert scale * carried <= LARGEST_TOTAL
    assert scale * gradient.largest <= LARGEST
    assert scale * gradient.largest * 2 * weight * fan_in <= LARGEST * (1 + 1e-9)
    if scale < 1.0:  # only where one of the limits forces it
        room = (LARGEST / gradient.largest, LARGEST / fan_in / (gradient.largest * 2 * weight), LARGEST_TOTAL / carried)
        assert min(room) < 1.0


@pytest.mark.parametrize("spread", [Spread(0.0, 0.0), Spread(math.inf, math.inf), Spread(math.nan, math.nan)])
def test_nothing_to_enlarge(spread: Spread) -> None:
    assert layer_scale(spread, Spread(1.0, 1.0), 9, 4.0) == 1.0
    assert layer_scale(Spread(1.0, 1.0), spread, 9, 4.0) == 1.0


def test_spreads_of_the_smallest_numbers() -> None:
    """Squares of 2**-24 would be zero in float16, and those of 1e-30 in float32."""
    found = Spread.of(torch.full((7,), 2.0**-24, dtype=torch.float16))
    assert found.rms == pytest.approx(2.0**-24)
    assert Spread.of(torch.tensor([-1e-30, 1e-30])).rms == pytest.approx(1e-30)
    assert Spread.of(torch.empty(0)) == Spread(0.0, 0.0)
    assert Spread(1.5, 2.0).times(4.0) == Spread(6.0, 8.0)


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, st.integers(0, 10)), min_size=1, max_size=5))
def test_sums_of_branches_do_not_overflow(branches: list[tuple[float, int]]) -> None:
    spreads = [Spread(size, size) for size, _ in branches]
    carried = [2.0**exponent for _, exponent in branches]
    common = common_scale(spreads, carried)
    total = sum(size / scale for (size, _), scale in zip(branches, carried, strict=True))
    assert common == power_of_two(common) <= max(carried)
    assert common * total <= LARGEST
    if common < max(carried):  # the next one would overflow
        assert 2 * common * total > LARGEST


def test_branches_that_overflowed_already() -> None:
    assert common_scale([Spread(math.inf, math.inf), Spread(1.0, 1.0)], [2.0, 8.0]) == 8.0
    assert common_scale([Spread(0.0, 0.0)], [4.0]) == 4.0
