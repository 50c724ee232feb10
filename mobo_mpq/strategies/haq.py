"""HAQ: an agent walks through the layers and chooses their bits; what the policy scores is its reward.

Wang, Liu, Lin, Lin and Han, "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", CVPR 2019, arXiv
1811.08886. ``docs/methods/haq.md`` says what is done differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.allocation import TOLERANCE
from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.designs import van_der_corput
from mobo_mpq.errors import UnknownName
from mobo_mpq.objective import Direction
from mobo_mpq.options import check_each, is_whole
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.strategies.budget_range import budget_range
from mobo_mpq.strategies.haq_agent import Ddpg, truncated_normal
from mobo_mpq.strategies.haq_episode import Episode, back_off
from mobo_mpq.training.isolation import isolated
from mobo_mpq.trial import Proposal, Trial, TrialState

AGENTS = ("shared", "separate")
REWARD_PER_POINT = 0.1
PERCENT_FROM = 1.5
"""A maximised metric beyond this is on a scale of 0 to 100, not of 0 to 1."""

ATTEMPTS = 16
"""Draws of an episode's noise, the first of which that leads to a new policy is taken."""


@dataclass(frozen=True, slots=True)
class HaqOptions:
    """The budgets that are swept, and how the agent learns.

    Attributes:
        agents: ``shared``: one agent for all budgets, which sees the episode's; ``separate``: one for each.
        budgets: how many there are for each cost; one alone is the middle of the range.
        lowest: the least budget, as a share of the cost of the highest bits; by default the cheapest policy's.
        highest: the greatest one, likewise; by default that of trial 0.
        cost: that is budgeted; by default all of the problem's in turn.
        warmup: episodes of an agent with random actions, before it learns.
        noise: standard deviation of the noise on an action, once the agent acts.
        decay: factor on it for every further episode.
        updates: of the agent, for each step of an episode.
    """

    agents: str = "shared"
    budgets: float = 15.0
    lowest: float | None = None
    highest: float | None = None
    cost: str = ""
    warmup: float = 5.0
    noise: float = 0.5
    decay: float = 0.95
    updates: float = 4.0

    def __post_init__(self) -> None:
        if self.agents not in AGENTS:
            raise UnknownName("value of option 'agents' of strategy 'haq'", self.agents, AGENTS)
        lowest, highest = self.lowest, self.highest
        legal = {
            "budgets": (is_whole(self.budgets, 1), "a whole number above 0"),
            "lowest": (lowest is None or 0.0 < lowest <= 1.0, "more than 0, at most 1"),
            "highest": (
                highest is None or (0.0 < highest <= 1.0 and (lowest or 0.0) <= highest),
                "more than 0, at least 'lowest', at most 1",
            ),
            "warmup": (is_whole(self.warmup, 0), "a whole number, 0 or more"),
            "noise": (0.0 <= self.noise < math.inf, "0 or more"),
            "decay": (0.0 < self.decay <= 1.0, "more than 0, at most 1"),
            "updates": (0.0 <= self.updates < math.inf, "0 or more"),
        }
        check_each(self, "strategy 'haq'", legal)


class Goal(NamedTuple):
    """What an episode is for.

    Attributes:
        agent: index of the agent that plays it.
        episode: of that agent.
        cost: index of the cost that is budgeted.
        limit: of that cost.
    """

    agent: int
    episode: int
    cost: int
    limit: float


