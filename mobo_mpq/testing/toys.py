"""Small problems whose every policy can be evaluated, so that the best hypervolume is known exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective, Direction, Measurement, ObjectiveInfo
from mobo_mpq.pareto import hypervolume, non_dominated
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import rng
from mobo_mpq.space import SearchSpace
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Trial, TrialState

MISJUDGED = 0.3
"""Standard deviation of the logarithm of what toys' sensitivities are wrong by: what a few samples leave."""


class SerialLatency:
    """A bit-serial device of 10^9 single-bit MACs per second: MACs times weight bits times activation bits."""

    name = "latency_s"
    unit = "s"

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """In seconds."""
        return layer.macs * bits.weight * bits.activation / 1e9


class WeightSize:
    """Bytes of the packed weights."""

    name = "size_bytes"
    unit = "byte"

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """In bytes."""
        return layer.num_weights * bits.weight / 8


@dataclass(frozen=True, eq=False)
class Toy:
    """A problem, and the function that a network would be.

    The quality is ``top - sum_l s_l (4^-(w_l - 2) + 4^-(a_l - 2) / 2)`` with a term for each pair of neighbouring
    layers on top: what fake quantization does to a network in the small.

    Attributes:
        problem: what a strategy sees.
        sensitivity: s, by layer: quality lost with 2-bit weights.
        interaction: share of a pair's smaller sensitivity that is lost again when both layers are low.
        top: quality without quantization.
    """

    problem: Problem
    sensitivity: Mapping[str, float]
    interaction: float = 0.3
    top: float = 0.95

    def quality(self, policy: Policy) -> float:
        """The measured objective, without noise."""
        error = {name: self.sensitivity[name] * float(sum(_fading(bits))) for name, bits in policy.items()}
        names = list(policy)
        pairs = sum(min(error[a], error[b]) for a, b in zip(names, names[1:], strict=False))
        return self.top - sum(error.values()) - self.interaction * pairs

    def measure(self, policy: Policy) -> dict[str, Measurement]:
        """All objectives of a policy."""
        quality = Measurement(self.quality(policy), 0.0)
        return {self.problem.quality.name: quality, **self.problem.cost_values(policy)}

    def trial(self, number: int, policy: Policy, state: TrialState = TrialState.COMPLETE) -> Trial:
        """A trial of a policy; with values when complete."""
        values = self.measure(policy) if state is TrialState.COMPLETE else {}
        return Trial(number, state, policy, "toy", values)

    def points(self, policies: Iterable[Policy]) -> NDArray[np.float64]:  # n x m
        """Objectives of policies, all maximised."""
        return np.array([self.problem.maximised(self.measure(policy)) for policy in policies])

    @cached_property
    def everything(self) -> list[Policy]:
        """Every legal policy within the budgets."""
        levels = self.problem.space.grid()
        return self.problem.space.to_policies(levels[self.problem.affordable(levels)])

    @cached_property
    def front(self) -> list[Policy]:
        """The exact Pareto set."""
        mask = non_dominated(self.points(self.everything))
        return [policy for policy, keep in zip(self.everything, mask, strict=True) if keep]

    @cached_property
    def best_hypervolume(self) -> float:
        """Hypervolume of the exact front: no search exceeds it."""
        return hypervolume(self.points(self.front), self.problem.reference)

    def share(self, trials: Iterable[Trial]) -> float:
        """Hypervolume of the complete trials, as a share of the best."""
        policies = [t.policy for t in trials if t.state is TrialState.COMPLETE and t.policy is not None]
        return hypervolume(self.points(policies), self.problem.reference) / self.best_hypervolume


def make_toy(
    layers: int = 6,
    *,
    weight_bits: Sequence[int] = (2, 4, 8),
    activation_bits: Sequence[int] = (8,),
    depthwise_pairs: Iterable[tuple[int, int]] | None = None,
    tie: Iterable[Sequence[str]] = (),
    size: bool = False,
    budgets: Mapping[str, float] | None = None,
    sensitivity: bool = False,
    seed: int = 0,
) -> Toy:
    """A network of random layers on a bit-serial device; by default 6 layers of 3 choices, 729 policies.

    Args:
        layers: how many; every other one is depthwise.
        weight_bits: what the device supports.
        activation_bits: what the device supports.
        depthwise_pairs: what it supports for depthwise layers, where that differs: ``{(8, 8), (32, 32)}``.
        tie: groups of layer names that share their bits; layers are called ``layer0``, ``layer1``, ...
        size: whether the size is a third objective.
        budgets: name of a cost -> its limit as a share of the cost of the highest bits.
        sensitivity: whether the problem comes with a table of them: the true ones, misjudged by :data:`MISJUDGED`.
        seed: of the layers' shapes and sensitivities.
    """
    draw = rng(seed, "toy", layers)
    specs = tuple(_layer(i, int(draw.integers(4, 17))) for i in range(layers))
    pairs = frozenset((w, a) for w in weight_bits for a in activation_bits)
    other = pairs if depthwise_pairs is None else frozenset(depthwise_pairs)
    target = HardwareTarget("toy", {OpKind.CONV: pairs, OpKind.DEPTHWISE: other}, SerialLatency())
    space = SearchSpace.from_layers(specs, target, tie=tie)
    costs = [CostObjective.from_model(model, specs, space) for model in (SerialLatency(), WeightSize())]
    highest = {cost.info.name: cost.info.reference for cost in costs}
    problem = Problem(
        specs,
        space,
        (ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.85), *(costs if size else costs[:1])),
        {name: share * highest[name] for name, share in (budgets or {}).items()},
        () if size else (costs[1],),
    )
    shares = draw.lognormal(0.0, 1.0, layers)
    truth = 0.3 * shares / shares.sum()
    if sensitivity:
        factors = rng(seed, "toy sensitivities", layers).lognormal(0.0, MISJUDGED, (layers, 2))
        problem = replace(problem, sensitivity=_losses(space, truth[:, None] * factors))
    return Toy(problem, {spec.name: float(s) for spec, s in zip(specs, truth, strict=True)})


def run_serial(strategy: Strategy, toy: Toy, trials: int, batch: int = 1) -> list[Trial]:
    """Ask, evaluate and tell until ``trials`` have finished or the strategy is exhausted."""
    finished: list[Trial] = []
    while len(finished) < trials:
        number = strategy.number
        proposals = strategy.ask(min(batch, trials - len(finished)))
        if not proposals:
            break
        told = []
        for offset, proposal in enumerate(proposals):
            assert proposal.policy is not None
            told.append(toy.trial(number + offset, proposal.policy))
        strategy.tell(told)
        finished += told
    return finished


def _layer(index: int, channels: int) -> LayerSpec:
    size = (8, 8)
    if index % 2:
        shape = (channels * 4, 1, 3, 3)
        kind, groups, inputs = OpKind.DEPTHWISE, channels * 4, channels * 4
    else:
        shape = (channels, 8, 3, 3)
        kind, groups, inputs = OpKind.CONV, 1, 8
    return LayerSpec(f"layer{index}", kind, shape, (inputs, *size), (shape[0], *size), groups=groups)


def _fading(bits: LayerBits) -> tuple[float, float]:
    """Share of a layer's sensitivity that its weights and its activations cost."""
    return 4.0 ** (2 - bits.weight), 0.5 * 4.0 ** (2 - bits.activation)


def _losses(space: SearchSpace, sizes: NDArray[np.float64]) -> NDArray[np.float64]:  # layers x 2 -> layers x options
    return sizes @ np.array([_fading(bits) for bits in space.options]).T
