import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mobo_mpq.engine.isolation import isolated
from mobo_mpq.hardware import CostModel
from mobo_mpq.layers import LayerSpec
from mobo_mpq.objective import CostObjective, Direction, Measurement, ObjectiveInfo
from mobo_mpq.pareto import hypervolume
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.mobo import REPLICATE_EVERY, Mobo
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.toys import Toy, make_toy, run_serial
from mobo_mpq.trial import REPLICATE, Proposal, Trial, TrialState

Measure = Callable[[Policy], Measurement]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy()  # 6 layers of 3 choices: 729 policies, 29 of them on the front


def _search(toy: Toy, strategy: Mobo, trials: int, measure: Measure, batch: int = 1) -> list[Trial]:
    """Like ``run_serial``, with another measurement of the quality, and with the origins kept."""
    finished: list[Trial] = []
    while len(finished) < trials:
        number = strategy.number
        proposals = strategy.ask(min(batch, trials - len(finished)))
        told = [_trial(toy, number + i, proposal, measure) for i, proposal in enumerate(proposals)]
        strategy.tell(told)
        finished += told
    return finished


def _trial(toy: Toy, number: int, proposal: Proposal, measure: Measure) -> Trial:
    assert proposal.policy is not None
    values = toy.measure(proposal.policy) | {toy.problem.quality.name: measure(proposal.policy)}
    return Trial(number, TrialState.COMPLETE, proposal.policy, proposal.origin, values)


# --- how good it is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sensitivity", [False, True])
def test_it_finds_the_front_and_leaves_the_others_behind(sensitivity: bool) -> None:
    toy = make_toy(8, sensitivity=sensitivity)  # 6561 policies

    def shares(name: str, seeds: int) -> np.ndarray:
        runs = [run_serial(make_strategy(name, toy.problem, seed), toy, 30) for seed in range(seeds)]
        return np.array([[toy.share(run[:20]), toy.share(run)] for run in runs])

    ours, others = shares("mobo", 2), np.concatenate([shares("nsga2", 3), shares("random", 3)])
    assert (ours.min(0) > [0.97, 0.99]).all()
    assert (ours.min(0) > others.max(0) + 0.03).all()
    assert np.median(others, axis=0).max() < 0.85


class _BitOperations:
    name = "bops"
    unit = "bit-op"

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        return float(layer.macs) ** 0.5 * bits.weight**2


@pytest.mark.parametrize("costs", [2, 3])
def test_several_costs(costs: int) -> None:
    toy = make_toy(6, size=True, sensitivity=True)
    if costs == 3:
        model: CostModel = _BitOperations()
        third = CostObjective.from_model(model, toy.problem.layers, toy.problem.space)
        toy = replace(toy, problem=replace(toy.problem, objectives=(*toy.problem.objectives, third)))
    assert toy.share(run_serial(Mobo(toy.problem, seed=0), toy, 24)) > 0.98
    assert toy.share(run_serial(make_strategy("random", toy.problem, 0), toy, 24)) < 0.9


