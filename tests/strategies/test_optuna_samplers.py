import logging

import numpy as np
import optuna
import pytest

from mobo_mpq.strategies.optuna_samplers import Nsga2, Random, Tpe
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.toys import Toy, make_toy, run_serial


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy()


def test_generations_are_those_that_optuna_would_give_a_serial_study(toy: Toy) -> None:
    strategy = Nsga2(toy.problem, seed=0)
    run_serial(strategy, toy, 40)
    study = strategy._study()
    key = optuna.samplers.NSGAIISampler._get_generation_key()
    assert [trial.system_attrs[key] for trial in study.trials] == [0] * 16 + [1] * 16 + [2] * 8
    asked = study.ask(strategy._distributions())
    assert study.sampler.get_trial_generation(study, asked._get_latest_trial()) == 2  # type: ignore[attr-defined]


def test_offspring_inherit_from_the_population() -> None:
    toy = make_toy(30)
    strategy = Nsga2(toy.problem, seed=0)
    parents = toy.problem.space.to_levels([t.policy for t in run_serial(strategy, toy, 16) if t.policy is not None])
    child = toy.problem.space.to_levels([p.policy for p in strategy.ask(1) if p.policy is not None])[0]
    closest = np.sort((parents == child).sum(axis=1))[::-1]
    # a variable of two unrelated policies agrees one time in three; of a child, it comes from one of two parents
    assert closest[:2].sum() > 30


def test_tpe_and_nsga2_learn(toy: Toy) -> None:
    shares = {
        name: np.median([toy.share(run_serial(make_strategy(name, toy.problem, seed), toy, 40)) for seed in range(5)])
        for name in ("tpe", "nsga2", "random")
    }
    assert shares["random"] < shares["nsga2"] < shares["tpe"]


def test_random_bits_are_uniform() -> None:
    toy = make_toy(20, activation_bits=(4, 8))
    policies = [proposal.policy for proposal in Random(toy.problem, seed=0).ask(151)[1:]]
    levels = toy.problem.space.to_levels([policy for policy in policies if policy is not None])
    for variable, column in zip(toy.problem.space.variables, levels.T, strict=True):
        share = np.bincount(column, minlength=len(variable.choices)) / len(levels)
        assert np.abs(share - 1 / len(variable.choices)).max() < 0.15  # about four standard errors


def test_running_trials_spread_the_proposals_of_tpe(toy: Toy) -> None:
    strategy = Tpe(toy.problem, seed=0)
    run_serial(strategy, toy, 20)
    strategy.ask(3)
    states = [trial.state for trial in strategy._study().trials]
    assert states.count(optuna.trial.TrialState.RUNNING) == 3


def test_optuna_is_quiet_and_its_verbosity_restored(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.DEBUG):
            run_serial(Tpe(toy.problem, seed=0), toy, 12)
    finally:
        optuna.logging.disable_propagation()
    assert [record for record in caplog.records if record.name.startswith("optuna")] == []
    assert optuna.logging.get_verbosity() == before
