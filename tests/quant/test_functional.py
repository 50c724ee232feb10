from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

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


def kernel(x: Tensor, scale: Tensor, point: Tensor, qmin: int, qmax: int, axis: int | None, factor: float) -> Tensor:
    """PyTorch's own learnable kernels."""
    if axis is None:
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, scale.reshape(1), point.reshape(1).float(), qmin, qmax, factor
        )
    return torch._fake_quantize_learnable_per_channel_affine(x, scale, point.float(), axis, qmin, qmax, factor)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    axis=st.sampled_from([None, 0, 1]),
    spread=st.floats(1e-3, 1e3),
)
def test_equal_to_the_kernels_of_pytorch_gradients_included(
    seed: int, bits: int, symmetric: bool, axis: int | None, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    qmin, qmax = functional.grid(bits, symmetric)
    shape = (3, 4, 50)
    channels = () if axis is None else (shape[axis],)
    x = torch.randn(shape, generator=generator) * spread
    scale = (torch.rand(channels, generator=generator) + 0.1) * spread / 2**bits
    point = torch.zeros(channels) if symmetric else torch.randint(qmin, qmax + 1, channels, generator=generator)
    point = point.to(torch.int32)
    upstream = torch.randn(shape, generator=generator)

    results = []
    for function in (kernel, functional.fake_quantize_learned):
        mine, step = x.clone().requires_grad_(), scale.clone().requires_grad_()
        result = function(mine, step, point, qmin, qmax, axis, 0.3)
        result.backward(upstream)
        results.append((result.detach(), mine.grad, step.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-4, atol=1e-4 * 2**bits)

    mine = x.clone().requires_grad_()
    static = functional.fake_quantize(mine, scale, point, qmin, qmax, axis)
    static.backward(upstream)
    with torch.no_grad():
        plain = functional.fake_quantize(x, scale, point, qmin, qmax, axis)
        learned = functional.fake_quantize_learned(x, scale, point, qmin, qmax, axis, 1.0)
    assert torch.equal(static, results[0][0]) and torch.equal(plain, static) and torch.equal(learned, static)
    assert torch.equal(mine.grad, results[0][1])
    if axis is None:
        theirs = torch.fake_quantize_per_tensor_affine(x, scale, point, qmin, qmax)
    else:
        theirs = torch.fake_quantize_per_channel_affine(x, scale, point, axis, qmin, qmax)
    assert torch.equal(static, theirs)


@pytest.mark.parametrize("axis", [None, 1])
def test_both_routes_agree(monkeypatch: pytest.MonkeyPatch, axis: int | None) -> None:
    """The route of accelerators, here on the CPU, where the same kernels exist."""
    x, upstream = torch.randn(5, 4), torch.randn(5, 4)
    channels = () if axis is None else (4,)
    scale, point = torch.rand(channels) / 4 + 0.1, torch.full(channels, 3, dtype=torch.int32)
    results = []
    for vectorised in (True, False):
        monkeypatch.setattr(functional, "_vectorised", lambda _, answer=vectorised: answer)
        for learned in (False, True):
            mine, step = x.clone().requires_grad_(), scale.clone().requires_grad_(learned)
            if learned:
                out = functional.fake_quantize_learned(mine, step, point, 0, 7, axis, 0.5)
            else:
                out = functional.fake_quantize(mine, step, point, 0, 7, axis)
            out.backward(upstream)
            results.append((out.detach(), mine.grad, step.grad))
    for first, second in zip(results[:2], results[2:], strict=True):
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        if first[2] is not None:
            torch.testing.assert_close(first[2], second[2])
            assert first[2].shape == scale.shape


def test_rounding_multiplies_by_the_inverse_and_is_half_to_even() -> None:
    scale, point = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 100.0, -100.0])
    assert functional.quantize(x, scale, point, -8, 7, None).tolist() == [0, 2, 2, 0, -2, 7, -8]
    scale = torch.tensor(0.0371)
    x = torch.arange(1, 200_000, dtype=torch.float32) * 0.0371 / 2
    by_inverse = torch.round(x * (1.0 / scale)).clamp(-8, 7)
    assert torch.equal(functional.quantize(x, scale, point, -8, 7, None), by_inverse)


def test_vectors_whose_only_axis_is_the_channel() -> None:
    x = torch.tensor([0.3, -0.7], requires_grad=True)
    scale = torch.tensor([0.1, 0.2], requires_grad=True)
    result = functional.fake_quantize_learned(x, scale, torch.zeros(2, dtype=torch.int32), -2, 1, 0, 1.0)
    result.sum().backward()
    torch.testing.assert_close(result.detach(), torch.tensor([0.1, -0.4]))
    torch.testing.assert_close(scale.grad, torch.tensor([1.0, -2.0]))
