from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobo_mpq.errors import InputError
from mobo_mpq.quant import functional
from mobo_mpq.quant.observers import SMALLEST_SCALE, Observer, choose, scale_and_zero_point


def observed(x: Tensor, axis: int | None = None, batches: int = 1) -> Observer:
    observer = Observer(axis)
    for part in x.chunk(batches):
        observer.observe(part)
    return observer


def error(x: Tensor, scale: Tensor, point: Tensor, qmin: int, qmax: int) -> float:
    quantized = functional.fake_quantize(x, scale.reshape(()), point.reshape(()), qmin, qmax, None)
    return float((quantized - x).double().square().mean())


@settings(deadline=None, max_examples=80)
@given(
    low=st.floats(-100, 100, width=32),
    width=st.floats(0, 100, width=32),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
)
def test_a_range_is_covered_and_zero_is_exact(low: float, width: float, bits: int, symmetric: bool) -> None:
    qmin, qmax = functional.grid(bits, symmetric)
    ends = torch.tensor([low, low + width])
    scale, point = scale_and_zero_point(ends[0], ends[1], qmin, qmax, symmetric)
    assert float(scale) >= SMALLEST_SCALE and qmin <= int(point) <= qmax and point.dtype == torch.int32
    zero = torch.zeros(1)
    assert torch.equal(functional.fake_quantize(zero, scale, point, qmin, qmax, None), zero)
    # no value of the range is further from a level than rounding both it and the zero point may cost
    quantized = functional.fake_quantize(ends, scale, point, qmin, qmax, None)
    assert float((quantized - ends).abs().max()) <= float(scale) * (0.501 if symmetric else 1.001) + 1e-6
    if symmetric:
        assert int(point) == 0


def test_minmax_is_exact_over_batches_and_channels() -> None:
    x = torch.randn(40, 6, 5)
    observer = observed(x, axis=1, batches=4)
    low, high = observer.extremes()
    assert torch.equal(low, x.amin((0, 2))) and torch.equal(high, x.amax((0, 2)))
    scale, point = choose(observer, "minmax", 0, 15, symmetric=False)
    torch.testing.assert_close(scale, (high - low) / 15)
    assert torch.equal(point, torch.round(-low / scale).int())


def test_the_symmetric_grid_uses_its_extra_negative_level() -> None:
    scale, _ = choose(observed(torch.tensor([-4.0, 1.0])), "minmax", -2, 1, symmetric=True)
    assert float(scale) == 2.0
    scale, _ = choose(observed(torch.tensor([-1.0, 3.0])), "minmax", -2, 1, symmetric=True)
    assert float(scale) == 3.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_percentiles_are_those_of_numpy(symmetric: bool) -> None:
    x = torch.randn(9_000, generator=torch.Generator().manual_seed(0))
    qmin, qmax = functional.grid(4, symmetric)
    scale, _ = choose(observed(x), "percentile", qmin, qmax, symmetric, percentile=98.0)
    if symmetric:
        bound = np.percentile(x.abs().numpy(), 98.0)
        expected = bound / 7
    else:
        low, high = np.percentile(x.numpy(), [1.0, 99.0])
        expected = (high - low) / 15
    assert float(scale) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("heavy", [False, True])
def test_symmetric_mse_is_within_two_percent_of_brute_force(bits: int, heavy: bool) -> None:
    x = torch.randn(3_000, generator=torch.Generator().manual_seed(bits))
    x = x**3 if heavy else x
    qmin, qmax = functional.grid(bits, symmetric=True)
    found = error(x, *choose(observed(x), "mse", qmin, qmax, symmetric=True), qmin, qmax)
    largest = scale_and_zero_point(x.min(), x.max(), qmin, qmax, True)[0]
    zero = torch.tensor(0, dtype=torch.int32)
    brute = min(error(x, largest * k / 2_000, zero, qmin, qmax) for k in range(20, 2_001))
    assert found <= 1.02 * brute


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", ["relu", "gelu", "both"])
def test_affine_mse_is_close_to_brute_force_over_both_ends(bits: int, shape: str) -> None:
    x = torch.randn(1_500, generator=torch.Generator().manual_seed(bits)) * 2
    x = {"relu": torch.relu(x), "gelu": torch.nn.functional.gelu(x), "both": x + 0.5}[shape]
    qmin, qmax = functional.grid(bits, symmetric=False)
    found = error(x, *choose(observed(x), "mse", qmin, qmax, symmetric=False), qmin, qmax)
    ends = [k / 40 for k in range(2, 41)]
    lows = [float(x.min()) * f for f in ends] if shape != "relu" else [0.0]
    brute = min(
        error(x, *scale_and_zero_point(torch.tensor(low), x.max() * f, qmin, qmax, False), qmin, qmax)
        for low in lows
        for f in ends
    )
    assert found <= 1.05 * brute
    assert found <= error(x, *choose(observed(x), "minmax", qmin, qmax, symmetric=False), qmin, qmax)


def test_channels_are_searched_on_their_own() -> None:
    x = (
        torch.randn(5, 700, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 0.1, 1.0, 10.0, 0.0])[:, None]
    )
    scales, _ = choose(observed(x, axis=0), "mse", -8, 7, symmetric=True)
    alone = [float(choose(observed(row), "mse", -8, 7, symmetric=True)[0]) for row in x]
    assert scales.tolist() == pytest.approx(alone)
    assert scales[4] == SMALLEST_SCALE


def test_memory_is_bounded_and_the_sample_even() -> None:
    observer = Observer()
    for batch in range(50):
        observer.observe(torch.full((64, 32, 5, 5), float(batch)))
        assert observer.values().numel() <= 40_000
    values = observer.values()
    assert values.numel() > 4_000
    counts = torch.bincount(values.flatten().long(), minlength=50)
    assert counts.min() > 0 and counts.max() <= 3 * counts.min()
    observer = Observer()
    observer.observe(torch.arange(32.0).repeat(8192))  # channels last: an even stride would see few of them
    assert observer.values().unique().numel() == 32


def test_nothing_or_nonsense_observed() -> None:
    observer = Observer()
    observer.observe(torch.empty(0, 3))
    assert observer.empty
    with pytest.raises(InputError, match="no data was observed; pass at least one batch"):
        choose(observer, "mse", -8, 7, symmetric=True)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="holds NaN or infinity; check the model"):
            choose(observed(torch.tensor([1.0, bad])), "minmax", -8, 7, symmetric=True)
