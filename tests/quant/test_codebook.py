"""Code books: centroids, labels, and the gradient that moves tied weights together."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.quant import Observer, build_quantizer, scheme_from_dict, scheme_to_dict
from mobo_mpq.quant.codebook import CodebookQuantizer, CodebookScheme, centroids_of, codebook_bytes


def made(weight: torch.Tensor, bits: int, iterations: int = 50) -> CodebookQuantizer:
    quantizer = build_quantizer(CodebookScheme(iterations), bits, shape=weight.shape, axis=0)
    assert isinstance(quantizer, CodebookQuantizer)
    quantizer.calibrate(weight)
    return quantizer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(bits=st.integers(2, 8), seed=st.integers(0, 2**16), spread=st.sampled_from([1e-4, 1.0, 1e4]))
def test_each_weight_becomes_its_nearest_centroid(bits: int, seed: int, spread: float) -> None:
    weight = spread * normal(8, 5, 3, seed=seed)
    quantizer = made(weight, bits)
    quantized = quantizer(weight)
    distances = (weight[..., None] - quantizer.centroids).abs()
    torch.testing.assert_close((quantized - weight).abs(), distances.amin(-1))
    assert len(quantized.unique()) <= 2**bits
    assert quantizer.members.sum() == weight.numel()
    assert torch.equal(quantizer(quantized), quantized)
    if weight.numel() <= 2**bits:  # one centroid for each value
        assert torch.equal(quantized, weight)


def test_converged_centroids_are_the_means_of_their_members_and_near_the_optimum() -> None:
    values = torch.sort(normal(12, seed=3)).values
    found = centroids_of(values, 4, iterations=100)
    labels = (values[:, None] - found).abs().argmin(1)
    torch.testing.assert_close(torch.stack([values[labels == i].mean() for i in range(4)]), found)
    # in one dimension clusters are intervals: brute force over where they end
    best = min(
        sum(float((part - part.mean()).square().sum()) for part in values.tensor_split(ends))
        for ends in itertools.combinations(range(1, 12), 3)
    )
    error = float((values - found[labels]).square().sum())
    assert best <= error * (1 + 1e-6)
    assert error <= 2 * best  # one start finds a local optimum


def test_more_iterations_leave_less_error_and_the_result_repeats() -> None:
    weight = normal(64, 64)
    errors = [(made(weight, 4, n)(weight) - weight).square().mean().item() for n in (1, 3, 50)]
    assert errors == sorted(errors, reverse=True)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(made(weight, 4).centroids, made(weight, 4).centroids)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_centroid_has_the_mean_of_its_members_gradients() -> None:
    weight = normal(6, 7)
    quantizer = made(weight, 2)
    gradient = normal(6, 7, seed=1)
    (quantizer(weight) * gradient).sum().backward()
    labels = quantizer.nearest(weight)
    expected = torch.stack([gradient[labels == i].mean() for i in range(4)])
    torch.testing.assert_close(quantizer.centroids.grad, expected)


def test_a_step_moves_centroids_to_the_means_of_weights_that_took_it_alone() -> None:
    weight, wanted = normal(40, seed=2), normal(40, seed=3)
    quantizer = made(weight, 3)
    free = quantizer(weight).detach().requires_grad_()
    labels = quantizer.nearest(weight)
    for parameter, values in ((free, free), (quantizer.centroids, quantizer(weight))):
        (values - wanted).square().sum().backward()
        with torch.no_grad():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
    means = torch.stack([free[labels == i].mean() for i in range(8)])
    torch.testing.assert_close(quantizer(weight), means[labels])


def test_equal_weights_need_one_centroid() -> None:
    weight = torch.full((3, 3), 0.25)
    quantizer = made(weight, 3)
    assert torch.equal(quantizer(weight), weight)
    assert quantizer.members.tolist() == [9, 0, 0, 0, 0, 0, 0, 0]


def test_the_state_dict_restores_it_and_a_new_one_is_not_calibrated() -> None:
    weight = normal(5, 4)
    quantizer = made(weight, 3)
    other = CodebookQuantizer(CodebookScheme(), 3, (5, 4))
    with pytest.raises(InputError, match="has seen no data yet"):
        other(weight)
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(weight), quantizer(weight))


def test_what_is_not_finite_is_refused() -> None:
    quantizer, observer = CodebookQuantizer(CodebookScheme(), 2, (3,)), Observer()
    observer.observe(torch.tensor([1.0, torch.nan, 2.0]))
    with pytest.raises(InputError, match="holds NaN or infinity"):
        quantizer.fit(observer)


def test_the_scheme_is_kept_as_json_and_is_for_weights() -> None:
    scheme = CodebookScheme(3)
    assert scheme_from_dict(scheme_to_dict(scheme)) == scheme
    with pytest.raises(InputError, match="scheme 'kmeans' does not fit an activation; choose 'uniform' or 'lsq'"):
        build_quantizer(scheme, 4)
    assert build_quantizer(scheme, 32, shape=(3, 3)) is None
    with pytest.raises(InputError, match="k-means has 0 iterations; expected a whole number above 0"):
        CodebookScheme(0)


def test_bytes_of_a_code_book() -> None:
    layer = LayerSpec("l", OpKind.LINEAR, (10, 20), (20,), (10,))
    assert [codebook_bytes(layer, bits) for bits in (2, 4, 8, 16, 32)] == [16.0, 64.0, 800.0, 0.0, 0.0]
