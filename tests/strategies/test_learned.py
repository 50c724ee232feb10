"""Sweeps: what learners are asked for, trial after trial. That they find it is tested with each learner."""

import itertools
import math
from functools import partial

import numpy as np
import pytest

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
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


@pytest.mark.parametrize("name", ["ddq", "seam"])
def test_budgets_that_run_side_by_side_halve_the_gaps_between_them(name):
    values = swept(name, 4)
    assert len(set(values)) == 3
    middle, low, high = values[0], *sorted(values[1:])
    assert low < middle < high and middle - low == pytest.approx(high - middle)


def saved(space, strength, width=8.0):
    """What a made-up learner finds: all that can be saved is saved between strengths of 0.5 and 2."""
    share = np.clip(np.log(strength / 0.5) / np.log(4.0), 0.0, 1.0)
    layers = round(share * len(space.names))
    weights = [space.weight_bits[0]] * layers + [space.weight_bits[-1]] * (len(space.names) - layers)
    policies = zip(space.names, weights, strict=True)
    return Policy.of({name: (bits, int(width)) for name, bits in policies})


def sparse(space, options):
    """The same, for the options of BSQ."""
    return saved(space, options["strength"], options["activation_bits"])


def within(space, options, cost):
    """The most that costs no more than the budget."""
    limit = options["budget"] * cost(space.highest())
    found = (saved(space, strength) for strength in np.geomspace(0.4, 2.1, 99))
    return next((one for one in found if cost(one) <= limit), space.lowest())


def play(strategy, problem, trials, quality, find):
    """Options of the learners that are asked for, one after the other, where ``find`` finds the policies."""
    asked = []
    while len(asked) < trials:
        number, (proposal,) = strategy.number, strategy.ask(1)
        policy, learner = proposal.policy, proposal.learner
        if learner is not None:
            asked.append(learner.options)
            policy = find(problem.space, learner.options)
        values = {problem.quality.name: Measurement(quality(policy)), **problem.cost_values(policy)}
        strategy.tell([Trial(number, TrialState.COMPLETE, policy, strategy.name, values, learner=learner)])
    return asked


def falling(policy):
    """What is saved costs quality."""
    return 0.95 - 0.01 * sum(bits.weight == 2 for bits in policy.values())


def test_strengths_go_where_the_cost_changes():
    problem = make_toy(12).problem
    asked = play(make_strategy("bsq", problem, 0), problem, 16, falling, sparse)
    strengths = [options["strength"] for options in asked]
    inside = [0.4 < strength < 2.5 for strength in strengths]
    assert sum(inside) >= 11 > 16 * math.log(2.5 / 0.4) / math.log(1000), "evenly in the logarithm, 4 would be"
    found = {saved(problem.space, strength) for strength in strengths}
    assert len(found) >= 11, "of 13 that there are"


def test_strengths_beyond_a_poor_network_are_left_alone():
    problem = make_toy(12).problem
    poor = problem.quality.reference - 0.01

    def quality(policy):
        return poor if sum(bits.weight == 2 for bits in policy.values()) >= 4 else 0.9

    asked = play(make_strategy("bsq", problem, 0), problem, 16, quality, sparse)
    limit = min(s for s in np.geomspace(0.01, 10, 999) if quality(saved(problem.space, s)) == poor)
    assert sum(options["strength"] > limit for options in asked) <= 5


def test_a_width_whose_networks_are_poor_is_left_alone():
    problem = make_toy(12, activation_bits=(4, 8)).problem

    def quality(policy):
        poor = next(iter(policy.values())).activation == 4
        return problem.quality.reference - 0.01 if poor else falling(policy)

    asked = play(make_strategy("bsq", problem, 0), problem, 12, quality, sparse)
    assert sum(options["activation_bits"] == 4.0 for options in asked) <= 5


def test_every_width_of_the_activations_has_strengths_of_its_own():
    problem = make_toy(12, activation_bits=(4, 8)).problem

    def quality(policy):
        return falling(policy) - 0.05 * (next(iter(policy.values())).activation == 4)

    asked = play(make_strategy("bsq", problem, 0), problem, 16, quality, sparse)
    assert {options["activation_bits"] for options in asked} == {4.0, 8.0}
    given = play(make_strategy("bsq", problem, 0, {"activation_bits": 4.0}), problem, 4, quality, sparse)
    assert {options["activation_bits"] for options in given} == {4.0}


def test_activations_that_stay_in_float_are_no_obstacle():
    problem = make_toy(4, activation_bits=(16,)).problem
    learner = make_strategy("bsq", problem, 0).ask(2)[1].learner
    assert learner.options["activation_bits"] == 0.0 and learner.options["strength"] == pytest.approx(math.sqrt(0.1))


@pytest.mark.parametrize(("weight_bits", "most"), [((2, 4, 8, 32), 8), ((2, 4, 16), 4), ((16, 32), 32)])
def test_the_weakest_strength_costs_what_the_learner_begins_with(weight_bits, most):
    problem = make_toy(4, weight_bits=weight_bits).problem
    line = make_strategy("bsq", problem, 0).lines()[0]
    assert (line.first, line.last) == (problem.space.uniform(most, 8), problem.space.uniform(weight_bits[0], 8))


def test_planes_are_weighed_by_costs_that_there_are():
    problem = make_toy(4, size=True).problem
    for by in ("size", "cost", "size_bytes"):
        make_strategy("bsq", problem, 0, {"weights_by": by})
    with pytest.raises(InputError, match="no cost 'watts' in this problem; it has latency_s, size_bytes"):
        make_strategy("bsq", problem, 0, {"weights_by": "watts"})


