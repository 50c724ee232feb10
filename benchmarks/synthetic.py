"""A mixed-precision problem in closed form, at any size: its true loss and its best hypervolume are known.

What fake quantization does to a network, in numbers: every layer loses in proportion to its sensitivity, with a decay
near but not at a factor of 4 per bit; pairs of layers interact; the sum saturates; the latency is a roofline. The
non-additive variant has uneven decays, 2.5 times the interactions on twice the pairs, and cliffs at 3 bits and fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Floats
from mobo_mpq.objective import Direction, Measurement, ObjectiveInfo
from mobo_mpq.pareto import hypervolume
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem

Bits = NDArray[np.int64]

BITS = np.arange(2, 9)
TOTAL = 40.0
"""Points lost, before saturation, when every layer has 2 bits; the measured sensitivities sum to it too."""
SATURATION = 70.0
WORST_LOSS = 10.0
WORST_LATENCY = 1.0
"""That of 8 bits everywhere."""


@dataclass(frozen=True, eq=False)
class Synthetic:
    """One random network; make it with :func:`make_synthetic`.

    Attributes:
        seed: that drew it.
        noise: standard deviation of a measured loss, in points.
        sensitivity: ``layers``, points lost at 2 bits.
        estimate: ``layers``, the sensitivities as an imperfect measurement shows them.
        decay: ``layers``, a layer's loss falls as ``4^-(decay (b - 2))``.
        cliff: ``layers``, the share of half the sensitivity that is lost at once at 3 bits and fewer.
        pairs: ``2 x interactions``, the layers that interact.
        strength: ``interactions``.
        latency_table: ``layers x bits``, as a share of the latency of 8 bits everywhere.
    """

    seed: int
    noise: float
    sensitivity: Floats
    estimate: Floats
    decay: Floats
    cliff: Floats
    pairs: Bits
    strength: Floats
    latency_table: Floats

    # --- one policy, or many ----------------------------------------------------------------------------------------

    def unsaturated_loss(self, bits: Bits) -> Floats:  # n x layers -> n
        """Points lost before saturation; negative where interactions help."""
        above = bits - 2.0
        error = 4.0 ** (-self.decay * above)
        step = 2.0 ** (-above)
        i, j = self.pairs
        together = step[:, i] * step[:, j] * (error[:, i] * error[:, j]) ** 0.25
        scale = self.strength * np.sqrt(self.sensitivity[i] * self.sensitivity[j])
        fallen = self.cliff * self.sensitivity * 0.5 * (bits <= 3)
        return np.asarray((self.sensitivity * error).sum(-1) + fallen.sum(-1) + (scale * together).sum(-1))

    def loss(self, bits: Bits) -> Floats:  # n x layers -> n
        """True loss, in points."""
        return np.asarray(SATURATION * (1 - np.exp(-np.maximum(self.unsaturated_loss(bits), 0) / SATURATION)))

    def latency(self, bits: Bits) -> Floats:  # n x layers -> n
        """As a share of the latency of 8 bits everywhere."""
        return np.asarray(self.latency_table[np.arange(len(self.sensitivity)), bits - BITS[0]].sum(-1))

    def hypervolume(self, bits: Bits) -> float:  # n x layers -> ()
        """Of the true losses and latencies of policies."""
        points = np.stack([-self.loss(bits), -self.latency(bits)], axis=1)
        return hypervolume(points, [-WORST_LOSS, -WORST_LATENCY])

    # --- what a search is given -------------------------------------------------------------------------------------

    def problem(self, with_sensitivity: bool = True) -> Problem:
        """What a strategy may know."""
        decay = 4.0 ** -(BITS - 2.0)
        return Problem.from_tables(
            [f"layer{i}" for i in range(len(self.sensitivity))],
            weight_bits=BITS.tolist(),
            activation_bits=(8,),
            costs={"latency_s": self.latency_table},
            references={"latency_s": WORST_LATENCY},
            quality=ObjectiveInfo("loss", "points", Direction.MINIMIZE, WORST_LOSS),
            sensitivity=self.estimate[:, None] * decay if with_sensitivity else None,
        )

    def evaluate(self, policy: Policy, rng: np.random.Generator) -> Measurement:
        """The loss with noise: the one thing that costs an evaluation."""
        return Measurement(float(self.loss(weight_bits([policy]))[0] + self.noise * rng.standard_normal()))

    def true_hypervolume(self, policies: Sequence[Policy]) -> float:
        """Of the true losses of the policies: noise makes no front better."""
        return self.hypervolume(weight_bits(policies))

    # --- what is possible -------------------------------------------------------------------------------------------

    def proxy_front(self, k: int) -> Bits:  # -> at most k x layers
        """The front of the measured sensitivities, thinned evenly along the latency, then filled up at random."""
        decay = 4.0 ** -(BITS - 2.0)
        table = self.estimate[:, None] * decay
        weights = np.logspace(-2.5, 4.5, 600)
        swept = np.array([BITS[(table + weight * self.latency_table).argmin(1)] for weight in weights])
        front = np.unique(swept, axis=0)
        front = front[(self.estimate * 4.0 ** -(front - 2.0)).sum(1) < 1.2 * WORST_LOSS]
        latency = self.latency(front)
        order = np.argsort(latency)
        front, latency = front[order], latency[order]
        targets = np.linspace(latency[0], latency[-1], k)
        spread = np.unique([np.abs(latency - target).argmin() for target in targets])
        rest = np.setdiff1d(np.arange(len(front)), spread).tolist()
        np.random.default_rng(self.seed).shuffle(rest)
        chosen = [*spread.tolist(), *rest[: max(0, k - len(spread))]]
        return np.asarray(front[chosen[:k]])

    def best_hypervolume(self, steps: int = 60) -> float:
        """The best known: descents on weighted sums of the true objectives, and one move around where they end."""
        ends: list[Bits] = []
        for weight in np.logspace(-1.5, 4.5, 160):
            start = ends[-1] if ends else self.proxy_front(1)[0]
            ends.append(self._descend(start, float(weight), steps))
        policies = [np.array(ends)]
        diagonal = np.eye(len(self.sensitivity), dtype=np.int64)
        for end in np.unique(ends, axis=0):
            policies += [np.minimum(end + diagonal, BITS[-1]), np.maximum(end - diagonal, BITS[0])]
        return self.hypervolume(np.unique(np.concatenate(policies), axis=0))

    def _descend(self, bits: Bits, weight: float, steps: int) -> Bits:
        """Single moves, the best one each time, until none helps."""
        layers = len(self.sensitivity)
        layer, choice = np.repeat(np.arange(layers), len(BITS)), np.tile(BITS, layers)
        value = self._weighted(bits[None], weight)[0]
        for _ in range(steps):
            moved = np.repeat(bits[None], len(layer), axis=0)
            moved[np.arange(len(layer)), layer] = choice
            values = self._weighted(moved, weight)
            best = int(values.argmin())
            if values[best] >= value - 1e-12:
                break
            bits, value = moved[best], values[best]
        return bits

    def _weighted(self, bits: Bits, weight: float) -> Floats:
        return np.asarray(self.unsaturated_loss(bits) + weight * self.latency(bits))


def make_synthetic(
    layers: int, seed: int, *, noise: float = 0.3, proxy_noise: float = 0.6, hard: bool = False
) -> Synthetic:
    """Draw a network.

    Args:
        layers: how many.
        seed: of the network.
        noise: standard deviation of a measured loss, in points.
        proxy_noise: standard deviation of the logarithm of the measured sensitivities; 1.2 makes bad ones.
        hard: whether it is the non-additive variant.
    """
    draw = np.random.default_rng(10_000 + seed * 997 + layers)
    share = draw.lognormal(0, 1.0, layers)
    share[[0, -1]] *= 4
    sensitivity = TOTAL * share / share.sum()
    decay = draw.uniform(0.75, 1.1, layers)
    first = np.r_[np.arange(layers - 1), draw.integers(0, layers, layers // 2)]
    second = np.r_[np.arange(1, layers), draw.integers(0, layers, layers // 2)]
    if hard:
        decay = draw.uniform(0.4, 1.3, layers)
        first = np.r_[first, draw.integers(0, layers, layers)]
        second = np.r_[second, draw.integers(0, layers, layers)]
    cliff = np.where(draw.random(layers) < 0.15, 1.5, 0.0) if hard else np.zeros(layers)
    strength = np.clip(draw.normal(0.25, 0.4, len(first)), -0.4, 1.2) * (2.5 if hard else 1.0)
    strength[first == second] = 0
    estimate = sensitivity * np.exp(draw.normal(0, proxy_noise, layers))
    estimate *= TOTAL / estimate.sum()
    pairs = np.stack([first, second])
    return Synthetic(seed, noise, sensitivity, estimate, decay, cliff, pairs, strength, _latency_table(layers, draw))


def weight_bits(policies: Sequence[Policy]) -> Bits:  # n -> n x layers
    """Weight bits by layer."""
    return np.array([[bits.weight for bits in policy.values()] for policy in policies], dtype=np.int64)


def _latency_table(layers: int, draw: np.random.Generator) -> Floats:  # layers x bits
    """A roofline: each layer takes the longer of its arithmetic and its memory traffic."""
    macs, weights, inputs = (draw.lognormal(0, spread, layers) for spread in (0.8, 1.2, 0.8))
    arithmetic = macs[:, None] * (BITS / 8)
    traffic = 0.6 * (weights[:, None] * (BITS / 8) + 0.5 * inputs[:, None])
    table = np.maximum(arithmetic, traffic) + 0.02
    return np.asarray(table / table[:, -1].sum())
