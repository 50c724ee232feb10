import itertools

import pytest

from mobo_mpq.pareto import hypervolume
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.toys import make_toy, run_serial
from mobo_mpq.trial import TrialState


def test_the_default_toy_has_729_policies_and_a_known_front() -> None:
    toy = make_toy()
    assert len(toy.everything) == toy.problem.space.cardinality == 729
    values = [(toy.quality(policy), -toy.problem.costs[0](policy)) for policy in toy.everything]
    front = [
        policy
        for policy, mine in zip(toy.everything, values, strict=True)
        if not any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in values)
    ]
    assert toy.front == front
    assert toy.best_hypervolume == pytest.approx(hypervolume(values, toy.problem.reference))


def test_quality_falls_with_bits_and_more_so_in_neighbours() -> None:
    toy = make_toy(3)
    highest = toy.problem.space.highest()
    one, two, both = (
        highest.with_bits("layer0", weight=2),
        highest.with_bits("layer1", weight=2),
        highest.with_bits("layer0", weight=2).with_bits("layer1", weight=2),
    )
    loss = {policy: toy.quality(highest) - toy.quality(policy) for policy in (one, two, both)}
    assert min(loss.values()) > 0
    assert loss[both] > loss[one] + loss[two]


def test_low_bits_leave_the_region_of_interest_and_the_highest_do_not() -> None:
    for seed, arguments in itertools.product(range(5), ({}, {"activation_bits": (4, 8)})):
        toy = make_toy(4, seed=seed, **arguments)
        assert toy.quality(toy.problem.space.lowest()) < toy.problem.quality.reference
        assert toy.quality(toy.problem.space.highest()) > toy.problem.quality.reference
        assert len(toy.front) > 5


def test_toys_are_given_by_their_arguments() -> None:
    assert make_toy(seed=1).sensitivity == make_toy(seed=1).sensitivity
    assert make_toy(seed=1).sensitivity != make_toy(seed=2).sensitivity
    toy = make_toy(4, depthwise_pairs=[(8, 8)], tie=[["layer0", "layer2"]], size=True, budgets={"size_bytes": 0.7})
    assert [len(pairs) for pairs in toy.problem.space.pairs] == [3, 1, 3, 1]
    assert toy.problem.space.cardinality == 3
    assert [info.name for info in toy.problem.infos] == ["accuracy", "latency_s", "size_bytes"]
    assert 0 < len(toy.everything) < 3


def test_running_serially_spends_the_trials_or_the_space() -> None:
    toy = make_toy(2)
    trials = run_serial(make_strategy("sobol", toy.problem, 0), toy, 5, batch=2)
    assert [trial.number for trial in trials] == list(range(5))
    everything = run_serial(make_strategy("sobol", toy.problem, 0), toy, 100, batch=4)
    assert len(everything) == 9
    assert toy.share(everything) == pytest.approx(1.0)
    assert toy.share(trials) <= 1.0


def test_only_complete_trials_have_values() -> None:
    toy = make_toy(2)
    policy = toy.problem.space.highest()
    assert toy.trial(0, policy).values["accuracy"].value == toy.quality(policy)
    assert toy.trial(0, policy, TrialState.FAILED).values == {}
    assert toy.share([toy.trial(0, policy, TrialState.FAILED)]) == 0.0
