"""The agent learns: a bandit, a choice that only the state tells, and the value of what comes after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm

from mobo_mpq.seeding import rng
from mobo_mpq.strategies.haq_agent import BATCH, EPISODES_KEPT, Ddpg, truncated_normal
from mobo_mpq.training.isolation import isolated


def made(states: int, steps: int) -> Ddpg:
    with isolated(0, threads=1):
        return Ddpg(states, steps)


def test_it_learns_a_bandit_whose_best_arm_depends_on_the_state() -> None:
    agent, wanted = made(1, 1), {0.0: 0.2, 1.0: 0.8}
    states = np.array([[0.0], [1.0]])
    start = agent.act(states)
    assert np.abs(start - 0.5).max() < 0.2, "an agent that was told nothing has no opinion"
    for episode in range(60):
        state = float(episode % 2)
        action = rng(0, "bandit", episode).random(1)
        agent.remember(np.array([[state]]), action, -10.0 * (action[0] - wanted[state]) ** 2)
        agent.learn(8, rng(0, "updates", episode))
    assert agent.act(states) == pytest.approx([0.2, 0.8], abs=0.1)


def test_rewards_of_the_steps_that_follow_add_up() -> None:
    agent = made(2, 3)
    states = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    for reward in (1.0, 3.0):  # centred: -1 and 1
        agent.remember(states, np.full(3, reward / 4), reward)
    agent.learn(700, rng(0, "updates"))
    with torch.no_grad():
        values = agent.critic(torch.from_numpy(states.astype(np.float32)), torch.full((3, 1), 0.75))[:, 0].tolist()
    later = agent.act(states)[1:]
    assert values[2] == pytest.approx(1.0, abs=0.2), "the last step has its own reward alone"
    assert later.min() > 0.75, "more is better"
    assert values[1] > 1.6 and values[0] > values[1] + 0.5


def test_it_depends_on_what_it_is_told_alone() -> None:
    def trained() -> np.ndarray:
        agent = made(3, 2)
        for episode in range(4):
            draw = rng(1, episode)
            agent.remember(draw.random((2, 3)), draw.random(2), float(draw.random()))
            agent.learn(3, rng(1, "updates", episode))
        return agent.act(np.ones((1, 3)))

    torch.manual_seed(1)
    first = trained()
    before = torch.get_rng_state()
    torch.rand(7)
    np.random.default_rng(3).random(3)
    assert (trained() == first).all()
    torch.manual_seed(1)
    trained()
    assert (torch.get_rng_state() == before).all()


def test_the_oldest_episode_makes_room() -> None:
    agent = made(1, 2)
    agent.learn(5, rng(0))  # nothing is known, so nothing is learned
    for episode in range(EPISODES_KEPT + 3):
        agent.remember(np.zeros((2, 1)), np.zeros(2), float(episode))
    assert agent.episodes == EPISODES_KEPT
    assert agent._rewards.tolist() == list(range(3, EPISODES_KEPT + 3))


def test_rewards_are_centred_by_a_moving_average() -> None:
    agent = made(1, 1)
    first, second = (np.full(BATCH, value, dtype=np.float32) for value in (4.0, 8.0))
    assert agent._centred(first).tolist() == [0.0] * BATCH
    assert agent._centred(second).tolist() == [2.0] * BATCH  # half of the way from 4 to 8


@settings(deadline=None)
@given(mean=st.floats(0.0, 1.0), deviation=st.floats(0.01, 2.0))
@example(mean=0.0, deviation=0.125)  # the upper end is eight deviations away
@example(mean=0.5, deviation=0.0625)
def test_noise_is_a_truncated_normal(mean: float, deviation: float) -> None:
    uniform = np.linspace(0.0, 1.0, 11)
    low, high = (0.0 - mean) / deviation, (1.0 - mean) / deviation
    expected = truncnorm.ppf(uniform, low, high, loc=mean, scale=deviation)
    found = truncated_normal(np.full(11, mean), deviation, uniform)
    assert found == pytest.approx(expected, abs=1e-7)
    assert found.min() >= 0.0 and found.max() <= 1.0


def test_without_deviation_there_is_no_noise() -> None:
    assert truncated_normal(np.array([0.3, 1.0]), 0.0, np.array([0.1, 0.9])).tolist() == [0.3, 1.0]
