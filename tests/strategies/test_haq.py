"""HAQ as a strategy: budgets, rewards, and what is learned from which trial."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mobo_mpq as mm
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.objective import Measurement
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.haq import Haq, HaqOptions
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.testing.toys import Toy, make_toy, run_serial
from mobo_mpq.trial import Trial, TrialState


def haq(problem: Problem, seed: int = 0, **options: Any) -> Haq:
    return Haq(problem, seed=seed, options=HaqOptions(**options))


def scored(toy: Toy, value: float) -> Trial:
    highest = toy.problem.space.highest()
    return Trial(0, TrialState.COMPLETE, highest, "toy", {toy.problem.quality.name: Measurement(value)})


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_budgets_halve_the_gaps_and_come_round_again() -> None:
    toy = make_toy(4)
    cost = toy.problem.costs[0]
    least, most = cost(toy.problem.space.lowest()), cost(toy.problem.space.highest())
    strategy = haq(toy.problem, budgets=3, agents="separate")
    shares = [(strategy.goal(k).limit - least) / (most - least) for k in range(1, 7)]
    assert shares == pytest.approx([0.5, 0.75, 0.25] * 2)
    assert [strategy.goal(k)[:2] for k in range(1, 7)] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert [haq(toy.problem, budgets=3).goal(k)[:2] for k in (1, 2, 4)] == [(0, 0), (0, 1), (0, 3)]


def test_one_published_budget() -> None:
    toy = make_toy(4)
    cost = toy.problem.costs[0]
    strategy = haq(toy.problem, agents="separate", budgets=1, lowest=0.6, highest=0.6)
    limit = 0.6 * cost(toy.problem.space.highest())
    assert [strategy.goal(k).limit for k in range(1, 9)] == pytest.approx([limit] * 8)
    for trial in run_serial(strategy, toy, 41)[1:]:
        assert trial.policy is not None
        assert cost(trial.policy) <= limit * (1 + 1e-9)


@pytest.mark.parametrize("agents", ["shared", "separate"])
def test_a_budget_is_left_when_all_policies_within_it_are_evaluated(agents: str) -> None:
    toy = make_toy(3)
    cost = toy.problem.costs[0]
    strategy = haq(toy.problem, agents=agents, budgets=1, lowest=0.6, highest=0.6)
    limit = 0.6 * cost(toy.problem.space.highest())
    count = sum(cost(policy) <= limit for policy in toy.everything)
    policies = [trial.policy for trial in run_serial(strategy, toy, 40) if trial.policy is not None]
    assert [cost(policy) <= limit for policy in policies] == [False] + [True] * count + [False] * (26 - count)
    assert 0 < count < 26


def test_several_costs_are_budgeted_in_turn_or_the_one_that_is_named() -> None:
    problem = make_toy(4, size=True).problem
    assert [haq(problem).goal(k).cost for k in (1, 2, 3)] == [0, 1, 0]
    named = haq(problem, cost="size_bytes")
    assert [cost.info.name for cost in named.costs] == ["size_bytes"]
    with pytest.raises(InputError, match="no cost 'energy_j' in this problem; it has latency_s, size_bytes"):
        haq(problem, cost="energy_j")


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    shares=st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)).map(sorted),
    agents=st.sampled_from(["shared", "separate"]),
    budget=st.sampled_from([None, 0.5]),
)
def test_every_proposal_keeps_its_budget_and_the_studys(
    seed: int, shares: list[float], agents: str, budget: float | None
) -> None:
    toy = make_toy(6, activation_bits=(2, 4, 8), budgets={"size_bytes": budget} if budget else {})
    strategy = haq(
        toy.problem, seed, agents=agents, budgets=2, lowest=shares[0], highest=shares[1], warmup=2, updates=0.2
    )
    cost = toy.problem.costs[0]
    trials = run_serial(strategy, toy, 41)
    for number, trial in enumerate(trials[1:], start=1):
        assert trial.policy is not None
        assert toy.problem.broken_budget(trial.policy) is None
        limit = strategy.goal(number).limit * (1 + 1e-9)
        if cost(trial.policy) > limit:
            grid = toy.problem.space.grid()
            within = grid[(cost.of_levels(grid) <= limit) & toy.problem.affordable(grid)]
            assert set(toy.problem.space.to_policies(within)) <= {before.policy for before in trials[:number]}


# --- rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "reference", "base", "value", "expected"),
    [
        ("maximize", 0.85, 0.95, 0.95, 0.0),  # the zero point: as good as the float model
        ("maximize", 0.85, 0.95, 0.94, -0.1),
        ("maximize", 62.0, 72.05, 71.23, -0.082),  # MobileNetV2 of HAQ, in per cent
        ("minimize", 2.4, 2.0, 2.1, -0.5),  # 5 % worse
        ("maximize", 0.85, None, 0.86, 0.1),  # above the worst of interest
        ("minimize", 2.4, None, 1.2, 5.0),
    ],
)
def test_the_reward_is_a_tenth_of_the_points_gained(
    direction: str, reference: float, base: float | None, value: float, expected: float
) -> None:
    toy = make_toy(2)
    quality = mm.ObjectiveInfo("metric", "", direction, reference)
    problem = replace(toy.problem, objectives=(quality, *toy.problem.costs), float_quality=base)
    assert haq(problem).reward(scored(replace(toy, problem=problem), value)) == pytest.approx(expected, abs=1e-9)


# --- what is learned --------------------------------------------------------------------------------------------------


def test_a_serial_study_learns_from_the_actions_that_were_taken() -> None:
    toy = make_toy(6, activation_bits=(2, 4, 8))
    strategy = haq(toy.problem, warmup=3, updates=0.5)
    trials = run_serial(strategy, toy, 10)
    strategy.ask(1)  # which learns from the last
    actions = strategy.agents[0]._actions
    assert len(actions) == 10
    middles = strategy.episode.to_actions(np.stack([strategy.levels_of([trial.policy])[0] for trial in trials]))
    assert actions[0] == pytest.approx(middles[0]), "trial 0 is no episode"
    assert (np.abs(actions[1:] - middles[1:]).max(axis=1) > 1e-3).all()
    # the actions, backed off to the budget, are the policies
    for number in (5, 9):
        levels = strategy.episode.to_levels(actions[number].astype(float))
        backed = strategy._backed_off(levels, strategy.goal(number))
        assert strategy.problem.space.to_policies(backed)[0] == trials[number].policy


def test_trials_without_a_value_teach_nothing() -> None:
    toy = make_toy(4)
    strategy = haq(toy.problem)
    proposals = strategy.ask(4)
    states = (TrialState.COMPLETE, TrialState.FAILED, TrialState.PRUNED, TrialState.COMPLETE)
    told = [
        toy.trial(number, one.policy, state)
        for number, (one, state) in enumerate(zip(proposals, states, strict=True))
        if one.policy is not None
    ]
    strategy.tell(told)
    strategy.tell([Trial(4, TrialState.COMPLETE, None, "a recipe's own", dict(told[0].values))])
    strategy.ask(1)
    assert strategy.agents[0].episodes == 2


def test_a_policy_over_the_budget_is_no_episode_of_a_separate_agent() -> None:
    toy = make_toy(4)
    for agents, episodes in (("separate", [0, 0]), ("shared", [1])):
        strategy = haq(toy.problem, agents=agents, budgets=2)
        strategy.tell([toy.trial(0, toy.problem.space.highest())])
        strategy.ask(1)
        assert [agent.episodes for agent in strategy.agents] == episodes


@pytest.mark.parametrize("ends", [{"lowest": 0.5, "highest": 0.51}, {"lowest": 0.6, "highest": 0.6}, {}])
def test_a_shared_agent_sees_budgets_of_the_sweep_alone(ends: dict[str, float]) -> None:
    toy = make_toy(4)
    strategy = haq(toy.problem, budgets=3, updates=0.1, **ends)
    most = ends.get("highest", 1.0) * toy.problem.costs[0](toy.problem.space.highest()) * (1 + 1e-9)
    trials = run_serial(strategy, toy, 81)  # all policies that there are
    strategy.ask(1)
    kept = [trial.policy for trial in trials if trial.policy and toy.problem.costs[0](trial.policy) <= most]
    agent = strategy.agents[0]
    assert agent.episodes == min(len(kept), 64)
    places = agent._states[:, :, 10]
    assert places.min() >= 0.0 and places.max() <= 1.0
    if ends:
        assert len(kept) < 81


def test_rewards_rise_within_one_budget() -> None:
    toy = make_toy(6, activation_bits=(8,))
    strategy = haq(toy.problem, agents="separate", budgets=1, lowest=0.5, highest=0.5, warmup=10)
    rewards = [strategy.reward(trial) for trial in run_serial(strategy, toy, 41)[1:]]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.2


def test_one_layer_and_no_choice() -> None:
    toy = make_toy(1, activation_bits=(4, 8))
    trials = run_serial(haq(toy.problem), toy, 20)
    assert {trial.policy for trial in trials} == set(toy.everything)
    pinned = make_toy(1, weight_bits=(8,), activation_bits=(8,))
    assert len(run_serial(haq(pinned.problem), pinned, 5)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": 0.0}, "option 'budgets' of strategy 'haq' is 0.0; expected a whole number above 0"),
        ({"budgets": 2.5}, "option 'budgets' .* 2.5"),
        ({"budgets": float("inf")}, "option 'budgets' .* inf; expected a whole number above 0"),
        ({"budgets": float("nan")}, "option 'budgets' .* nan; expected a whole number above 0"),
        ({"lowest": -0.1}, "option 'lowest' of strategy 'haq' is -0.1; expected more than 0, at most 1"),
        ({"lowest": 1.5}, "option 'lowest' .* 1.5; expected more than 0, at most 1"),
        ({"lowest": float("inf")}, "option 'lowest' .* inf; expected more than 0, at most 1"),
        ({"highest": float("nan")}, "option 'highest' .* nan; expected more than 0, at least 'lowest', at most 1"),
        ({"highest": 2.0}, "option 'highest' .* 2.0; expected more than 0, at least 'lowest', at most 1"),
        ({"highest": 0.0}, "option 'highest' .* 0.0; expected more than 0, at least 'lowest', at most 1"),
        ({"lowest": 0.6, "highest": 0.5}, "option 'highest' .* 0.5; expected more than 0, at least 'lowest'"),
        ({"warmup": -1.0}, "option 'warmup' .* -1.0; expected a whole number, 0 or more"),
        ({"warmup": float("inf")}, "option 'warmup' .* inf; expected a whole number, 0 or more"),
        ({"warmup": float("nan")}, "option 'warmup' .* nan; expected a whole number, 0 or more"),
        ({"noise": float("nan")}, "option 'noise' .* nan; expected 0 or more"),
        ({"decay": 1.5}, "option 'decay' .* 1.5; expected more than 0, at most 1"),
        ({"updates": float("inf")}, "option 'updates' .* inf; expected 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_strategy("haq", make_toy(2).problem, 0, options)


def test_an_unknown_kind_of_agents_is_refused() -> None:
    with pytest.raises(UnknownName, match="'agents' of strategy 'haq'"):
        HaqOptions(agents="both")