def test_what_runs_is_not_asked_for_again():
    problem = make_toy(12, activation_bits=(4, 8)).problem
    batch = make_strategy("bsq", problem, 0).ask(9)[1:]
    assert len({(one.learner.options["activation_bits"], one.learner.options["strength"]) for one in batch}) == 8


def test_a_single_strength_is_tried_again_and_again():
    assert swept("bsq", 4, {"lowest": 0.3, "highest": 0.3}) == pytest.approx([0.3] * 3)
    learners = [one.learner for one in proposals("ddq", 5, {"lowest": 0.5, "highest": 0.5}, size=True)[1:]]
    assert [one.options["budget"] for one in learners] == pytest.approx([0.5] * 4)
    assert [one.options["cost"] for one in learners] == ["latency_s", "size_bytes"] * 2


@pytest.mark.parametrize("name", ["ddq", "seam"])
def test_budgets_lie_between_the_cheapest_policy_and_the_highest_bits(name):
    problem = make_toy(4, size=True).problem
    for cost in problem.costs:
        least = cost(problem.cheapest(cost.info.name)) / cost(problem.space.highest())
        values = swept(name, 64, {"cost": cost.info.name}, size=True)
        assert least < min(values) < least + 0.05 and 0.95 < max(values) < 1.0


@pytest.mark.parametrize("name", ["ddq", "seam"])
def test_every_cost_has_budgets_of_its_own_unless_the_user_gives_one(name):
    learners = [one.learner for one in proposals(name, 9, size=True)[1:]]
    for cost in ("latency_s", "size_bytes"):
        own = [one.options["budget"] for one in learners if one.options["cost"] == cost]
        assert len(own) == len(set(own)) >= 3
        given = proposals(name, 5, {"cost": cost}, size=True)[1:]
        assert {one.learner.options["cost"] for one in given} == {cost}


@pytest.mark.parametrize(
    ("limit", "trials", "between"), [(0, 4, (0.25, 0.65)), (6, 12, (0.5, 0.8)), (12, 12, (0.8, 1))]
)
def test_budgets_go_where_the_front_can_grow(limit, trials, between):
    """Quality holds while ``limit`` layers have 8 bits, and is gone with fewer: budgets close in on that place."""
    problem = make_toy(12).problem

    def quality(policy):
        holds = sum(bits.weight == 8 for bits in policy.values()) >= limit
        return 0.9 if holds else problem.quality.reference - 0.01

    asked = play(make_strategy("ddq", problem, 0), problem, trials, quality, partial(within, cost=problem.costs[0]))
    inside = [between[0] <= options["budget"] <= between[1] for options in asked]
    assert sum(inside) >= 2 / 3 * trials, "evenly spread, it would be half of them at most"


@pytest.mark.parametrize("name", LEARNED)
def test_the_user_may_give_range_and_epochs_and_the_learners_own_options(name):
    values = swept(name, 32, {"lowest": 0.5, "highest": 0.75})
    assert 0.5 <= min(values) < max(values) <= 0.75
    assert {one.learner.epochs for one in proposals(name, 4, {"epochs": 0.25})[1:]} == {0.25}
    option = "strength" if name == "bsq" else "budget"
    with pytest.raises(InputError, match=f"option '{option}' of strategy '{name}' is swept .*'lowest' and 'highest'"):
        check_strategy(name, {option: 0.5})
    with pytest.raises(UnknownName, match=f"unknown option of .*'{name}' 'nonsense'"):
        check_strategy(name, {"nonsense": 1.0})
    with pytest.raises(InputError, match=f"option 'lowest' of strategy '{name}' is 'x'; expected a number"):
        check_strategy(name, {"lowest": "x"})


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(("options", "message"), [
    ({"lowest": -1.0}, "option 'lowest' of {} is -1.0; expected a number above 0$"),
    ({"highest": 0.0}, "option 'highest' of {} is 0.0; expected a number above 0$"),
    ({"highest": math.nan}, "option 'highest' of {} is nan; expected a number above 0$"),
    ({"lowest": math.inf}, "option 'lowest' of {} is inf; expected a number above 0$"),
    ({"lowest": 0.9, "highest": 0.1}, "options 'lowest' and 'highest' of {} are 0.9 and 0.1; expected the lower one"),
])  # fmt: skip
def test_a_range_that_is_none_is_refused(name, options, message):
    with pytest.raises(InputError, match=message.format(f"strategy '{name}'")):
        check_strategy(name, options)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("ddq", {"highest": 2.0}, "option 'highest' of strategy 'ddq' is 2.0: option 'budget' of .* at most 1$"),
    ("ddq", {"lowest": 1.5}, "option 'lowest' of strategy 'ddq' is 1.5: option 'budget' of .* at most 1$"),
    ("seam", {"lowest": 1.5}, "'seam' are 1.5 and 1.0; expected the lower one first, but 'highest' is its default"),
    ("bsq", {"lowest": 20.0}, "'bsq' are 20.0 and 10.0; expected the lower one first, but 'highest' is its default"),
    ("bsq", {"highest": 0.005}, "'bsq' are 0.01 and 0.005; expected the lower one first, but 'lowest' is its default"),
])  # fmt: skip
def test_ends_have_to_suit_the_learner_and_the_other_end_at_its_default(name, options, message):
    with pytest.raises(InputError, match=message):
        check_strategy(name, options)


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
