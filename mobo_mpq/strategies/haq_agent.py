"""Deep deterministic policy gradients, as HAQ uses them: an actor and a critic of a few hundred units, one action.

Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016, arXiv 1509.02971, with the settings
of Wang et al., "HAQ", CVPR 2019, arXiv 1811.08886.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from mobo_mpq.arrays import Floats

HIDDEN = 300
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
BATCH = 64
EPISODES_KEPT = 64
"""HAQ keeps 128 transitions for each layer, of which each episode has two."""
SOFT_UPDATE = 0.01
DISCOUNT = 1.0
CENTRING = 0.5
"""Share of a batch in the moving average of the rewards."""


class Actor(nn.Module):
    """State -> action in (0, 1)."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(states, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )

    def forward(self, state: Tensor) -> Tensor:  # n x k -> n x 1
        """What to do."""
        return torch.sigmoid(self.layers(state))


class Critic(nn.Module):
    """State and action -> the sum of the rewards from there on."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.of_state, self.of_action = nn.Linear(states, HIDDEN), nn.Linear(1, HIDDEN)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:  # n x k, n x 1 -> n x 1
        """What it is worth."""
        value: Tensor = self.rest(self.of_state(state) + self.of_action(action))
        return value


class Ddpg:
    """One agent: its networks, what it remembers, and the mean of its rewards.

    Networks are initialised from torch's global generator: make an agent within
    :func:`~mobo_mpq.training.isolation.isolated`. Everything after that depends on what the agent is told alone.

    Args:
        states: length of a state.
        steps: transitions of an episode.
    """

    def __init__(self, states: int, steps: int) -> None:
        self.actor, self.critic = Actor(states), Critic(states)
        self.slow_actor, self.slow_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._train_actor = torch.optim.Adam(self.actor.parameters(), lr=ACTOR_RATE, fused=True)
        self._train_critic = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_RATE, fused=True)
        self._steps = steps
        self._states = np.zeros((0, steps, states), dtype=np.float32)
        self._actions = np.zeros((0, steps), dtype=np.float32)
        self._rewards = np.zeros(0, dtype=np.float32)
        self._mean: float | None = None

    @property
    def episodes(self) -> int:
        """How many it remembers."""
        return len(self._rewards)

    def act(self, states: Floats) -> Floats:  # n x k -> n
        """Actions without noise."""
        with torch.no_grad():
            actions = self.actor(torch.from_numpy(states.astype(np.float32)))
        return np.asarray(actions[:, 0].double().numpy())

    def remember(self, states: Floats, actions: Floats, reward: float) -> None:  # steps x k, steps
        """Take up an episode; every one of its transitions gets the final reward, and the oldest episode makes room."""
        self._states = np.concatenate([self._states, states[None].astype(np.float32)])[-EPISODES_KEPT:]
        self._actions = np.concatenate([self._actions, actions[None].astype(np.float32)])[-EPISODES_KEPT:]
        self._rewards = np.append(self._rewards, np.float32(reward))[-EPISODES_KEPT:]

    def learn(self, updates: int, rng: np.random.Generator) -> None:
        """Train critic and actor on random batches of transitions."""
        for _ in range(updates if self.episodes else 0):
            self._update(rng.integers(self.episodes, size=BATCH), rng.integers(self._steps, size=BATCH))

    def _update(self, episode: NDArray[np.intp], step: NDArray[np.intp]) -> None:
        last = step == self._steps - 1
        state, following = (
            torch.from_numpy(self._states[episode, at]) for at in (step, np.minimum(step + 1, self._steps - 1))
        )
        action = torch.from_numpy(self._actions[episode, step])[:, None]
        goes_on = torch.from_numpy(np.where(last, np.float32(0.0), np.float32(DISCOUNT)))[:, None]
        reward = torch.from_numpy(self._centred(self._rewards[episode]))[:, None]
        with torch.no_grad():
            wanted = reward + goes_on * self.slow_critic(following, self.slow_actor(following))
        self._train_critic.zero_grad()
        nn.functional.mse_loss(self.critic(state, action), wanted).backward()
        self._train_critic.step()
        self.critic.requires_grad_(False)
        self._train_actor.zero_grad()
        (-self.critic(state, self.actor(state)).mean()).backward()
        self._train_actor.step()
        self.critic.requires_grad_(True)
        self._follow()

    def _centred(self, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        mean = float(rewards.mean())
        self._mean = mean if self._mean is None else self._mean + CENTRING * (mean - self._mean)
        return np.asarray(rewards - np.float32(self._mean))

    @torch.no_grad()
    def _follow(self) -> None:
        for slow, fast in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), SOFT_UPDATE)


def truncated_normal(mean: Floats, deviation: float, uniform: Floats) -> Floats:
    """Normal noise around an action, cut off at 0 and 1, from uniform numbers in [0, 1): no generator is involved."""
    if deviation <= 0.0:
        return np.clip(mean, 0.0, 1.0)
    low, high = (0.0 - mean) / deviation, (1.0 - mean) / deviation
    mass = ndtr(high) - ndtr(low)
    below, above = ndtr(low) + uniform * mass, ndtr(-high) + (1.0 - uniform) * mass
    place = np.where(below < 0.5, ndtri(below), -ndtri(above))  # each from its own tail: the other has no digits there
    return np.asarray(np.clip(mean + deviation * place, 0.0, 1.0))
