from collections.abc import Mapping

import numpy as np
import pytest

from mobo_mpq.engine.learning import Learner
from mobo_mpq.engine.observations import Link
from mobo_mpq.objective import Direction, Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.mobo import Mobo
from mobo_mpq.testing.toys import Toy, make_toy
from mobo_mpq.trial import Trial, TrialState

Observed = list[tuple[Policy, Mapping[str, Measurement]]]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(sensitivity=True)


def observe(toy: Toy, n: int, noise: float = 0.0, stderr: float | None = None, divergent: bool = False) -> Observed:
    """Random policies; the divergence is the square root of the loss, without noise."""
    rng = np.random.default_rng(0)
    observed: Observed = []
    for policy in toy.problem.space.sample(n, rng):
        quality = toy.quality(policy)
        divergence = float(np.sqrt(max(toy.top - quality, 0.0))) if divergent else None
        observed.append(
            (policy, {"accuracy": Measurement(quality + noise * rng.standard_normal(), stderr, divergence)})
        )
    return observed


def test_three_different_policies_are_enough(toy: Toy) -> None:
    learner = Learner(toy.problem)
    observed = observe(toy, 3)
    assert not learner.is_ready(observed[:2])
    assert not learner.is_ready([*observed[:2], observed[0]])
    assert learner.is_ready(observed)
    assert np.isfinite(learner.surrogate(observed).posterior(toy.problem.space.grid()[:5])).all()


def test_losses_are_qualities_with_the_sign_that_is_minimised(toy: Toy) -> None:
    observed = observe(toy, 5)
    seen = Learner(toy.problem).observations(observed)
    assert seen.loss.tolist() == [-values["accuracy"].value for _, values in observed]
    assert (seen.reference, seen.divergence) == (-toy.problem.quality.reference, None)
    assert toy.problem.space.to_policies(seen.levels) == [policy for policy, _ in observed]
    info = ObjectiveInfo("perplexity", "", Direction.MINIMIZE, 9.0)
    other = Learner(toy.problem, info).observations([(observed[0][0], {"perplexity": Measurement(3.0)})])
    assert (other.loss.tolist(), other.reference) == ([3.0], 9.0)


def test_only_an_exact_zero_is_taken_at_its_word(toy: Toy) -> None:
    policy = toy.problem.space.highest()
    observed = [(policy, {"accuracy": Measurement(0.9, stderr)}) for stderr in (0.0, None, 0.01)]
    assert Learner(toy.problem).observations(observed).exact.tolist() == [True, False, False]


def test_what_is_learned_depends_on_the_trials_alone(toy: Toy) -> None:
    exact, noisy = observe(toy, 8, stderr=0.0, divergent=True), observe(toy, 20, noise=0.01, divergent=True)
    observed = [*exact, *noisy[8:]]
    often, once = Learner(toy.problem), Learner(toy.problem)
    for n in range(3, 21):
        often.surrogate(observed[:n])
    levels = toy.problem.space.grid()[::50]
    one, other = often.surrogate(observed), once.surrogate(observed)
    assert one.link == other.link
    assert np.array_equal(one.mean(levels), other.mean(levels))
    assert often.surrogate(observed) is one


def test_a_divergence_is_modelled_where_it_predicts_left_out_losses_better(toy: Toy) -> None:
    observed = observe(toy, 24, noise=0.02, divergent=True)
    learner = Learner(toy.problem)
    first, second = learner.surrogates(observed)
    assert first.error() <= second.error()
    assert first is learner.surrogate(observed) and first.link != Link() and second.link == Link()
    levels = toy.problem.space.to_levels([policy for policy in toy.everything if toy.quality(policy) > 0.85])
    truth = np.array([-toy.quality(policy) for policy in toy.problem.space.to_policies(levels)])
    errors = [np.sqrt(np.mean((one.to_loss(*one.posterior(levels))[0] - truth) ** 2)) for one in (first, second)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("value", [None, float("inf"), float("nan")])
def test_a_divergence_that_some_trial_lacks_is_left_alone(toy: Toy, value: float | None) -> None:
    observed = observe(toy, 10, divergent=True)
    policy, values = observed[-1]
    lacking = [*observed[:-1], (policy, {"accuracy": Measurement(values["accuracy"].value, None, value)})]
    learner = Learner(toy.problem)
    assert [one.link for one in learner.surrogates(lacking)] == [Link()]
    assert learner.direct(observed).link == Link()


def test_a_space_without_decisions_does_no_harm() -> None:
    problem = Problem.from_tables(
        ["a", "b"],
        weight_bits=(8,),
        activation_bits=(8,),
        costs={"size_bytes": [[1.0], [2.0]]},
        references={"size_bytes": 4.0},
        quality=ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.5),
        sensitivity=[[0.1], [0.2]],
    )
    policy = problem.space.highest()
    values = {"accuracy": Measurement(0.9), **problem.cost_values(policy)}
    surrogate = Learner(problem).surrogate([(policy, values)] * 3)
    mean, sd = surrogate.posterior(np.zeros((1, 0), dtype=np.intp))
    assert mean == pytest.approx(-0.9) and np.isfinite(sd).all()
    strategy = Mobo(problem, seed=0)
    (proposal,) = strategy.ask()
    assert proposal.policy == policy
    strategy.tell([Trial(0, TrialState.COMPLETE, policy, proposal.origin, values)])
    assert strategy.ask() == []
