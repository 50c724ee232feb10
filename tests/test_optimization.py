from __future__ import annotations

import pytest
import torch

from mobo_mpq.errors import InputError
from mobo_mpq.optimization import optimize
from mobo_mpq.policy import Policy
from mobo_mpq.strategies.registry import strategy_names
from mobo_mpq.testing.toys import Toy, make_toy
from mobo_mpq.trial import TrialState


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(4)  # 81 policies


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("strategy", strategy_names())
def test_it_spends_exactly_the_evaluations_asked_for(strategy: str, batch: int, toy: Toy) -> None:
    asked: list[Policy] = []

    def evaluate(policy: Policy) -> float:
        asked.append(policy)
        return toy.quality(policy)

    study = optimize(toy.problem, evaluate, strategy=strategy, trials=14, batch=batch, seed=3)
    assert len(asked) == len(set(asked)) == len(study.trials) == 14
    assert [trial.policy for trial in study.trials] == asked
    assert 0 < study.hypervolume() <= toy.best_hypervolume


def test_it_stops_when_the_space_is_used_up() -> None:
    toy = make_toy(2)
    study = optimize(toy.problem, toy.quality, strategy="random", trials=64)
    assert len(study.trials) == 9
    assert study.hypervolume() == pytest.approx(toy.best_hypervolume)


def test_it_repeats_and_restores_the_threads(toy: Toy) -> None:
    before = torch.get_num_threads()
    first, second = (optimize(toy.problem, toy.quality, trials=12, seed=5) for _ in range(2))
    assert [t.policy for t in first.trials] == [t.policy for t in second.trials]
    assert torch.get_num_threads() == before


def test_standard_errors_and_failures(toy: Toy) -> None:
    results = iter([(0.5, 0.01), float("nan"), 0.6])
    study = optimize(toy.problem, lambda policy: next(results), strategy="sobol", trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE]
    assert [study.trials[n].values["accuracy"].stderr for n in (0, 2)] == [0.01, None]


@pytest.mark.parametrize("result", [(0.5, -1.0), (0.5, float("nan")), (0.5,), "good", None])
def test_what_evaluate_may_not_return(result: object, toy: Toy) -> None:
    with pytest.raises(InputError, match="evaluate returned .*; expected the quality as a number"):
        optimize(toy.problem, lambda policy: result, trials=1)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("number", [0, -1, 2.5, "3"])
def test_numbers_of_trials(number: object, toy: Toy) -> None:
    with pytest.raises(InputError, match="trials is .*; expected a whole number of at least 1"):
        optimize(toy.problem, toy.quality, trials=number)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch is .*; expected a whole number of at least 1"):
        optimize(toy.problem, toy.quality, batch=number)  # type: ignore[arg-type]