def test_large_batches_spread_out_and_lose_little(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    first = run_serial(strategy, toy, 8)
    batch = strategy.ask(32)
    policies = [proposal.policy for proposal in batch if proposal.policy is not None]
    assert {proposal.origin for proposal in batch} == {"ehvi"}
    assert len(set(policies) | {trial.policy for trial in first}) == 40
    cost = toy.problem.costs[0]
    share = np.array([cost(policy) for policy in policies]) / cost.info.reference
    assert np.histogram(share, bins=4, range=(float(share.min()), 1.0))[0].min() >= 1
    at_once = toy.share([*first, *(toy.trial(8 + i, policy) for i, policy in enumerate(policies))])
    assert at_once > 0.98


@pytest.mark.parametrize("with_divergence", [False, True])
def test_noise(toy: Toy, with_divergence: bool) -> None:
    """Half a point of noise, of 10 between the reference and the best; the true hypervolume is what counts."""
    noise = np.random.default_rng(0)

    def measure(policy: Policy) -> Measurement:
        error = toy.top - toy.quality(policy)
        divergence = 0.7 * error * (1 + 0.02 * noise.standard_normal()) if with_divergence else None
        return Measurement(toy.quality(policy) + 0.005 * noise.standard_normal(), 0.005, divergence)

    trials = _search(toy, Mobo(toy.problem, seed=0), 36, measure)
    repeated = [trial.policy for trial in trials if trial.origin == REPLICATE]
    fresh = [trial.policy for trial in trials if trial.origin != REPLICATE]
    assert len(set(fresh)) == len(fresh)
    assert set(repeated) <= set(fresh)
    assert len(repeated) <= 36 / REPLICATE_EVERY
    assert toy.share(trials) > 0.95


def test_several_measured_objectives_fall_back_and_say_so() -> None:
    toy = make_toy(4)
    worst = ObjectiveInfo("worst_class", "", Direction.MINIMIZE, 1.0)
    problem = replace(toy.problem, objectives=(*toy.problem.objectives, worst))
    values = {policy: 2.0 ** -policy["layer0"].weight for policy in toy.everything}

    def points(policies: list[Policy]) -> np.ndarray:
        return np.array([problem.maximised(_values(policy)) for policy in policies])

    def _values(policy: Policy) -> dict[str, Measurement]:
        return {**toy.measure(policy), "worst_class": Measurement(values[policy], 0.0)}

    strategy, finished, origins = Mobo(problem, seed=0), [], []
    for number in range(16):
        (proposal,) = strategy.ask(1)
        assert proposal.policy is not None
        finished.append(proposal.policy)
        origins.append(proposal.origin)
        trial = Trial(number, TrialState.COMPLETE, proposal.policy, proposal.origin, _values(proposal.policy))
        strategy.tell([trial])
    assert len(set(finished)) == 16
    assert origins[0] == "highest"
    assert set(origins[1:6]) == {"initial"}
    assert set(origins[6:]) == {"qlognehvi"}
    share = hypervolume(points(finished), problem.reference) / hypervolume(points(toy.everything), problem.reference)
    assert share > 0.95


# --- the beginning -------------------------------------------------------------------------------------------------


def test_it_begins_with_uniform_policies_and_spreads_over_the_cost(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    proposals = strategy.ask(strategy.num_initial)
    uniform = [proposal.policy for proposal in proposals[:3]]
    assert uniform == [toy.problem.space.uniform(bits, 8) for bits in (8, 4, 2)]
    assert [proposal.origin for proposal in proposals] == ["highest", *["initial"] * 5]
    assert len({toy.problem.costs[0](proposal.policy) for proposal in proposals if proposal.policy}) == 6


def test_it_begins_with_the_front_of_the_sensitivities_where_it_knows_them() -> None:
    toy = make_toy(8, sensitivity=True)
    strategy = Mobo(toy.problem, seed=0)
    policies = [proposal.policy for proposal in strategy.ask(strategy.num_initial)]
    front = make_strategy("sensitivity", toy.problem, 0)
    assert isinstance(policies[1], Policy)
    assert set(policies) <= {proposal.policy for proposal in front.ask(20)}
    costs = np.array([toy.problem.costs[0](policy) for policy in policies if policy is not None])
    assert (np.diff(costs) < 0).all()
    assert 4 <= len(policies) <= 12


def test_the_model_takes_over_once_enough_is_known(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    first = strategy.ask(10)
    assert {proposal.origin for proposal in first} == {"highest", "initial"}
    for number, proposal in enumerate(first[:3]):
        assert strategy.ask(1)[0].origin == "initial"
        assert proposal.policy is not None
        strategy.tell([toy.trial(number, proposal.policy)])
    assert strategy.ask(1)[0].origin == "ehvi"


# --- what it has to cope with --------------------------------------------------------------------------------------


def test_no_policy_twice_and_none_over_the_budget() -> None:
    toy = make_toy(6, budgets={"latency_s": 0.4, "size_bytes": 0.7}, sensitivity=True)
    trials = _search(toy, Mobo(toy.problem, seed=0), 30, lambda policy: toy.measure(policy)["accuracy"], batch=5)
    assert len({trial.policy for trial in trials}) == 30
    assert all(trial.policy and toy.problem.broken_budget(trial.policy) is None for trial in trials)
    assert toy.share(trials) > 0.99


def test_running_policies_are_not_proposed_again(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    run_serial(strategy, toy, 10)
    seen = {trial.policy for trial in strategy.finished}
    for _ in range(12):
        (proposal,) = strategy.ask(1)
        assert proposal.policy not in seen
        seen.add(proposal.policy)


@pytest.mark.parametrize("sensitivity", [False, True])
@pytest.mark.parametrize("stderr", [0.0, None])
def test_equal_losses(stderr: float | None, sensitivity: bool) -> None:
    """Below the reference everything is worthless; above it, only the cheapest counts, and is found."""
    toy = make_toy(sensitivity=sensitivity)
    worthless = _search(toy, Mobo(toy.problem, seed=1), 14, lambda policy: Measurement(0.5, stderr))
    assert len({trial.policy for trial in worthless}) >= 13
    harmless = _search(toy, Mobo(toy.problem, seed=1), 28, lambda policy: Measurement(0.9, stderr))
    assert toy.problem.space.lowest() in {trial.policy for trial in harmless}


@pytest.mark.parametrize("sensitivity", [False, True])
def test_nothing_but_failures(sensitivity: bool) -> None:
    toy = make_toy(sensitivity=sensitivity)
    strategy = Mobo(toy.problem, seed=0)
    for number in range(20):
        (proposal,) = strategy.ask(1)
        strategy.tell([Trial(number, TrialState.FAILED, proposal.policy, proposal.origin)])
    assert len(strategy.seen) == 20
    assert strategy.observed == []


@pytest.mark.parametrize("sensitivity", [False, True])
def test_one_variable_and_none(sensitivity: bool) -> None:
    one = make_toy(1, weight_bits=range(2, 9), sensitivity=sensitivity)
    assert len({trial.policy for trial in run_serial(Mobo(one.problem, seed=0), one, 9)}) == 7
    pinned = make_toy(3, weight_bits=(8,), sensitivity=sensitivity)
    assert len(run_serial(Mobo(pinned.problem, seed=0), pinned, 9)) == 1


def test_a_table_of_sensitivities_that_says_nothing(toy: Toy) -> None:
    for table in (np.zeros((6, 3)), np.tile([1e-30, 1e30, 0.0], (6, 1)), -np.ones((6, 3))):
        problem = replace(toy.problem, sensitivity=table)
        trials = run_serial(Mobo(problem, seed=0), toy, 24)
        assert toy.share(trials) > 0.9


def test_losses_of_any_size_are_searched_alike(toy: Toy) -> None:
    """Powers of two scale floating-point numbers exactly, and the search does not care for units."""

    def policies(scale: float) -> list[Policy | None]:
        quality = replace(toy.problem.quality, reference=scale * toy.problem.quality.reference)
        problem = replace(toy.problem, objectives=(quality, *toy.problem.costs))
        scaled = Toy(problem, toy.sensitivity)
        strategy = Mobo(problem, seed=1)
        return [t.policy for t in _search(scaled, strategy, 14, lambda p: Measurement(scale * toy.quality(p), 0.0))]

    assert policies(1.0) == policies(2.0**20) == policies(2.0**-20)


def test_a_minimised_quality_is_searched_like_its_negation(toy: Toy) -> None:
    quality = replace(toy.problem.quality, direction=Direction.MINIMIZE, reference=-toy.problem.quality.reference)
    mirrored = Mobo(replace(toy.problem, objectives=(quality, *toy.problem.costs)), seed=1)
    strategy = Mobo(toy.problem, seed=1)
    for trial in run_serial(Mobo(toy.problem, seed=1), toy, 10):
        values = dict(trial.values)
        values["accuracy"] = Measurement(-values["accuracy"].value, 0.0)
        mirrored.tell([replace(trial, values=values)])
        strategy.tell([trial])
    assert mirrored.ask(3) == strategy.ask(3)


def test_policies_of_another_space_are_ignored(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    trials = run_serial(Mobo(toy.problem, seed=0), toy, 9)
    foreign = Trial(9, TrialState.COMPLETE, Policy.of({"other": (8, 8)}), "toy", trials[0].values)
    running = Trial(10, TrialState.RUNNING, None, "learned")
    strategy.restore([*trials, foreign, running])
    assert strategy.ask(1)[0].origin == "ehvi"


# --- what repeats, and what is left alone --------------------------------------------------------------------------


def test_what_was_asked_before_does_not_matter(toy: Toy) -> None:
    """Fits are made at fixed numbers of observations: asking in between changes nothing."""
    asked = Mobo(toy.problem, seed=3)
    trials = _search(toy, asked, 20, lambda policy: Measurement(toy.quality(policy)))
    silent = Mobo(toy.problem, seed=3)
    silent.restore(trials)
    assert silent.ask(3) == asked.ask(3)


def test_another_seed_proposes_something_else(toy: Toy) -> None:
    def policies(seed: int) -> list:
        return [trial.policy for trial in run_serial(Mobo(toy.problem, seed=seed), toy, 12)]

    assert policies(0) == policies(0)
    assert policies(0) != policies(1)


def test_threads_and_random_numbers_are_left_alone(toy: Toy) -> None:
    threads, state, numbers = torch.get_num_threads(), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    run_serial(Mobo(toy.problem, seed=0), toy, 8)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numbers).all()
    with pytest.raises(ZeroDivisionError), isolated(0):
        torch.rand(1)
        _ = 1 / 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_can_be_imported_where_warnings_are_errors() -> None:
    code = (
        "import warnings; warnings.simplefilter('error');"
        "from mobo_mpq.testing.toys import make_toy; from mobo_mpq.strategies.registry import make_strategy;"
        "print(make_strategy('mobo', make_toy(2).problem, 0).ask(1)[0].origin)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "highest"


def test_a_space_of_many_layers(toy: Toy) -> None:
    large = make_toy(60, activation_bits=(2, 4, 8), sensitivity=True)
    strategy = Mobo(large.problem, seed=0)
    trials = run_serial(strategy, large, 14)
    assert len({trial.policy for trial in trials}) == 14
    random = run_serial(make_strategy("random", large.problem, 0), large, 14)

    def volume(trials: list[Trial]) -> float:
        return hypervolume(large.points(t.policy for t in trials if t.policy), large.problem.reference)

    assert volume(trials) > 1.2 * volume(random)


def test_problems_from_tables() -> None:
    problem = Problem.from_tables(
        ["a", "b", "c"],
        weight_bits=(2, 4, 8),
        activation_bits=(8,),
        costs={"size_bytes": [[2.0, 4.0, 8.0]] * 3},
        references={"size_bytes": 24.0},
        quality=ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.1),
    )
    strategy = Mobo(problem, seed=0)
    seen = set()
    for number in range(27):
        (proposal,) = strategy.ask(1)
        assert proposal.policy is not None
        quality = Measurement(1.0 - sum(2.0**-bits.weight for _, bits in proposal.policy.items()), 0.0)
        values = {"accuracy": quality, **problem.cost_values(proposal.policy)}
        strategy.tell([Trial(number, TrialState.COMPLETE, proposal.policy, proposal.origin, values)])
        seen.add(proposal.policy)
    assert len(seen) == 27
    assert all(proposal.origin == REPLICATE for proposal in strategy.ask(1))
