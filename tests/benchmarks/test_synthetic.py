import numpy as np
import pytest
from synthetic import BITS, make_synthetic, weight_bits

from mobo_mpq.objective import Measurement
from mobo_mpq.seeding import rng
from mobo_mpq.testing.toys import make_toy

# of the sketch that the problem was specified by
LOSS = {(20, 0, False): [7.46424077, 6.83863088, 0.31961176], (12, 3, True): [12.53318144, 4.62154846, 0.34042938]}
LATENCY = {(20, 0, False): [0.67861999, 0.7408081, 0.77826421], (12, 3, True): [0.68788475, 0.66556229, 0.78935053]}
BEST = {(20, 0, False): 5.051066832243049, (12, 3, True): 4.329271424160255}
FRONT_LOSS = {
    (20, 0, False): [13.9736952, 4.18020096, 1.66615396, 0.67140012, 0.23939997, 0.10008836, 0.05090012, 0.03044412],
    (12, 3, True): [29.40524399, 9.86913258, 2.43021454, 1.00855819, 0.41108405, 0.19218997, 0.09730774, 0.0478313],
}
FRONT = {
    (20, 0, False): [6, 7, 5, 6, 5, 6, 8, 5, 6, 6, 5, 5, 5, 6, 6, 7, 4, 6, 4, 6],
    (12, 3, True): [6, 7, 6, 5, 5, 4, 7, 5, 5, 6, 5, 5],
}
FRONT_LENGTH = {(20, 0, False): 87, (12, 3, True): 62}
PROXY_NOISE = {(20, 0, False): 0.6, (12, 3, True): 1.2}

both = pytest.mark.parametrize("which", list(BEST))


def made(which):
    layers, seed, hard = which
    return make_synthetic(layers, seed, hard=hard, proxy_noise=PROXY_NOISE[which])


@both
def test_the_numbers_are_those_of_the_specification(which) -> None:
    network, layers = made(which), np.arange(which[0])
    bits = np.array([8 - layers % 7, 2 + 3 * layers % 7, np.full(len(layers), 6)])
    np.testing.assert_allclose(network.loss(bits), LOSS[which], rtol=0, atol=5e-9)
    np.testing.assert_allclose(network.latency(bits), LATENCY[which], rtol=0, atol=5e-9)
    assert network.best_hypervolume() == pytest.approx(BEST[which], abs=1e-12)


@both
def test_the_front_of_the_sensitivities_is_that_of_the_specification(which) -> None:
    network = made(which)
    np.testing.assert_allclose(network.loss(network.proxy_front(8)), FRONT_LOSS[which], rtol=0, atol=5e-8)
    assert network.proxy_front(3)[1].tolist() == FRONT[which]
    assert len(network.proxy_front(1000)) == FRONT_LENGTH[which]


def test_the_best_hypervolume_is_almost_that_of_every_policy() -> None:
    network = make_synthetic(4, 1)
    every = np.stack(np.meshgrid(*[BITS] * 4), axis=-1).reshape(-1, 4)
    assert network.best_hypervolume() <= network.hypervolume(every) < 1.03 * network.best_hypervolume()


@both
def test_the_problem_prices_policies_as_the_network_does(which) -> None:
    network = made(which)
    problem = network.problem()
    policies = problem.space.sample(20, rng(0, "test"))
    np.testing.assert_allclose([problem.costs[0](p) for p in policies], network.latency(weight_bits(policies)))
    assert problem.reference.tolist() == [-10.0, -1.0]
    assert problem.sensitivity is not None
    np.testing.assert_allclose(problem.sensitivity[:, [0, 6]], network.estimate[:, None] * [1.0, 4.0**-6])
    assert network.problem(with_sensitivity=False).sensitivity is None


def test_a_measurement_is_the_loss_and_noise_of_the_given_size() -> None:
    network = make_synthetic(5, 0, noise=0.1)
    policy = network.problem().space.highest()
    draws = [network.evaluate(policy, rng(0, k)).value for k in range(400)]
    true = network.loss(np.full((1, 5), 8))[0]
    assert abs(np.mean(draws) - true) < 0.02  # four standard errors
    assert abs(np.std(draws) - 0.1) < 0.015
    assert isinstance(network.evaluate(policy, rng(0)), Measurement)


def test_the_hypervolume_of_policies_is_of_their_true_losses() -> None:
    network = make_synthetic(5, 0, noise=100.0)
    policies = network.problem().space.sample(10, rng(1))
    assert network.true_hypervolume(policies) == network.hypervolume(weight_bits(policies))
    assert 0 < network.true_hypervolume(policies) < network.best_hypervolume()


def test_weight_bits_are_by_layer() -> None:
    space = make_toy(3).problem.space
    assert weight_bits([space.highest(), space.lowest()]).tolist() == [[8, 8, 8], [2, 2, 2]]
