"""What the engine says about itself: its error, the noise, and the values without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from mobo_mpq.engine import diagnosis as diagnosis_module
from mobo_mpq.engine import fitting
from mobo_mpq.engine.diagnosis import DIVERGENCE, denoise
from mobo_mpq.engine.fitting import Data, Fitter, build
from mobo_mpq.engine.observations import Link
from mobo_mpq.engine.surrogate import Surrogate
from mobo_mpq.objective import Direction, Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.strategies.mobo import Mobo
from mobo_mpq.testing.toys import Toy, make_toy
from mobo_mpq.trial import Trial, TrialState

NOISE = 0.01


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(6, weight_bits=(2, 4, 8), activation_bits=(2, 4, 8), sensitivity=True)


def policies_of(toy: Toy, count: int) -> list[Policy]:
    """Different ones, most of them near the highest bits."""
    rng = np.random.default_rng(0)
    levels = toy.problem.space.to_levels(toy.problem.space.sample(2 * count, rng))
    levels = np.maximum(levels, rng.integers(0, 3, levels.shape))
    return list(dict.fromkeys(toy.problem.space.to_policies(levels)))[:count]


def told(toy: Toy, policies: list[Policy], noise: float = NOISE, divergence: bool = False) -> Mobo:
    """A strategy that was told of these policies: noisy qualities, and divergences that have hardly any noise."""
    rng = np.random.default_rng(1)
    strategy = Mobo(toy.problem, seed=0)
    for number, policy in enumerate(policies):
        quality = toy.quality(policy)
        far = (0.96 - quality) ** 1.4 * np.exp(0.02 * rng.standard_normal()) if divergence else None
        measured = Measurement(quality + noise * rng.standard_normal(), 0.03 if noise else 0.0, far)
        values = {**toy.problem.cost_values(policy), "accuracy": measured}
        strategy.tell([Trial(number, TrialState.COMPLETE, policy, "toy", values)])
    return strategy


def surrogate_of(strategy: Mobo, divergence: bool) -> Surrogate:
    """Over the divergence or over the quality, whichever predicts better."""
    features, seen = strategy.learner.features, strategy.learner.observations(strategy.observed)

    def data_of(count: int) -> tuple[Data, Link]:
        some = seen.first(count)
        return (some.by_divergence() if divergence else None) or some.direct()

    fit = Fitter(features, lambda count: data_of(count)[0]).fit(len(seen.loss))
    assert fit is not None
    data, link = data_of(len(seen.loss))
    return Surrogate(build(features, data, fit.state), data, link)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("divergence", [False, True])
def test_estimates_are_nearer_the_truth_and_know_how_near(toy: Toy, divergence: bool) -> None:
    policies = policies_of(toy, 48)
    strategy = told(toy, policies, divergence=divergence)
    surrogate = surrogate_of(strategy, divergence)
    estimates = denoise(surrogate, toy.problem.quality)
    truth = np.array([toy.quality(policy) for policy in policies])
    denoised = np.array([estimate.value for estimate in estimates]) - truth
    raw = -surrogate.data.loss - truth
    assert rms(denoised) < 0.6 * rms(raw)
    assert 0.4 < rms(denoised / np.array([estimate.stderr for estimate in estimates])) < 2.0
    assert diagnosis_module._noise(surrogate) == pytest.approx(NOISE, rel=0.3)


def test_of_quality_and_divergence_the_better_predictor_is_reported(toy: Toy) -> None:
    direct = told(toy, policies_of(toy, 48))
    said = direct.diagnosis()
    assert said["models"] == "accuracy"
    assert said["noise"] == direct.learner.surrogate(direct.observed).noise_sd
    assert said["leave_one_out_error"] == pytest.approx(NOISE, rel=0.4), "a perfect model would miss by the noise"
    assert 0.0 < said["leave_one_out_rank_correlation"] < 1.0
    for count in (12, 16):
        both = told(toy, policies_of(toy, count), divergence=True)
        best = both.learner.surrogate(both.observed)
        assert both.diagnosis()["models"] == ("accuracy" if best.link == Link() else DIVERGENCE)
        assert both.diagnosis()["leave_one_out_error"] == best.error()
        assert list(both.estimates().values()) == denoise(best, toy.problem.quality)


def test_where_there_is_no_noise_there_is_nothing_to_take_out(toy: Toy) -> None:
    strategy = told(toy, policies_of(toy, 24), noise=0.0)
    said = strategy.diagnosis()
    assert strategy.estimates() == {}
    assert said["noise"] == 0.0
    assert said["leave_one_out_rank_correlation"] > 0.99
    assert said["observations"] == 24


def test_losses_beyond_the_knee_are_stretched_out_again(toy: Toy) -> None:
    space = toy.problem.space
    strategy = told(toy, [*policies_of(toy, 24), space.lowest()], noise=1e-5)
    surrogate = strategy.learner.surrogate(strategy.observed)
    worst = strategy.complete[-1]
    assert surrogate.data.signal[-1] > surrogate.data.knee + 0.05
    raw = worst.values["accuracy"].value
    assert strategy.estimates()[worst.number].value == pytest.approx(raw, abs=1e-3)


def test_below_the_knee_estimates_are_the_models_posterior(toy: Toy) -> None:
    strategy = told(toy, policies_of(toy, 16))
    surrogate = strategy.learner.surrogate(strategy.observed)
    mean, sd = surrogate.posterior(surrogate.levels)
    estimates = [strategy.estimates()[number] for number in range(16)]
    below = mean < surrogate.data.knee
    assert below.sum() > 12
    np.testing.assert_allclose(np.array([estimate.value for estimate in estimates])[below], -mean[below], rtol=1e-9)
    np.testing.assert_allclose(np.array([estimate.stderr for estimate in estimates])[below], sd[below], rtol=1e-6)


def test_a_minimised_quality_has_the_estimates_of_its_negation(toy: Toy) -> None:
    quality = replace(toy.problem.quality, direction=Direction.MINIMIZE, reference=-toy.problem.quality.reference)
    mirrored = Mobo(replace(toy.problem, objectives=(quality, *toy.problem.costs)), seed=0)
    strategy = told(toy, policies_of(toy, 12))
    for trial in strategy.complete:
        value = trial.values["accuracy"]
        mirrored.tell([replace(trial, values={**trial.values, "accuracy": replace(value, value=-value.value)})])
    assert mirrored.diagnosis() == strategy.diagnosis()
    for number, estimate in strategy.estimates().items():
        assert mirrored.estimates()[number] == Measurement(-estimate.value, estimate.stderr)


def test_replicates_share_one_estimate(toy: Toy) -> None:
    first, *others = policies_of(toy, 12)
    estimates = told(toy, [first, *others, first]).estimates()
    assert estimates[0] == estimates[12]


def test_the_links_error_is_that_of_least_squares(toy: Toy) -> None:
    strategy = told(toy, policies_of(toy, 24), divergence=True)
    surrogate = surrogate_of(strategy, divergence=True)
    data, link = surrogate.data, surrogate.link
    near = data.signal <= data.knee
    design = np.stack([np.ones(near.sum()), data.signal[near] ** link.power], axis=1)
    residuals = data.loss[near] - link.loss(data.signal[near])
    covariance = np.linalg.inv(design.T @ design) * (residuals @ residuals) / (near.sum() - 3)
    at = np.array([0.001, 0.02, 0.1])
    rows = np.stack([np.ones(3), at**link.power], axis=1)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows))
    np.testing.assert_allclose(diagnosis_module._link_error(surrogate, at), expected, rtol=1e-6)


def test_the_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    predicted, observed = rng.integers(0, 9, 30).astype(float), rng.standard_normal(30)
    found = diagnosis_module._rank_correlation(predicted, observed)
    assert found == pytest.approx(spearmanr(predicted, observed).statistic)
    assert diagnosis_module._rank_correlation(predicted, np.ones(30)) is None


def test_equal_qualities_have_no_rank_correlation_and_are_their_own_estimates(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    for number, policy in enumerate(policies_of(toy, 8)):
        values = {**toy.problem.cost_values(policy), "accuracy": Measurement(0.9, 0.01)}
        strategy.tell([Trial(number, TrialState.COMPLETE, policy, "toy", values)])
    assert strategy.diagnosis()["leave_one_out_rank_correlation"] is None
    assert all(estimate.value == pytest.approx(0.9, abs=0.01) for estimate in strategy.estimates().values())


def test_too_little_to_learn_from(toy: Toy) -> None:
    strategy = told(toy, policies_of(toy, 2))
    assert strategy.diagnosis() == {}
    assert strategy.estimates() == {}


def test_a_fit_comes_later_than_the_first_model(toy: Toy) -> None:
    said = told(toy, policies_of(toy, 4)).diagnosis()
    assert said["fit"] is None and said["fits_stopped_by_clock"] == 0
    said = told(toy, policies_of(toy, 8)).diagnosis()
    assert said["fit"] in ("converged", "iterations")
    assert {"scale", "tau", "residual", "trust"} <= said["hyperparameters"].keys()


def test_fits_that_the_clock_stopped_are_counted(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "TIME_LIMIT_S", 1e-9)
    said = told(toy, policies_of(toy, 9)).diagnosis()
    assert said["fit"] == "time limit"
    assert said["fits_stopped_by_clock"] == 2  # fits are made at 6 and at 8 observations
