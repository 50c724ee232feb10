import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective import logei
from linear_operator.utils.errors import NotPSDError

from mobo_mpq.objective import Direction, Measurement
from mobo_mpq.strategies import surrogate as surrogate_module
from mobo_mpq.strategies.mobo import Mobo, isolated
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.toys import Toy, make_toy, run_serial
from mobo_mpq.trial import Trial, TrialState


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy()  # 6 layers of 3 choices: 729 policies, 29 of them on the front


@pytest.mark.slow
def test_mobo_finds_the_exact_front_and_beats_random_search(toy: Toy) -> None:
    shares = {
        name: [toy.share(run_serial(make_strategy(name, toy.problem, seed), toy, 30)) for seed in range(3)]
        for name in ("mobo", "random")
    }
    assert np.median(shares["mobo"]) > 0.99
    assert min(shares["mobo"]) > max(shares["random"])


def test_the_initial_design_is_uniform_first_and_then_spread_over_the_cost(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    trials = run_serial(strategy, toy, strategy.num_initial)
    uniform = [trial.policy for trial in trials[:3]]
    assert uniform == [toy.problem.space.uniform(bits, 8) for bits in (8, 4, 2)]
    proposals = Mobo(toy.problem, seed=0).ask(7)
    assert [proposal.origin for proposal in proposals] == ["highest", *["initial"] * 6]
    strategy.ask(1)
    assert len({trial.values["latency_s"].value for trial in trials}) == len(trials)


def test_mixed_uniform_policies_follow_the_equal_ones() -> None:
    toy = make_toy(8, activation_bits=(2, 4, 8))
    proposals = Mobo(toy.problem, seed=0).ask(7)
    uniform = toy.problem.space.uniform
    assert [proposal.policy for proposal in proposals] == [
        uniform(*bits) for bits in ((8, 8), (4, 4), (2, 2), (8, 4), (8, 2), (4, 8), (4, 2))
    ]


def test_many_equal_policies_are_thinned_evenly() -> None:
    toy = make_toy(3, weight_bits=range(2, 9), activation_bits=range(2, 9))
    policies = [proposal.policy for proposal in Mobo(toy.problem, seed=0).ask(4)]
    assert policies == [toy.problem.space.uniform(bits, bits) for bits in (8, 7, 5, 2)]


def test_the_model_takes_over_once_two_policies_are_known(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=0)
    first = strategy.ask(10)
    strategy.tell([toy.trial(0, toy.problem.space.highest())])
    assert {proposal.origin for proposal in [*first, *strategy.ask(1)]} == {"highest", "initial"}
    assert first[1].policy is not None
    strategy.tell([toy.trial(1, first[1].policy)])
    assert strategy.ask(1)[0].origin == "qlognehvi"


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


@pytest.mark.parametrize(
    ("stderr", "likelihood"),
    [(0.0, "FixedNoiseGaussianLikelihood"), (0.01, "GaussianLikelihood"), (None, "GaussianLikelihood")],
)
def test_noise_is_inferred_unless_all_is_exact(toy: Toy, stderr: float | None, likelihood: str) -> None:
    strategy = Mobo(toy.problem, seed=1)
    for number, policy in enumerate(toy.everything[:600:60]):
        values = {**toy.measure(policy), "accuracy": Measurement(toy.quality(policy), stderr if number else 0.0)}
        strategy.tell([Trial(number, TrialState.COMPLETE, policy, "toy", values)])
    assert strategy.ask(1)[0].origin == "qlognehvi"
    assert type(strategy._surrogate().model.likelihood).__name__ == likelihood


def test_equal_qualities_are_no_obstacle(toy: Toy) -> None:
    strategy = Mobo(toy.problem, seed=1)
    for number, policy in enumerate(toy.everything[:8]):
        values = {**toy.measure(policy), "accuracy": Measurement(0.5)}
        strategy.tell([Trial(number, TrialState.COMPLETE, policy, "toy", values)])
    assert len({proposal.policy for proposal in strategy.ask(2)}) == 2


def test_a_fit_that_fails_falls_back_on_the_priors(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise NotPSDError

    monkeypatch.setattr(surrogate_module, "fit_gpytorch_mll_scipy", fail)
    strategy = Mobo(toy.problem, seed=1)
    trials = run_serial(strategy, toy, 9)
    assert toy.share(trials) > 0
    assert strategy.ask(1)[0].origin == "qlognehvi"


def test_threads_and_random_numbers_of_torch_are_left_alone(toy: Toy) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    run_serial(Mobo(toy.problem, seed=0), toy, 8)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(ZeroDivisionError), isolated(0):
        torch.rand(1)
        _ = 1 / 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_is_compiled(toy: Toy) -> None:
    assert hasattr(logei, "_try_load_fused_kernel"), "BoTorch renamed its kernel: look for the new switch"
    run_serial(Mobo(toy.problem, seed=0), toy, 8)
    assert logei._C is None


def test_another_seed_proposes_something_else(toy: Toy) -> None:
    def policies(seed: int) -> list:
        return [trial.policy for trial in run_serial(Mobo(toy.problem, seed=seed), toy, 8)]

    assert policies(0) == policies(0)
    assert policies(0) != policies(1)


def test_it_can_be_imported_where_warnings_are_errors() -> None:
    code = (
        "import warnings; warnings.simplefilter('error');"
        "from mobo_mpq.testing.toys import make_toy; from mobo_mpq.strategies.registry import make_strategy;"
        "print(make_strategy('mobo', make_toy(2).problem, 0).ask(1)[0].origin)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "highest"
