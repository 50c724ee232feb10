"""DDQ: gates on the levels of every tensor are trained within a budget, together with levels and weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from mobo_mpq.folding import tensor_of
from mobo_mpq.options import check_each, parse_options
from mobo_mpq.quant.base import Role
from mobo_mpq.quant.ddq import DdqQuantizer, Resolution
from mobo_mpq.quant.gates import MOST_BITS, Gates
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, quantizers
from mobo_mpq.quant.uniform import UniformScheme
from mobo_mpq.seeding import derive
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.covering import covering_within
from mobo_mpq.training.data import batch_count, passes
from mobo_mpq.training.learning import Learned, Learner, Lesson, register_learner
from mobo_mpq.training.loop import Extras, Settings, finetune
from mobo_mpq.training.recipes import TrainingContext, calibrated
from mobo_mpq.training.sites import decisions_of, policy_of
from mobo_mpq.training.soft_costs import SoftCost
from mobo_mpq.trial import Recipe

_MOMENTUM, _AVERAGE, _TYPICAL = 0.9, 0.9, 0.95  # how much of the past stays at every step
_LARGEST = 3.0  # of a step's gradients, relative to what is typical
_STEEPEST = 20.0  # logarithm of the largest penalty
_ROUNDING = 1e-6  # of costs in float32
_LEFTOVER = 0.01  # what bits are worth that the search has given up, while the budget allows them


@dataclass(frozen=True, slots=True)
class DdqOptions:
    """What is asked for, and how it is trained.

    Attributes:
        budget: largest cost of the policy, as a share of that of the highest bits everywhere.
        cost: its name; the problem's first cost when empty.
        alpha: exponent of the penalty.
        gate_rate: by how much a gate of ordinary gradient moves in a step; gates start within 1 of being turned.
        search: share of the steps in which gates are trained; in the others the bits are fixed.
        levels: ``learned`` or ``uniform``.
        ranges: ``own`` or ``shared``; see :class:`~mobo_mpq.quant.ddq.Resolution`.
        level_rate: learning rate of levels, in steps of the grid.
        correction: weight of the pull of values towards their levels.
        lr: learning rate of the weights; see :class:`~mobo_mpq.training.loop.Settings`.
    """

    budget: float = 0.5
    cost: str = ""
    alpha: float = 4.0
    gate_rate: float = 0.05
    search: float = 0.6
    levels: str = "learned"
    ranges: str = "own"
    level_rate: float = 0.003
    correction: float = 0.1
    lr: float = 0.01

    def __post_init__(self) -> None:
        legal = {
            "budget": (0.0 < self.budget <= 1.0, "more than 0, at most 1"),
            "alpha": (0.0 < self.alpha < math.inf, "a number above 0"),
            "gate_rate": (0.0 <= self.gate_rate < math.inf, "0 or more"),
            "search": (0.0 <= self.search <= 1.0, "0 to 1"),
            "level_rate": (0.0 <= self.level_rate < math.inf, "0 or more"),
        }
        check_each(self, "learner 'ddq'", legal)
        self.resolution(Role.WEIGHT)
        self.settings()

    def resolution(self, role: Role) -> Resolution:
        """Of the levels of a weight or an activation."""
        return Resolution(role is Role.WEIGHT, self.levels, self.ranges, self.correction)

    def settings(self) -> Settings:
        """Of the fine-tune."""
        return Settings(lr=self.lr)


@register_learner(Recipe("ddq", epochs=1.5, options=asdict(DdqOptions())))
class Ddq(Learner[DdqOptions]):
    """Train gates, levels and weights together, fix the bits, and train on."""

    def options(self, recipe: Recipe) -> DdqOptions:
        """Of the quantizers and the budget."""
        return parse_options(DdqOptions, recipe.options, "learner 'ddq'")

    def learn(self, options: DdqOptions, lesson: Lesson) -> Learned:
        """Bits of weights and activations."""
        recipe, context, problem = lesson.recipe, lesson.context, lesson.problem
        steps = round(recipe.epochs * batch_count(context.train, recipe.train_fraction))
        soft = SoftCost(problem, options.cost, device=next(context.network.parameters()).device)
        soft.check_reachable(options.budget)
        network, gates = gated(context, problem.space, options)
        search = _Search(gates, soft, options, round(options.search * steps))
        name, limit = soft.cost.info.name, options.budget * soft.highest

        def after_step(done: int) -> None:
            if done <= search.steps:
                search.step()
            if done == search.steps:
                settle()

        def settle() -> None:
            found = covering_within(problem, search.losses(), {name: limit})
            for gate, decision in zip(gates, problem.space.decisions, strict=True):
                gate.settle(getattr(found[decision.layers[0]], decision.role))
            network.meta["policy"] = found

        if not search.steps:
            settle()
        levels = [shift for q in quantizers(network).values() if isinstance(q, DdqQuantizer) for shift in q.shifts]
        rates = [(shift, options.level_rate) for shift in levels] + [(gate.logits, 0.0) for gate in gates]
        batches = passes(context.train, derive(lesson.seed, "batches"), recipe.train_fraction)
        extras = Extras(rates, search.penalty, after_step)
        if steps:
            finetune(network, batches, context.loss, steps, options.settings(), context.network, extras=extras)
        details = {"steps": float(steps), "cost_share": soft.cost(network.policy) / soft.highest, **search.details()}
        return Learned(network.policy, network.requires_grad_(False), details)


def gated(
    context: TrainingContext, space: SearchSpace, options: DdqOptions
) -> tuple[QuantizedNetwork, tuple[Gates, ...]]:
    """A calibrated network with gates on everything that some choice quantizes, and those of every decision."""
    device = next(context.network.parameters()).device
    gates = gates_of(space, device)
    finest = [
        max((bits for bits in gate.precisions if bits <= MOST_BITS), default=gate.precisions[-1]) for gate in gates
    ]
    network = apply_policy(
        context.network,
        policy_of(space, finest),
        weight=UniformScheme(observer="minmax"),  # both are replaced at once
        activation=UniformScheme(symmetric=False, per_channel=False, observer="minmax"),
    )
    for name, index in decisions_of(network, space).items():
        plain = quantizers(network)[name]
        site, axis = plain.site, plain.axis
        weight = None if site is None or site.role is not Role.WEIGHT else tensor_of(network, site.tensor)
        shape = () if weight is None or axis is None else (weight.shape[axis],)
        role = Role.ACTIVATION if weight is None else Role.WEIGHT
        quantizer = DdqQuantizer(options.resolution(role), gates[index], shape, axis)
        quantizer.site = site
        quantizer.to(device)
        if weight is not None:
            quantizer.calibrate(weight)
        network.set_submodule(name, quantizer)
    calibrated(network, context)
    return network, gates


def gates_of(space: SearchSpace, device: torch.device) -> tuple[Gates, ...]:
    """Gates of every decision, also of those that no quantizer would bring to the device."""
    return tuple(Gates(decision.choices).to(device) for decision in space.decisions)


class _Search:
    """Moves the gates: by gradients of the loss and of the penalty, whose proportions are kept.

    Adam would give every gate the same speed, whatever it saves and whatever the loss says. Here the gradients of all
    gates together are divided by their typical size: a geometric mean, since a steep penalty spans many decades.
    """

    def __init__(self, gates: Sequence[Gates], soft: SoftCost, options: DdqOptions, steps: int) -> None:
        self.gates, self.soft, self.options, self.steps = gates, soft, options, steps
        self._free = [gate.logits for gate in gates if len(gate.precisions) > 1] if steps else []
        self._momentum = [torch.zeros_like(logits) for logits in self._free]
        self._log_size: float | None = None
        self._average = [gate.logits.detach().clone() for gate in gates]
        self._flips, self._before = 0, [gate.level for gate in gates]

    def penalty(self, loss: Tensor) -> Tensor:
        """``|loss| * ((cost / budget)^alpha - 1)`` above the budget, and 0 below.

        A power beyond ``e^20`` counts as that, and its slope as the one there: float32 has an end.
        """
        if not any(logits.requires_grad for logits in self._free):
            return loss.new_zeros(())
        share = self.soft.interpolated(torch.stack([gate.effective_bits() for gate in self.gates]))
        ratio = share / self.options.budget
        if ratio.item() <= 1.0 + _ROUNDING:
            return loss.new_zeros(())
        exponent = self.options.alpha * ratio.log()
        excess = (exponent.detach() - _STEEPEST).clamp(min=0.0)
        return loss.abs() * torch.expm1(exponent - excess)

    @torch.no_grad()
    def step(self) -> None:
        """Move every gate by its gradient."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._free]
        size = float(torch.cat(gradients).double().square().mean().sqrt()) if gradients else 0.0
        if size == 0.0:
            return
        log_size = math.log(size)
        before = log_size if self._log_size is None else self._log_size
        self._log_size = _TYPICAL * before + (1.0 - _TYPICAL) * log_size
        size = math.exp(max(self._log_size, log_size - math.log(_LARGEST)))
        for logits, momentum, gradient in zip(self._free, self._momentum, gradients, strict=True):
            momentum.lerp_(gradient / size, 1.0 - _MOMENTUM)
            logits.sub_(self.options.gate_rate * momentum).clamp_(-1.0, 1.0)
        levels = [gate.level for gate in self.gates]
        self._flips += sum(a != b for a, b in zip(levels, self._before, strict=True))
        self._before = levels
        for gate, average in zip(self.gates, self._average, strict=True):
            average.lerp_(gate.logits, 1.0 - _AVERAGE)

    def losses(self) -> list[list[float]]:
        """For each choice of each decision, what it loses: minus the logits of its gates, averaged over the last steps.

        None counts for more than those before it, without which it does nothing. Gates that are off gain a little, so
        that what is left of the budget is spent.
        """
        least = [average.cummin(0).values for average in self._average]
        worth = [torch.where(logits < 0, _LEFTOVER * (1.0 + logits), logits) for logits in least]
        return [[0.0, *(-one.cumsum(0)).tolist()] for one in worth]

    def details(self) -> dict[str, float]:
        """How restless it was."""
        return {"flips": float(self._flips)}
