"""BSQ: weights are trained as bit planes, and a group lasso makes planes vanish."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mobo_mpq.choices import Variable
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.folding import tensor_of
from mobo_mpq.options import check_each, is_whole, parse_options
from mobo_mpq.problem import Problem
from mobo_mpq.quant import functional
from mobo_mpq.quant.base import Role
from mobo_mpq.quant.bsq import BitPlanes, group_lasso, requantize
from mobo_mpq.quant.lsq import LsqQuantizer, LsqScheme
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, quantizers
from mobo_mpq.seeding import derive
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.bit_sparsity import Group, Shrinkage
from mobo_mpq.training.covering import covering
from mobo_mpq.training.data import batch_count, passes
from mobo_mpq.training.learning import Learned, Learner, Lesson, register_learner
from mobo_mpq.training.loop import Extras, Settings, cosine, finetune
from mobo_mpq.training.recipes import calibrated
from mobo_mpq.training.sites import policy_of
from mobo_mpq.trial import Recipe

LEAST_BITS, MOST_BITS = 2, 8
"""Of a quantizer; a choice above leaves a tensor in float."""


@dataclass(frozen=True, slots=True)
class Sparsity:
    """How planes are trained.

    Attributes:
        strength: of the lasso, relative to the norm of the loss's gradient; 0 leaves the bits of the start.
        weights_by: what a bit of a layer weighs in the lasso: ``size``, its number of weights, as in the paper; or
            ``cost``, what it saves of the problem's first cost; or the name of another cost.
        activation_bits: of all activations; 0 for the highest of each, up to 8.
        per_channel: ``on`` for a scale per output channel, ``off`` for one per tensor, as in the paper.
        vanish: ``on`` lets all planes of a weight vanish, as in the paper; ``off`` spares the highest ones, which its
            least choice holds anyway.
        rate: learning rate of the highest bits at its peak.
        period: epochs from one re-quantization to the next.
        final: share of the epochs that go into the fine-tune at fixed bits.
    """

    strength: float = 0.3
    weights_by: str = "cost"
    activation_bits: float = 0.0
    per_channel: str = "on"
    vanish: str = "off"
    rate: float = 0.01
    period: float = 0.5
    final: float = 0.5

    def __post_init__(self) -> None:
        legal = {
            "strength": (0.0 <= self.strength < math.inf, "0 or more"),
            "activation_bits": (is_whole(self.activation_bits, 0, MOST_BITS), f"a whole number from 0 to {MOST_BITS}"),
            "rate": (0.0 < self.rate <= 1.0, "more than 0, at most 1"),
            "period": (0.0 < self.period < math.inf, "a number above 0"),
            "final": (0.0 <= self.final < 1.0, "0 or more, below 1"),
        }
        check_each(self, "learner 'bsq'", legal)
        for name in ("per_channel", "vanish"):
            if getattr(self, name) not in ("on", "off"):
                raise UnknownName(f"value of option '{name}' of learner 'bsq'", getattr(self, name), ("on", "off"))


@register_learner(Recipe("bsq", epochs=2.0, options=asdict(Sparsity())))
class Bsq(Learner[Sparsity]):
    """Train planes, re-quantize every period, then fine-tune at the bits that are left."""

    def options(self, recipe: Recipe) -> Sparsity:
        """Of the lasso."""
        return parse_options(Sparsity, recipe.options, "learner 'bsq'")

    def learn(self, options: Sparsity, lesson: Lesson) -> Learned:
        """Bits of the weights; those of activations are given."""
        recipe, context, space = lesson.recipe, lesson.context, lesson.problem.space
        start = [_start(decision, options) for decision in space.decisions]
        network = apply_policy(
            context.network,
            policy_of(space, start),
            weight=LsqScheme(),
            activation=LsqScheme(symmetric=False, per_channel=False),
        )
        calibrated(network, context)
        groups = _split(network, lesson.problem, start, options)
        batches = passes(context.train, derive(lesson.seed, "batches"), recipe.train_fraction)
        epoch = batch_count(context.train, recipe.train_fraction)
        steps = round(recipe.epochs * epoch)
        last = round(options.final * steps)
        for part in _periods(steps - last, round(options.period * epoch)):
            if groups:
                _sparsify(network, list(groups.values()), options, lesson, itertools.islice(batches, part), part)
        details = _details(groups, steps)
        found = [groups[i].found_bits if i in groups else bits for i, bits in enumerate(start)]
        _fix(network, [max(bits, LEAST_BITS) for bits in found], space)
        if last:
            finetune(network, batches, context.loss, last, Settings(), context.network)
        return Learned(covering(space, found), network.requires_grad_(False), details)


def _start(decision: Variable, options: Sparsity) -> int:
    """Bits at the start: the highest up to 8, and of activations those asked for, or the next above.

    More than 8 are not learned: such a tensor stays in float where it has no other choice.
    """
    quantized = [bits for bits in decision.choices if bits <= MOST_BITS]
    if not quantized:
        return decision.choices[-1]
    if decision.role == "activation" and options.activation_bits:
        return next((bits for bits in quantized if bits >= options.activation_bits), quantized[-1])
    return quantized[-1]


def _split(network: QuantizedNetwork, problem: Problem, start: Sequence[int], options: Sparsity) -> dict[int, Group]:
    """Take the weights apart that have a choice; by the index of the decision."""
    weights: dict[str, int] = {}
    for index, decision in enumerate(problem.space.decisions):
        if decision.role == "weight" and sum(bits <= MOST_BITS for bits in decision.choices) > 1:
            weights |= dict.fromkeys(decision.layers, index)
    tied: dict[int, list[BitPlanes]] = {}
    for name, quantizer in quantizers(network).items():
        site = quantizer.site
        if site is None or site.role is not Role.WEIGHT or site.layers[0] not in weights:
            continue
        index = weights[site.layers[0]]
        planes = BitPlanes(start[index], site.axis if options.per_channel == "on" else None)
        planes.site = site
        planes.calibrate(tensor_of(network, site.tensor))
        network.set_submodule(name, planes)
        tied.setdefault(index, []).append(planes)
    saved = _saved(problem, start, tied, options.weights_by)
    spared = {i: problem.space.decisions[i].choices[0] - 1 if options.vanish == "off" else 0 for i in tied}
    return {index: Group(tuple(members), saved[index], spared[index]) for index, members in tied.items()}


def _saved(
    problem: Problem, start: Sequence[int], tied: Mapping[int, Sequence[BitPlanes]], by: str
) -> dict[int, float]:
    """What a bit of each decision saves, as a share of what a bit of all of them saves; costs at the bits given."""
    if by == "size":
        each = {index: float(sum(one.planes[0][0].numel() for one in members)) for index, members in tied.items()}
    else:
        cost = problem.costs[0] if by == "cost" else problem.cost(by)
        each = {}
        for index in tied:
            choices = [bits for bits in problem.space.decisions[index].choices if bits <= MOST_BITS]
            least = [*start[:index], choices[0], *start[index + 1 :]]
            ends = [cost(covering(problem.space, bits)) for bits in (start, least)]
            each[index] = max(0.0, (ends[0] - ends[1]) / (choices[-1] - choices[0]))
    total = sum(each.values())
    if tied and not total > 0.0:
        raise InputError(
            f"option 'weights_by' of learner 'bsq' is '{by}', but fewer bits of weights save none of it at these "
            "activation bits; take 'size', or fewer 'activation_bits'"
        )
    return {index: value / total for index, value in each.items()}


def _periods(steps: int, period: int) -> list[int]:
    """Lengths of the periods, as equal as they get."""
    count = min(steps, max(1, round(steps / max(period, 1))))
    return [steps * (i + 1) // count - steps * i // count for i in range(count)]


def _sparsify(
    network: QuantizedNetwork,
    groups: Sequence[Group],
    options: Sparsity,
    lesson: Lesson,
    batches: Iterator[Any],
    steps: int,
) -> None:
    """One period: train all planes, then re-quantize."""
    settings = Settings()
    shrinkage = Shrinkage(groups, options.strength, options.rate)
    extras = Extras(
        rates=[(plane, rate) for group in groups for plane, rate in group.rates(options.rate)],
        after_step=lambda done: shrinkage.step(cosine(done - 1, steps, settings.warmup)),
    )
    finetune(network, batches, lesson.context.loss, steps, settings, lesson.context.network, extras=extras)
    for group in groups:
        for planes, weight in zip(group.tied, requantize(group.tied), strict=True):
            if planes.site is not None:
                with torch.no_grad():  # what rounding would lose: where the final fine-tune starts
                    tensor_of(network, planes.site.tensor).copy_(weight)


def _fix(network: QuantizedNetwork, bits: Sequence[int], space: SearchSpace) -> None:
    """Planes become weights on an even grid of as many bits, whose step sizes are learned from now on."""
    policy = network.meta["policy"] = policy_of(space, bits)
    for name, planes in quantizers(network).items():
        if isinstance(planes, BitPlanes) and planes.site is not None:
            scheme = LsqScheme(per_channel=planes.axis is not None)
            found = policy[planes.site.layers[0]].weight
            fixed = LsqQuantizer(scheme, found, tuple(planes.scale.shape), planes.axis)
            fixed.site, fixed.calibrated = planes.site, True
            with torch.no_grad():
                weight = tensor_of(network, planes.site.tensor)
                step = functional.expand(fixed.to(weight.device).scale.copy_(planes.step), fixed.axis, weight.ndim)
                inside = step * planes.largest(len(planes.planes))
                weight.copy_(torch.minimum(torch.maximum(weight, -inside), inside))
            network.set_submodule(name, fixed)


def _details(groups: Mapping[int, Group], steps: int) -> dict[str, float]:
    """How many bits are left, of the weights that had a choice, and the lasso."""
    counts = [sum(one.planes[0][0].numel() for one in group.tied) for group in groups.values()]
    bits = [group.found_bits for group in groups.values()]
    total = sum(count * found for count, found in zip(counts, bits, strict=True))
    return {
        "steps": float(steps),
        "mean_weight_bits": total / max(sum(counts), 1),
        "vanished": float(bits.count(0)),
        "lasso": float(sum(group.weight * group_lasso(group.tied).item() for group in groups.values())),
    }
