import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.quant.base import build_quantizer
from mobo_mpq.quant.multipoint import MultipointQuantizer, count_points, extra_points, next_point, widened
from mobo_mpq.quant.transform import WEIGHT


def quantizer_of(weight: Tensor, bits: int, extra: int, axis: int = 0) -> MultipointQuantizer:
    first = build_quantizer(WEIGHT, bits, shape=weight.shape, axis=axis)
    assert first is not None
    first.calibrate(weight)
    return MultipointQuantizer(first, tuple(weight.shape), extra)


def residuals(weight: Tensor, bits: int, points: int) -> list[Tensor]:
    found = [weight]
    for _ in range(points):
        integers, scale = next_point(found[-1], bits)
        found.append(found[-1] - scale[:, None] * integers)
    return found


# --- greedy points --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(2, 7),
    size=st.integers(1, 80),
    magnitude=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]),
    tail=st.floats(0.5, 3.0),
    seed=st.integers(0, 10_000),
)
def test_what_remains_is_orthogonal_to_the_point_and_never_longer(
    bits: int, size: int, magnitude: float, tail: float, seed: int
) -> None:
    draw = torch.randn(5, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    residual = magnitude * draw.sign() * draw.abs() ** tail
    for _ in range(4):
        integers, scale = next_point(residual, bits)
        after = residual - scale[:, None] * integers
        assert torch.equal(integers, integers.round())
        assert integers.min() >= -(2 ** (bits - 1))
        assert integers.max() < 2 ** (bits - 1)
        along = (after * integers).sum(1)
        bound = 1e-6 * residual.norm(dim=1) * integers.norm(dim=1)
        assert bool((along.abs() <= bound).all())
        assert bool((after.norm(dim=1) <= residual.norm(dim=1) * (1 + 1e-12)).all())
        residual = after


@pytest.mark.parametrize(
    ("size", "bits", "shares"),
    [
        (27, 4, [0.083, 0.0058, 0.0004]),
        (576, 4, [0.113, 0.026, 0.0094]),
        (576, 2, [0.44, 0.21, 0.14]),
    ],
)
def test_gaussian_vectors_are_used_up_quickly(size: int, bits: int, shares: list[float]) -> None:
    weight = torch.randn(20, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = [residual.norm(dim=1) / weight.norm(dim=1) for residual in residuals(weight, bits, 3)[1:]]
    assert [float(length.mean()) for length in lengths] == pytest.approx(shares, rel=0.2)


def test_nothing_is_divided_by_zero() -> None:
    weight = torch.zeros(3, 6)
    weight[1, 2] = 1e-38  # its square is 0
    weight[2] = torch.tensor([7.0, -2.0, 1.0, 0.0, 3.0, -4.0])  # on the grid
    for residual in residuals(weight, 4, 3):
        assert bool(torch.isfinite(residual).all())
    integers, scale = next_point(weight, 4)
    assert scale[0] == 0
    assert not integers[0].any()
    assert torch.equal((scale[:, None] * integers)[[0, 2]], weight[[0, 2]])


def test_one_point_is_about_the_ordinary_quantizer() -> None:
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
    for bits in (2, 3, 4):
        integers, scale = next_point(weight, bits)
        ordinary = quantizer_of(weight, bits, 0)(weight)
        greedy = (scale[:, None] * integers - weight).norm(dim=1)
        assert bool((greedy <= (ordinary - weight).norm(dim=1) * 1.01).all())


# --- how many -------------------------------------------------------------------------------------------------------


def test_epsilon_and_the_number_of_points() -> None:
    errors = torch.tensor([[8.0, 1.0, 3.0, 0.0], [4.0, 0.5, 0.1, 0.0], [2.0, 0.2, 0.01, 0.0]])
    assert count_points(errors, math.inf).tolist() == [1, 1, 1, 1]
    assert count_points(errors, 0.0).tolist() == [3, 3, 3, 1]  # what is exact already needs no more
    assert count_points(errors, 1.0).tolist() == [3, 1, 2, 1]


@pytest.mark.parametrize(
    ("budget", "counts"), [(0, [1, 1, 1]), (1, [2, 1, 1]), (2, [3, 1, 1]), (3, [3, 1, 2]), (9, [3] * 3)]
)
def test_a_budget_goes_to_the_greatest_errors(budget: int, counts: list[int]) -> None:
    errors = torch.tensor([[8.0, 1.0, 3.0], [4.0, 0.5, 0.1], [2.0, 0.2, 0.01]])
    assert count_points(errors, budget=budget).tolist() == counts


# --- the quantizer --------------------------------------------------------------------------------------------------


def test_without_further_points_it_is_the_ordinary_one() -> None:
    weight = torch.randn(6, 5)
    plain, none, unused = (quantizer_of(weight, 3, extra) for extra in (0, 0, 4))
    expected = plain.first(weight)
    assert torch.equal(none(weight), expected)
    assert torch.equal(unused(weight), expected)
    assert unused.counts.tolist() == [1] * 6


@pytest.mark.parametrize("axis", [0, 1])
def test_points_are_added_and_kept_with_the_network(axis: int) -> None:
    weight = torch.randn(4, 4)
    quantizer = quantizer_of(weight, 3, 3, axis)
    first = quantizer(weight)
    residual = (weight - first).movedim(axis, 0)
    integers, scale = next_point(residual, 3)
    quantizer.set(torch.tensor([2, 0]), scale[[2, 0]], integers[[2, 0]])
    expected = first.movedim(axis, 0).clone()
    for channel in (0, 2):
        expected[channel] += scale[channel] * integers[channel]
    torch.testing.assert_close(quantizer(weight), expected.movedim(0, axis))
    assert quantizer.counts.tolist() == [2, 1, 2, 1]
    grid, wide, source = quantizer.wide(weight)
    assert source.tolist() == [0, 1, 2, 3, 2, 0, 0]  # the last one is not used
    summed = torch.zeros(4, 4).index_add(0, source, grid.dequantize(wide))
    torch.testing.assert_close(summed.movedim(0, axis), quantizer(weight))
    restored = quantizer_of(torch.randn(4, 4), 3, 3, axis)
    restored.load_state_dict(quantizer.state_dict())
    assert torch.equal(restored(weight), quantizer(weight))


# --- what it costs --------------------------------------------------------------------------------------------------


def spec(
    kind: OpKind, shape: tuple[int, ...], inputs: tuple[int, ...], outputs: tuple[int, ...], **more: object
) -> LayerSpec:
    return LayerSpec("layer", kind, shape, inputs, outputs, **more)  # type: ignore[arg-type]


CONV = spec(OpKind.CONV, (20, 8, 3, 3), (8, 6, 6), (20, 6, 6))
DEPTHWISE = spec(OpKind.DEPTHWISE, (20, 1, 3, 3), (20, 6, 6), (20, 6, 6), groups=20)
LINEAR = spec(OpKind.LINEAR, (20, 8), (5, 8), (5, 20))


@pytest.mark.parametrize("layer", [CONV, DEPTHWISE, LINEAR], ids=lambda layer: str(layer.kind))
def test_a_wider_layer(layer: LayerSpec) -> None:
    assert extra_points(layer, 4, 0.1) == 2
    assert extra_points(layer, 4, 0.11) == 3
    assert extra_points(layer, 8, 0.1) == 0
    assert widened(layer, 0) is layer
    wide = widened(layer, 2)
    assert wide.weight_shape[0] == 22
    assert wide.macs * 20 == layer.macs * 22
    assert wide.num_weights * 20 == layer.num_weights * 22
    assert wide.groups == (22 if layer is DEPTHWISE else 1)
    assert wide.input_shape == ((22, 6, 6) if layer is DEPTHWISE else layer.input_shape)


def test_layers_that_cannot_be_wider() -> None:
    grouped = spec(OpKind.CONV, (20, 4, 3, 3), (8, 6, 6), (20, 6, 6), groups=2)
    shared = spec(OpKind.LINEAR, (20, 8), (8,), (20,), weight_group="other")
    product = spec(OpKind.MATMUL, (), (4, 8), (4, 4))
    multiplied = spec(OpKind.DEPTHWISE, (40, 1, 3, 3), (20, 6, 6), (40, 6, 6), groups=20)
    assert [extra_points(layer, 2, 0.5) for layer in (grouped, shared, product, multiplied)] == [0] * 4
