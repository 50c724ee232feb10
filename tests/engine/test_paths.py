import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mobo_mpq.engine.features import Features
from mobo_mpq.engine.fitting import Data, build
from mobo_mpq.engine.observations import Link
from mobo_mpq.engine.paths import Paths
from mobo_mpq.engine.surrogate import Surrogate

D, N, LEVELS = 5, 12, 4
DRAWS = 6000


def make(link: Link | None = None, exact: bool = False, replicates: int = 1) -> tuple[Surrogate, NDArray[np.intp]]:
    """A process with a sizeable residual and noise, and candidates that were not observed."""
    rng = np.random.default_rng(0)
    fading = np.column_stack([np.zeros(D), -np.cumsum(rng.uniform(0.2, 1.5, (D, LEVELS - 1)), axis=1)])
    features = Features(rng.standard_normal(D), fading, rng.random(D) < 0.5, True)
    every = np.unique(rng.integers(0, LEVELS, (60, D)), axis=0)
    rng.shuffle(every)
    signal = np.repeat(rng.lognormal(-1.0, 0.5, N), replicates)
    data = Data(np.repeat(every[:N], replicates, axis=0), signal, exact, signal, 0.5, 1.0)
    model = build(features, data)
    with torch.no_grad():
        model.covar_module.log_residual.fill_(math.log(0.6))
        model.covar_module.log_length.fill_(math.log(0.2))
        if not exact:
            model.likelihood.noise = 0.3
    return Surrogate(model.eval(), data, link or Link()), every[N : N + 8]


def joint(surrogate: Surrogate, levels: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """BoTorch's posterior in units of the signal."""
    with torch.no_grad():
        normal = surrogate.model.posterior(torch.from_numpy(levels.astype(np.float64))).distribution
    return normal.mean.numpy() * surrogate.unit + surrogate.shift, normal.covariance_matrix.numpy() * surrogate.unit**2


def conditioned(
    surrogate: Surrogate, known: NDArray[np.intp], values: NDArray[np.float64], levels: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The prior conditioned on exact values of the signal: draws x c, c."""
    standard = (values - surrogate.shift) / surrogate.unit - surrogate.prior_mean(known)
    gain = np.linalg.solve(surrogate.covariance(known, known), surrogate.covariance(known, levels))
    mean = surrogate.prior_mean(levels) + standard @ gain
    variance = surrogate.prior_variance(levels) - (gain * surrogate.covariance(known, levels)).sum(0)
    return mean * surrogate.unit + surrogate.shift, np.sqrt(variance) * surrogate.unit


def assert_distributed(values: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> None:
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((values.mean(0) - mean) / sd).max() < 5 / math.sqrt(len(values))
    assert np.abs((np.cov(values.T) - covariance) / np.outer(sd, sd)).max() < 7 / math.sqrt(len(values))


def test_draws_at_the_observed_policies_follow_the_joint_posterior() -> None:
    surrogate, _ = make()
    paths = Paths(surrogate, DRAWS, np.random.default_rng(1))
    mean, covariance = joint(surrogate, surrogate.levels)
    assert paths.mean == pytest.approx(mean)
    assert_distributed(paths.values, mean, covariance)


def test_given_a_draw_other_policies_are_conditioned_on_it() -> None:
    surrogate, others = make()
    paths = Paths(surrogate, 7, np.random.default_rng(2))
    mean, sd = paths.conditional(others, surrogate.covariance(others, surrogate.levels))
    expected = conditioned(surrogate, surrogate.levels, paths.values, others)
    assert mean == pytest.approx(expected[0], rel=1e-6)
    assert sd == pytest.approx(np.broadcast_to(expected[1], sd.shape), rel=1e-5)


def test_adding_a_policy_is_conditioning_on_its_draw() -> None:
    surrogate, others = make()
    paths = Paths(surrogate, 7, np.random.default_rng(3))
    paths.add(others[:2], np.random.default_rng(4))
    paths.add(others[2:3], np.random.default_rng(5))
    known = np.concatenate([surrogate.levels, others[:3]])
    rows = surrogate.covariance(others, surrogate.levels)
    mean, sd = paths.conditional(others, rows)
    expected = conditioned(surrogate, known, paths.values, others[3:])
    assert mean[:, 3:] == pytest.approx(expected[0], rel=1e-6)
    assert sd[..., 3:] == pytest.approx(np.broadcast_to(expected[1], sd[..., 3:].shape), rel=1e-5)
    assert mean[:, :3] == pytest.approx(paths.values[:, -3:], rel=1e-6)  # and the added ones are known
    assert sd[..., :3].max() < 1e-4 * sd[..., 3:].max()
    assert paths.mean[-3:] == pytest.approx(joint(surrogate, others[:3])[0])


def test_added_policies_and_the_observed_ones_follow_the_joint_posterior() -> None:
    surrogate, others = make()
    paths = Paths(surrogate, DRAWS, np.random.default_rng(5))
    paths.add(others[:1], np.random.default_rng(6))
    paths.add(others[1:3], np.random.default_rng(7))
    mean, covariance = joint(surrogate, np.concatenate([surrogate.levels, others[:3]]))
    assert_distributed(paths.values, mean, covariance)


def test_draws_of_a_linked_signal_are_losses() -> None:
    link = Link(offset=0.1, factor=3.0, power=0.5)
    plain, others = make()
    linked, _ = make(link)
    signals, losses = (Paths(one, 5, np.random.default_rng(7)) for one in (plain, linked))
    for paths in (signals, losses):
        paths.add(others[:2], np.random.default_rng(8))
    assert losses.values == pytest.approx(link.loss(signals.values))
    assert losses.mean == pytest.approx(link.loss(signals.mean))
    rows = plain.covariance(others, plain.levels)
    assert losses.conditional(others, rows)[0] == pytest.approx(link.loss(signals.conditional(others, rows)[0]))


@pytest.mark.parametrize("exact", [True, False])
def test_replicates_share_one_draw(exact: bool) -> None:
    surrogate, others = make(exact=exact, replicates=3)
    paths = Paths(surrogate, 20, np.random.default_rng(9))
    of_each = paths.values.reshape(20, N, 3)
    assert np.ptp(of_each, axis=-1).max() < 1e-3 * surrogate.unit
    running = surrogate.levels[[0, 0]]  # replicates that run, at once and one after the other
    paths.add(running, np.random.default_rng(10))
    paths.add(running[:1], np.random.default_rng(11))
    assert paths.values[:, -3:] == pytest.approx(of_each[:, 0], abs=1e-3 * surrogate.unit)
    assert all(
        np.isfinite(one).all() for one in paths.conditional(others, surrogate.covariance(others, surrogate.levels))
    )


def test_a_draw_of_a_single_observation() -> None:
    surrogate, others = make()
    data = Data(surrogate.levels[:1], surrogate.data.signal[:1], False, surrogate.data.loss[:1], 0.5, 1.0)
    one = Surrogate(surrogate.model, data)  # of the model, only the hyper-parameters are used
    paths = Paths(one, 3, np.random.default_rng(12))
    paths.add(others[:1], np.random.default_rng(13))
    assert paths.values.shape == (3, 2) and np.isfinite(paths.values).all()
