from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError
from mobo_mpq.quant import functional


@pytest.mark.parametrize(
    ("bits", "symmetric", "expected"), [(2, True, (-2, 1)), (8, True, (-128, 127)), (3, False, (0, 7))]
)
def test_grids(bits: int, symmetric: bool, expected: tuple[int, int]) -> None:
    assert functional.grid(bits, symmetric) == expected


@pytest.mark.parametrize("bits", [0, 1, 9, 15, 64, -4, True, 4.0, "4", None])
def test_unsupported_bits(bits: object) -> None:
    with pytest.raises(InputError, match="bits are not supported; expected 2 to 8, or 16 or 32"):
        functional.check_bits(bits)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    axis=st.sampled_from([None, 0, 1]),
    spread=st.floats(1e-3, 1e3),
)
def test_values_and_gradients_have_the_closed_form(
    seed: int, bits: int, symmetric: bool, axis: int | None, spread: float
) -> None:
    """Straight through inside the grid; equation 3 of LSQ for the step size, with "inside" judged after rounding."""
    generator = torch.Generator().manual_seed(seed)
    qmin, qmax = functional.grid(bits, symmetric)
    shape = (3, 4, 50)
    channels = () if axis is None else (shape[axis],)
    x = torch.randn(shape, generator=generator) * spread
    scale = (torch.rand(channels, generator=generator) + 0.1) * spread / 2**bits
    point = torch.zeros(channels) if symmetric else torch.randint(qmin, qmax + 1, channels, generator=generator)
    point = point.to(torch.int32)
    upstream = torch.randn(shape, generator=generator)
    step, offset = functional.expand(scale, axis, 3), functional.expand(point, axis, 3)

    integers = functional.quantize(x, scale, point, qmin, qmax, axis)
    expected = (integers - offset) * step
    v = x * functional.expand(1.0 / scale, axis, 3)
    inside = (torch.round(v) + offset >= qmin) & (torch.round(v) + offset <= qmax)
    slope = torch.where(inside, torch.round(v) - v, integers - offset) * upstream * 0.3
    others = [d for d in range(3) if d != axis]
    to_scale = slope.double().sum(others if axis is not None else [0, 1, 2]).float()

    static = x.clone().requires_grad_()
    fixed = functional.fake_quantize(static, scale, point, qmin, qmax, axis)
    fixed.backward(upstream)
    mine, learned_scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    learned = functional.fake_quantize_learned(mine, learned_scale, point, qmin, qmax, axis, 0.3)
    learned.backward(upstream)
    with torch.no_grad():
        plain = functional.fake_quantize_learned(x, scale, point, qmin, qmax, axis, 1.0)
    for result in (fixed, learned, plain):
        assert torch.equal(result, expected)
    for leaf in (static, mine):
        assert torch.equal(leaf.grad, torch.where(inside, upstream, torch.zeros(())))
    assert learned_scale.grad is not None
    assert learned_scale.grad.shape == scale.shape
    torch.testing.assert_close(learned_scale.grad, to_scale, rtol=1e-3, atol=1e-3 * 2**bits)


def test_rounding_multiplies_by_the_inverse_and_is_half_to_even() -> None:
    scale, point = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 100.0, -100.0])
    assert functional.quantize(x, scale, point, -8, 7, None).tolist() == [0, 2, 2, 0, -2, 7, -8]
    scale = torch.tensor(0.0371)
    x = torch.arange(1, 200_000, dtype=torch.float32) * 0.0371 / 2
    by_inverse = torch.round(x * (1.0 / scale)).clamp(-8, 7)
    assert torch.equal(functional.quantize(x, scale, point, -8, 7, None), by_inverse)