class Haq(Strategy):
    """Plays an episode for each trial, and learns from all that have finished, in the order in which they did.

    Raises:
        InputError: when the problem has no cost of the name in the options, or the range is beyond what policies cost
            and the study allows.
    """

    options_class = HaqOptions
    options: HaqOptions

    def __init__(self, problem: Problem, *, seed: int, options: HaqOptions | None = None) -> None:
        super().__init__(problem, seed=seed, options=options)
        self.episode = Episode(problem)
        self.costs = [problem.cost(self.options.cost)] if self.options.cost else list(problem.costs)
        self._reach = [self._range(index) for index in range(len(self.costs))]
        shared = self.options.agents == "shared"
        goal_columns = len(self.costs) if shared else 0
        with isolated(self.derived_seed(0, "agents"), threads=1):
            count = 1 if shared else int(self.options.budgets) * len(self.costs)
            self.agents = [Ddpg(10 + goal_columns, self.episode.steps) for _ in range(count)]
        self._learned = 0

    def propose(self, n: int) -> list[Proposal]:
        """The policy of the next episode."""
        with isolated(self.derived_seed(self.number), threads=1):
            self._learn()
            played = (self._policy(levels) for _, levels in self._play(self.number))
            policy = self.fresh(played, self.rng(self.number), within=self._within(self.goal(self.number)))
        return [] if policy is None else [Proposal(policy, "haq")]

    # --- budgets ----------------------------------------------------------------------------------------------------

    def goal(self, number: int) -> Goal:
        """Of the episode of a trial: budgets in turn, and for each of them all costs.

        Budgets halve the gaps between those before them.
        """
        count = int(self.options.budgets) * len(self.costs)
        episode, which = divmod(number - 1, count)
        budget, cost = divmod(which, len(self.costs))
        low, high = self._reach[cost]
        limit = high - van_der_corput(budget + 1) * (high - low)
        return Goal(0, number - 1, cost, limit) if len(self.agents) == 1 else Goal(which, episode, cost, limit)

    def _range(self, index: int) -> tuple[float, float]:
        """Least and greatest budget on a cost."""
        cost = self.costs[index]
        ends = self.options.lowest, self.options.highest
        return budget_range(self.problem, cost, ends, cost(self.highest_affordable()), "strategy 'haq'")

    def _columns(self, cost: int, limit: float) -> Floats:
        """What a shared agent sees of the budget: its place in the range, 1 for costs that have none."""
        columns = np.ones(len(self.costs) if self.options.agents == "shared" else 0)
        low, high = self._reach[cost]
        if len(columns):
            columns[cost] = (limit - low) / (high - low) if high > low else 1.0
        return columns

    # --- episodes ---------------------------------------------------------------------------------------------------

    def _play(self, number: int) -> Iterator[tuple[Floats, Levels]]:
        """Actions of an episode, and the levels that they end with: one draw of the noise after the other."""
        goal = self.goal(number)
        uniform = self.rng(number, "noise").random((ATTEMPTS, self.episode.steps))
        for actions in self._actions(goal, uniform):
            levels = self.problem.space.repair_all(self.episode.to_levels(actions)[None])[0]
            yield actions, self._backed_off(levels, goal)

    def _actions(self, goal: Goal, uniform: Floats) -> Floats:  # n x d -> n x d
        """Random ones at first; then the agent's, with noise that fades."""
        ahead = goal.episode - int(self.options.warmup)
        if ahead < 0:
            return uniform
        agent, columns = self.agents[goal.agent], self._columns(goal.cost, goal.limit)
        deviation = self.options.noise * self.options.decay**ahead
        actions, before = np.empty_like(uniform), np.zeros(len(uniform), dtype=np.intp)
        for step in range(self.episode.steps):
            mean = agent.act(self.episode.state(step, before, columns))
            actions[:, step] = truncated_normal(mean, deviation, uniform[:, step])
            before = self.episode.to_level(step, actions[:, step])
        return actions

    def _within(self, goal: Goal) -> Callable[[Levels], NDArray[np.bool_]]:
        """Which policies keep an episode's budget, and the study's."""
        cost, limit = self.costs[goal.cost], goal.limit * (1 + TOLERANCE)

        def within(levels: Levels) -> NDArray[np.bool_]:
            return np.asarray((cost.of_levels(levels) <= limit) & self.problem.affordable(levels))

        return within

    def _backed_off(self, levels: Levels, goal: Goal) -> Levels:
        found = back_off(self.problem.space, levels, self._within(goal))
        cheapest = self.costs[goal.cost].info.name
        return self.levels_of([self.problem.cheapest(cheapest)])[0] if found is None else found

    def _policy(self, levels: Levels) -> Policy:
        return self.problem.space.to_policies(levels)[0]

    # --- learning ---------------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        """From the trials that have finished since."""
        while self._learned < len(self.finished):
            trial = self.finished[self._learned]
            self._learned += 1
            if trial.state is TrialState.COMPLETE and self.is_of_space(trial.policy) and self.episode.steps:
                self._take_up(trial, self.levels_of([trial.policy])[0])

    def _take_up(self, trial: Trial, levels: Levels) -> None:
        goal = self.goal(max(trial.number, 1))
        cost, limit, most = self.costs[goal.cost], goal.limit, self._reach[goal.cost][1]
        spent = float(cost.of_levels(levels))
        actions = self.episode.to_actions(levels)
        if spent > limit * (1 + TOLERANCE):
            if self.options.agents == "separate" or spent > most * (1 + TOLERANCE):
                return  # no episode of this agent could have ended here
            limit = min(spent, most)  # with this budget, the same actions end there
        else:
            played = (found for found, ends in self._play(trial.number) if (ends == levels).all())
            actions = next(played, actions)
        agent = self.agents[goal.agent]
        states = self.episode.states(self.episode.to_levels(actions), self._columns(goal.cost, limit))
        agent.remember(states, actions, self.reward(trial))
        if goal.episode >= int(self.options.warmup):
            updates = round(self.options.updates * self.episode.steps)
            agent.learn(updates, self.rng(trial.number, "updates"))

    def reward(self, trial: Trial) -> float:
        """A tenth of the percentage points by which the quality is above the float model's.

        Of a metric that is minimised, per cent of the reference. Where the float model's quality is not known, the
        reference stands in: the agent centres its rewards anyway.
        """
        quality, base = self.problem.quality, self.problem.float_quality
        start = quality.reference if base is None else base
        if quality.direction is Direction.MAXIMIZE:
            whole = 100.0 if max(abs(start), abs(quality.reference)) > PERCENT_FROM else 1.0
        else:
            whole = abs(start) or 1.0
        return REWARD_PER_POINT * 100.0 * quality.sign * (trial.values[quality.name].value - start) / whole
