from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mobo_mpq.errors import InputError
from mobo_mpq.objective import Direction, Measurement, ObjectiveInfo
from mobo_mpq.optimization import Result, optimize
from mobo_mpq.policy import Policy
from mobo_mpq.strategies.registry import learns, strategy_names
from mobo_mpq.testing.toys import Toy, make_toy
from mobo_mpq.trial import TrialState

NEED_SENSITIVITIES = ("amp", "hawq", "ompq", "sensitivity")


@pytest.fixture(scope="module")
def toy() -> Toy:
    return make_toy(4)  # 81 policies


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("strategy", [name for name in strategy_names() if not learns(name)])
def test_it_spends_exactly_the_evaluations_asked_for(strategy: str, batch: int) -> None:
    toy = make_toy(4, sensitivity=strategy in NEED_SENSITIVITIES)
    asked: list[Policy] = []

    def evaluate(policy: Policy) -> float:
        asked.append(policy)
        return toy.quality(policy)

    study = optimize(toy.problem, evaluate, strategy=strategy, trials=14, batch=batch, seed=3)
    assert len(asked) == len(set(asked)) == len(study.trials) == 14
    assert [trial.policy for trial in study.trials] == asked
    assert 0 < study.hypervolume() <= toy.best_hypervolume


@pytest.mark.parametrize("strategy", [name for name in strategy_names() if learns(name)])
def test_strategies_that_train_a_network_are_refused_before_anything_is_evaluated(toy: Toy, strategy: str) -> None:
    with pytest.raises(InputError, match=f"strategy '{strategy}' finds policies by training a network, which optimize"):
        optimize(toy.problem, lambda policy: pytest.fail("evaluated"), strategy=strategy)


@pytest.mark.parametrize("strategy", NEED_SENSITIVITIES)
def test_strategies_that_need_sensitivities_say_so(toy: Toy, strategy: str) -> None:
    with pytest.raises(InputError, match=f"strategy '{strategy}' needs sensitivities and this problem has none"):
        optimize(toy.problem, toy.quality, strategy=strategy, trials=4)


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


@pytest.mark.parametrize("result", [0.5, (0.5, 0.01), Measurement(0.5, 0.01, 0.2)])
@pytest.mark.parametrize("named", [False, True])
def test_forms_of_a_result(result: Result, named: bool, toy: Toy) -> None:
    study = optimize(toy.problem, lambda policy: {"accuracy": result} if named else result, strategy="sobol", trials=1)
    expected = {float: Measurement(0.5), tuple: Measurement(0.5, 0.01)}.get(type(result), result)
    assert study.trials[0].values["accuracy"] == expected


@pytest.mark.parametrize("strategy", ["nsga2", "tpe", "random", "sobol"])
def test_several_measured_objectives(strategy: str) -> None:
    toy = make_toy(3)
    worst = ObjectiveInfo("worst_class", "", Direction.MINIMIZE, 1.0)
    problem = replace(toy.problem, objectives=(*toy.problem.objectives, worst))

    def evaluate(policy: Policy) -> dict[str, Result]:
        return {"worst_class": (2.0 ** -policy["layer0"].weight, 0.1), "accuracy": toy.quality(policy)}

    study = optimize(problem, evaluate, strategy=strategy, trials=20)
    assert [info.name for info in problem.infos] == ["accuracy", "latency_s", "worst_class"]
    assert all(list(trial.values) == ["accuracy", "worst_class", "latency_s"] for trial in study.trials)
    points = np.array([problem.maximised(trial.values) for trial in study.trials])
    front = {trial.number for trial in study.pareto()}
    beaten = [((points >= point).all(1) & (points > point).any(1)).any() for point in points]
    assert front == {number for number, lost in enumerate(beaten) if not lost}
    with pytest.raises(InputError, match="evaluate returned 0.5; the problem measures accuracy, worst_class: return a"):
        optimize(problem, lambda policy: 0.5, strategy=strategy, trials=1)


@pytest.mark.parametrize("result", [{}, {"acuracy": 0.5}, {"accuracy": 0.5, "loss": 1.0}])
def test_names_that_are_not_measured(result: dict[str, Result], toy: Toy) -> None:
    with pytest.raises(InputError, match="evaluate returned values of .*; expected accuracy$"):
        optimize(toy.problem, lambda policy: result, strategy="sobol", trials=1)


@pytest.mark.parametrize(
    "result",
    [(0.5, -1.0), (0.5, float("nan")), (0.5,), "good", None, {"accuracy": "good"}, Measurement(0.5, None, -0.1)],
)
def test_what_evaluate_may_not_return(result: object, toy: Toy) -> None:
    with pytest.raises(InputError, match="evaluate returned .*; expected the accuracy as a number"):
        optimize(toy.problem, lambda policy: result, strategy="sobol", trials=1)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("number", [0, -1, 2.5, "3"])
def test_numbers_of_trials(number: object, toy: Toy) -> None:
    with pytest.raises(InputError, match="trials is .*; expected a whole number of at least 1"):
        optimize(toy.problem, toy.quality, trials=number)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch is .*; expected a whole number of at least 1"):
        optimize(toy.problem, toy.quality, batch=number)  # type: ignore[arg-type]
