"""SEAM: bits as mixtures, under a limit on the cost, with a large margin between classes so that they transfer.

Tang et al., "SEAM: Searching Transferable Mixed-Precision Quantization Policy through Large Margin Regularization", ACM
MM 2023, arXiv 2302.06845. Its formulas were not at hand: loss and schedule are reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.options import check_each, parse_options
from mobo_mpq.policy import Policy
from mobo_mpq.quant.base import Role, Site, build_quantizer
from mobo_mpq.quant.functional import OFF_BITS
from mobo_mpq.quant.lsq import LsqScheme
from mobo_mpq.quant.mixture import Mixing, MixtureQuantizer
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, quantizers
from mobo_mpq.seeding import derive
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.covering import covering_within
from mobo_mpq.training.data import batch_count, device_of, passes
from mobo_mpq.training.learning import Learned, Learner, Lesson, register_learner
from mobo_mpq.training.loop import Extras, Settings, finetune
from mobo_mpq.training.recipes import calibrated
from mobo_mpq.training.sites import decisions_of, policy_of
from mobo_mpq.training.soft_costs import SoftCost
from mobo_mpq.trial import Recipe

_WEIGHT, _ACTIVATION = LsqScheme(), LsqScheme(symmetric=False, per_channel=False)


@dataclass(frozen=True, slots=True)
class Mixtures:
    """How mixtures are trained.

    Attributes:
        budget: largest cost, as a share of that of the highest bits everywhere.
        cost: which; the problem's first one when empty.
        margin: weight of the large margin between classes.
        strength: weight of the cost: of its expected excess over the budget, relative to the budget.
        reach: how far the logits of a choice can go in one training, of whatever length.
        temperature: of the softmax at the end; it falls to this from 1.
        distill: weight of the distillation from the float network.
    """

    budget: float = 0.5
    cost: str = ""
    margin: float = 0.1
    strength: float = 5.0
    reach: float = 10.0
    temperature: float = 0.1
    distill: float = 0.9

    def __post_init__(self) -> None:
        legal = {
            "budget": (0.0 < self.budget < math.inf, "a number above 0"),
            "margin": (0.0 <= self.margin < math.inf, "0 or more"),
            "strength": (0.0 <= self.strength < math.inf, "0 or more"),
            "reach": (0.0 < self.reach < math.inf, "a number above 0"),
            "temperature": (0.0 < self.temperature <= 1.0, "more than 0, at most 1"),
            "distill": (0.0 <= self.distill <= 1.0, "0 to 1"),
        }
        check_each(self, "learner 'seam'", legal)


@register_learner(Recipe("seam", epochs=2.0, options=asdict(Mixtures())))
class Seam(Learner[Mixtures]):
    """Train a network of mixtures; the policy is the most probable one within the budget."""

    def options(self, recipe: Recipe) -> Mixtures:
        """Of the mixtures."""
        return parse_options(Mixtures, recipe.options, "learner 'seam'")

    def learn(self, options: Mixtures, lesson: Lesson) -> Learned:
        """The policy, and the network as trained, every tensor at the bits that the policy gives it."""
        problem, network = lesson.problem, lesson.context.network
        cost = SoftCost(problem, options.cost, device_of(network))
        cost.check_reachable(options.budget)
        mixture, mixings = mixed(network, problem.space)
        steps = _train(mixture, mixings, cost, options, lesson)
        with torch.no_grad():
            p = [mixing.probabilities() for mixing in mixings]
            surprise = [(-(mixing.logits / mixing.temperature).log_softmax(0)).tolist() for mixing in mixings]
            expected = float(cost.expected(p))
        policy = covering_within(problem, surprise, {cost.cost.info.name: options.budget * cost.highest})
        details = {
            "cost_share": cost.cost(policy) / cost.highest,
            "expected_cost_share": expected,
            "least_certainty": min(float(one.max()) for one in p),
            "steps": float(steps),
        }
        return Learned(policy, settled(mixture, problem.space, policy).requires_grad_(False), details)


def _train(
    network: QuantizedNetwork, mixings: Sequence[Mixing], cost: SoftCost, options: Mixtures, lesson: Lesson
) -> int:
    """Calibrate, then train weights, step sizes and mixings together; returns the number of steps."""
    recipe, context = lesson.recipe, lesson.context
    calibrated(network, context)
    steps = round(recipe.epochs * batch_count(context.train, recipe.train_fraction))
    if not steps:
        return 0

    def excess(_: Tensor) -> Tensor:
        share = cost.expected([mixing.probabilities() for mixing in mixings])
        return options.strength * torch.relu(share / options.budget - 1.0)

    def anneal(step: int) -> None:
        for mixing in mixings:
            mixing.temperature = options.temperature ** (step / steps)

    rates = [(mixing.logits, options.reach / steps) for mixing in mixings]
    batches = passes(context.train, derive(lesson.seed, "batches"), recipe.train_fraction)
    settings = Settings(distill=options.distill, margin=options.margin)
    finetune(network, batches, context.loss, steps, settings, context.network, extras=Extras(rates, excess, anneal))
    return steps


def mixed(network: Network, space: SearchSpace) -> tuple[QuantizedNetwork, list[Mixing]]:
    """A network with a mixture of all choices on every tensor, to be calibrated; one mixing for each decision."""
    mixings = [Mixing(decision.choices, device_of(network)) for decision in space.decisions]
    some = [next((bits for bits in d.choices if bits not in OFF_BITS), d.choices[-1]) for d in space.decisions]
    quantized = apply_policy(network, policy_of(space, some), weight=_WEIGHT, activation=_ACTIVATION)
    for name, index in decisions_of(quantized, space).items():
        site = quantizers(quantized)[name].site
        assert site is not None, "apply_policy says where each one sits"
        quantized.set_submodule(name, _mixture(quantized, site, mixings[index]))
    return quantized, mixings


def settled(network: QuantizedNetwork, space: SearchSpace, policy: Policy) -> QuantizedNetwork:
    """A network of mixtures in which every mixture is replaced by one of its parts; changed in place."""
    for name, index in decisions_of(network, space).items():
        mixture, decision = network.get_submodule(name), space.decisions[index]
        assert isinstance(mixture, MixtureQuantizer), "made by mixed()"
        part = mixture.part(getattr(policy[decision.layers[0]], decision.role))
        network.set_submodule(name, nn.Identity() if part is None else part)
    network.meta = {**network.meta, "policy": policy}
    return network


def _mixture(network: QuantizedNetwork, site: Site, mixing: Mixing) -> MixtureQuantizer:
    """Of one tensor; calibrated where that is a weight."""
    if site.role is Role.ACTIVATION:
        parts = {bits: build_quantizer(_ACTIVATION, bits) for bits in mixing.choices}
        return MixtureQuantizer(mixing, parts, site).to(device_of(network))
    weight = tensor_of(network, site.tensor)
    parts = {bits: build_quantizer(_WEIGHT, bits, shape=weight.shape, axis=site.axis) for bits in mixing.choices}
    mixture = MixtureQuantizer(mixing, parts, site).to(weight.device)
    mixture.calibrate(weight)
    return mixture
