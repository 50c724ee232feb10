"""The closed form by look-ups against BoTorch's posterior, and against definitions."""

import math

import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mobo_mpq.engine.features import Features, padded
from mobo_mpq.engine.fitting import Data, build
from mobo_mpq.engine.observations import Link
from mobo_mpq.engine.surrogate import Surrogate


def random_features(d: int, measured: bool, rng: np.random.Generator) -> tuple[NDArray[np.intp], Features]:
    """Sizes of the variables, and tables."""
    sizes = rng.integers(2, 6, d)
    fading = padded([np.r_[0.0, -np.cumsum(rng.uniform(0.1, 2.0, size - 1))] for size in sizes])
    return sizes, Features(rng.standard_normal(d) * measured, fading, rng.random(d) < 0.5, measured)


def shake(model: SingleTaskGP, rng: np.random.Generator) -> None:
    """Hyper-parameters from around the modes of their priors."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            moved = parameter.numpy() + 0.3 * rng.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.as_tensor(0.01 if "noise" in name else moved))


def make(
    seed: int,
    *,
    n: int = 16,
    d: int = 5,
    measured: bool = True,
    exact: bool = False,
    knee: float = 1.0,
    link: Link | None = None,
    residual: float | None = None,
) -> tuple[NDArray[np.intp], Surrogate]:
    """A process with random tables, data and hyper-parameters; candidates of its space."""
    rng = np.random.default_rng(seed)
    sizes, features = random_features(d, measured, rng)
    levels = rng.integers(0, sizes, (n, d))
    loss = rng.lognormal(size=n)
    data = Data(levels, loss, exact, loss, knee, 0.7)
    model = build(features, data)
    shake(model, rng)
    if residual is not None:
        with torch.no_grad():
            model.covar_module.log_residual.fill_(math.log(residual))
    return rng.integers(0, sizes, (40, d)), Surrogate(model.eval(), data, link or Link())


def as_input(levels: NDArray[np.intp]) -> torch.Tensor:
    return torch.from_numpy(levels.astype(np.float64))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(1, 8), st.booleans(), st.booleans(), st.floats(0.1, 5))
def test_mean_and_sd_are_those_of_botorch(seed: int, n: int, d: int, measured: bool, exact: bool, knee: float) -> None:
    candidates, surrogate = make(seed, n=n, d=d, measured=measured, exact=exact, knee=knee)
    with torch.no_grad():
        posterior = surrogate.model.posterior(as_input(candidates))
    mean, sd = surrogate.posterior(candidates)
    expected = posterior.mean.numpy()[:, 0] * surrogate.unit + surrogate.shift
    assert mean == pytest.approx(expected, rel=1e-6, abs=1e-5 if exact else 1e-6)
    assert surrogate.mean(candidates) == pytest.approx(mean)
    variance = posterior.variance.numpy()[:, 0] * surrogate.unit**2
    assert np.square(sd) == pytest.approx(variance, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("measured", [True, False])
def test_prior_mean_and_covariance_are_those_of_the_model(measured: bool) -> None:
    candidates, surrogate = make(1, measured=measured)
    x, model = as_input(candidates), surrogate.model
    with torch.no_grad():
        mean, covariance = model.mean_module(x).numpy(), model.covar_module(x).to_dense().numpy()
        noise = float(model.likelihood.noise)
    assert surrogate.prior_mean(candidates) == pytest.approx(mean)
    assert surrogate.covariance(candidates, candidates) == pytest.approx(covariance, abs=1e-12)
    assert surrogate.prior_variance(candidates) == pytest.approx(np.diag(covariance))
    assert surrogate.noise_sd == pytest.approx(math.sqrt(noise) * surrogate.data.squeezed.std())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 4))
def test_rows_near_bases_are_rows_of_the_covariance(seed: int, bases: int, moves: int) -> None:
    candidates, surrogate = make(seed)
    rng = np.random.default_rng(seed)
    base = candidates[:bases]
    of = rng.integers(0, bases, 30)
    levels = base[of].copy()
    for _ in range(moves):
        variable = rng.integers(0, levels.shape[1], 30)
        levels[np.arange(30), variable] = candidates[rng.integers(0, 40, 30), variable]
    rows = surrogate.rows(levels, base, of)
    assert rows == pytest.approx(surrogate.covariance(levels, surrogate.levels), abs=1e-10)
    assert surrogate.mean_of(levels, rows) == pytest.approx(surrogate.mean(levels))


@pytest.mark.parametrize("exact", [True, False])
def test_leaving_one_out_is_conditioning_on_all_others(exact: bool) -> None:
    _, surrogate = make(2, d=7, n=20, exact=exact)
    covariance = surrogate.covariance(surrogate.levels, surrogate.levels)
    noisy = covariance + surrogate.noise * np.eye(20)
    error = surrogate.data.standardised - surrogate.prior_mean(surrogate.levels)
    predicted, sd = surrogate.leave_one_out()
    for i in range(20):
        rest = np.delete(np.arange(20), i)
        gain = np.linalg.solve(noisy[np.ix_(rest, rest)], covariance[rest, i])
        mean = surrogate.prior_mean(surrogate.levels[i : i + 1])[0] + gain @ error[rest]
        variance = noisy[i, i] - gain @ covariance[rest, i]
        assert predicted[i] == pytest.approx(mean * surrogate.unit + surrogate.shift, rel=1e-5)
        assert sd[i] == pytest.approx(math.sqrt(variance) * surrogate.unit, rel=1e-5)
    near = surrogate.data.loss <= surrogate.data.knee
    assert surrogate.error() == pytest.approx(np.sqrt(np.mean((predicted - surrogate.data.loss)[near] ** 2)), rel=1e-6)


def test_an_error_without_anything_of_interest_is_infinite() -> None:
    _, surrogate = make(3, knee=-1.0)
    assert surrogate.error() == math.inf


@pytest.mark.parametrize("knee", [1e6, 3.0])
def test_the_additive_part_is_the_mean_where_no_residual_is_left(knee: float) -> None:
    candidates, surrogate = make(4, knee=knee, residual=1e-9)
    unsqueezed = surrogate.prior_mean(candidates) <= surrogate.data.squeeze.knee
    flat = candidates[unsqueezed]
    table = surrogate.additive()
    total = table[np.arange(table.shape[0]), flat].sum(-1)
    assert len(flat) > 3
    assert np.ptp(surrogate.mean(flat) - total) == pytest.approx(0.0, abs=1e-9)
    assert (knee == 1e6) == (len(flat) == len(candidates))


def test_near_a_base_the_mean_moves_by_the_additive_part() -> None:
    candidates, surrogate = make(4, knee=1e6, residual=1e-9)
    base, of = candidates[:4], np.repeat(np.arange(4), 10)
    mean, sd = surrogate.near(candidates, base, of)
    assert mean == pytest.approx(surrogate.mean(candidates))
    assert sd.tolist() == surrogate.posterior(base)[1][of].tolist()
    _, rough = make(4)
    mean, sd = rough.near(base, base, np.arange(4))
    assert mean == pytest.approx(rough.mean(base))


@pytest.mark.parametrize(("seed", "knee"), [(4, 3.0), (5, 1e6)])
def test_draws_of_the_additive_part_have_the_mean_and_the_covariance_of_the_posterior(seed: int, knee: float) -> None:
    candidates, surrogate = make(seed, knee=knee, residual=1e-9)
    draws = np.array(surrogate.additive_draws(3000, np.random.default_rng(0)))
    flat = candidates[surrogate.prior_mean(candidates) <= surrogate.data.squeeze.knee][:8]
    totals = draws[:, np.arange(draws.shape[1]), flat[:, None, :]].sum(-1)[..., 0].T  # candidates x draws
    with torch.no_grad():
        covariance = surrogate.model.posterior(as_input(flat)).distribution.covariance_matrix.numpy()
    scale = surrogate.unit**2 * np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(np.cov(totals) - covariance * surrogate.unit**2).max() < 0.1 * scale.max()
    sd = np.sqrt(np.diag(covariance)) * surrogate.unit
    table = surrogate.additive()
    mean = table[np.arange(len(table)), flat].sum(-1)
    assert np.abs(totals.mean(1) - mean).max() < 5 * sd.max() / math.sqrt(3000)


def test_draws_have_the_right_mean_beside_a_residual_too() -> None:
    _, surrogate = make(6, residual=0.5)
    draws = np.array(surrogate.additive_draws(4000, np.random.default_rng(1)))
    z = (draws.mean(0) - surrogate.additive()) / (draws.std(0) / math.sqrt(4000) + 1e-12)
    assert np.abs(z).max() < 5


def test_the_loss_is_linked_to_the_signal_to_first_order() -> None:
    candidates, surrogate = make(7, link=Link(offset=0.3, factor=2.0, power=0.5))
    signal = np.array([0.5, 2.0])
    loss, sd = surrogate.to_loss(signal, np.array([1e-4, 1e-4]))
    assert loss == pytest.approx(0.3 + 2.0 * np.sqrt(signal))
    shifted = surrogate.to_loss(signal + 1e-4, np.zeros(2))[0]
    assert sd == pytest.approx(shifted - loss, rel=1e-3)
    steep = surrogate.to_loss(np.array([-1.0]), np.array([1.0]))[1]  # the mean of a divergence may be negative
    assert np.isfinite(steep).all()


def test_the_surrogate_survives_replicates_and_a_single_observation() -> None:
    candidates, surrogate = make(8, n=1)
    assert surrogate.unit == surrogate.data.span
    assert all(np.isfinite(one).all() for one in surrogate.posterior(candidates))
    rng = np.random.default_rng(9)
    sizes, features = random_features(5, True, rng)
    levels = np.repeat(rng.integers(0, sizes, (3, 5)), 8, axis=0)
    loss = np.repeat([0.1, 0.5, 0.9], 8) + 1e-3 * rng.standard_normal(24)
    for exact in (True, False):
        data = Data(levels, loss, exact, loss, 1.0, 1.0)
        model = build(features, data)
        surrogate = Surrogate(model.eval(), data)
        mean, sd = surrogate.posterior(levels)
        assert mean == pytest.approx(np.repeat(loss.reshape(3, 8).mean(1), 8), abs=3e-3 if exact else 0.05)
        assert (sd > 0).all() and sd.max() < 0.05
        assert np.isfinite(surrogate.additive_draws(2, rng)).all()
        assert np.isfinite(surrogate.leave_one_out()).all()
