"""Sweeps: what learners are asked for, trial after trial. That they find it is tested with each learner."""

import itertools

import pytest

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.strategies.registry import check_strategy, learns, make_strategy, strategy_names
from mobo_mpq.testing.toys import make_toy
from mobo_mpq.training.learning import check_learner, learner_names
from mobo_mpq.trial import Trial, TrialState

LEARNED = [name for name in strategy_names() if learns(name)]


def proposals(name, trials=8, options=None, **toy):
    strategy = make_strategy(name, make_toy(4, **toy).problem, 0, options)
    return [strategy.ask(1)[0] for _ in range(trials)]


def swept(name, *more, **toy):
    option = "strength" if name == "bsq" else "budget"
    return [float(one.learner.options[option]) for one in proposals(name, *more, **toy)[1:]]


def test_every_learner_has_a_strategy():
    assert set(LEARNED) == set(learner_names())


@pytest.mark.parametrize("name", LEARNED)
def test_the_highest_bits_come_first_and_then_learners(name):
    first, *others = proposals(name)
    assert first.policy == make_toy(4).problem.space.highest() and first.learner is None
    for one in others:
        assert one.policy is None and one.origin == name
        check_learner(one.learner)


@pytest.mark.parametrize("name", LEARNED)
def test_values_halve_the_gaps_between_those_before(name):
    values = swept(name, 16)  # one cost, and activations of one width
    assert len(set(values)) == len(values)
    ends = swept(name, 2**9)
    assert min(values) > min(ends) and max(values) < max(ends)
    middle, low, high = sorted(values[:3])[1], *sorted((values[1], values[2]))
    assert values[0] == middle and low < middle < high


@pytest.mark.parametrize("name", ["ddq", "seam"])
def test_budgets_lie_between_the_cheapest_policy_and_the_highest_bits(name):
    problem = make_toy(4, size=True).problem
    for cost in problem.costs:
        least = cost(problem.cheapest(cost.info.name)) / cost(problem.space.highest())
        values = swept(name, 64, {"cost": cost.info.name}, size=True)
        assert least < min(values) < least + 0.05 and 0.95 < max(values) < 1.0


@pytest.mark.parametrize(("name", "option", "words"), [
    ("ddq", "cost", ["latency_s", "size_bytes"]),
    ("seam", "cost", ["latency_s", "size_bytes"]),
    ("bsq", "activation_bits", [8.0, 4.0]),
])  # fmt: skip
def test_what_a_method_leaves_open_takes_turns_unless_the_user_gives_it(name, option, words):
    learners = [one.learner for one in proposals(name, 9, size=True, activation_bits=(4, 8))[1:]]
    assert [one.options[option] for one in learners] == words * 4
    budget = "strength" if name == "bsq" else "budget"
    for word in words:
        own = [one.options[budget] for one in learners if one.options[option] == word]
        assert len(set(own)) == 4
    given = proposals(name, 5, {option: words[1]}, size=True, activation_bits=(4, 8))[1:]
    assert {one.learner.options[option] for one in given} == {words[1]}


@pytest.mark.parametrize("name", LEARNED)
def test_the_user_may_give_range_and_epochs_and_the_learners_own_options(name):
    values = swept(name, 32, {"lowest": 0.5, "highest": 0.75})
    assert 0.5 <= min(values) < 0.52 and 0.73 < max(values) <= 0.75
    assert {one.learner.epochs for one in proposals(name, 4, {"epochs": 0.25})[1:]} == {0.25}
    option = "strength" if name == "bsq" else "budget"
    with pytest.raises(InputError, match=f"option '{option}' of strategy '{name}' is swept .*'lowest' and 'highest'"):
        check_strategy(name, {option: 0.5})
    with pytest.raises(UnknownName, match=f"unknown option of .*'{name}' 'nonsense'"):
        check_strategy(name, {"nonsense": 1.0})
    with pytest.raises(InputError, match=f"option 'lowest' of strategy '{name}' is 'x'; expected a number"):
        check_strategy(name, {"lowest": "x"})


@pytest.mark.parametrize("name", LEARNED)
def test_a_replay_proposes_the_same(name):
    problem = make_toy(4).problem
    strategy, history = make_strategy(name, problem, 3), []
    for number, proposal in enumerate(itertools.chain.from_iterable(strategy.ask(2) for _ in range(4))):
        state = TrialState.FAILED if number % 2 else TrialState.RUNNING
        policy = problem.space.lowest() if number % 2 else None  # a failed trial may have found its policy
        history.append(Trial(number, state, proposal.policy or policy, proposal.origin, learner=proposal.learner))
    strategy.tell([trial for trial in history if trial.is_final])
    again = make_strategy(name, problem, 3)
    again.restore(history)
    assert again.ask(3) == strategy.ask(3)
    assert make_strategy(name, problem, 4).ask(3)[1:] == make_strategy(name, problem, 3).ask(3)[1:]
