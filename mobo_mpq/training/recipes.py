"""Recipes: how a policy becomes a quantized network. Each is a :class:`Method` in a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from mobo_mpq.graph import Network
from mobo_mpq.hardware import CostModel
from mobo_mpq.layers import LayerSpec
from mobo_mpq.options import parse_options
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.quant.base import Scheme
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, calibrate
from mobo_mpq.seeding import derive
from mobo_mpq.training.data import Inputs, accepted_by, device_of, to_device
from mobo_mpq.training.isolation import isolated
from mobo_mpq.training.losses import Loss
from mobo_mpq.training.plugins import Plugins
from mobo_mpq.training.probe import Probe
from mobo_mpq.trial import Recipe


@dataclass(frozen=True, eq=False)
class TrainingContext:
    """What recipes work with; the same for all trials of a study, and changed by none.

    Attributes:
        network: in float, on the device where trials run.
        train: batches with a length, ``(inputs, target)``, mappings or tensors.
        loss: of the network's output and the target.
        calibration: inputs on which the ranges of activations are chosen.
    """

    network: Network
    train: Iterable[Any]
    loss: Loss
    calibration: Sequence[Inputs]


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a recipe.

    Attributes:
        recipe: epochs, share of the data, options.
        context: float network and data.
        seed: of the trial.
        probe: looks at the network early in its fine-tune; recipes that train nothing ignore it.
        details: where the recipe writes down numbers about its training.
    """

    recipe: Recipe
    context: TrainingContext
    seed: int
    probe: Probe | None = None
    details: dict[str, float] = field(default_factory=dict)


SIZE = "size_bytes"
"""Name of the cost that counts what is stored."""

Options = TypeVar("Options")
D = TypeVar("D")


class Method(ABC, Generic[Options]):
    """What a recipe does; stateless, one for all trials. ``Options`` holds its options, parsed and checked."""

    default: ClassVar[Recipe]
    """Every option it takes, at its default."""

    adds_points: ClassVar[bool] = False
    """Whether weights may have several points per channel, which the policy file then tells."""

    @abstractmethod
    def options(self, recipe: Recipe) -> Options:
        """Parse and check a recipe's options.

        Raises:
            UnknownName: for an option that it does not take, or a word that it does not know.
            InputError: for an option of a wrong value.
        """

    @abstractmethod
    def schemes(self, options: Options) -> tuple[Scheme, Scheme]:
        """Of weights and activations."""

    def source(self, network: Network, options: Options) -> Network:
        """The float network that is quantized: ``network``, or one that computes the same."""
        return network

    def as_run(self, layer: LayerSpec, bits: LayerBits, options: Options) -> LayerSpec:
        """The layer that the device runs at these bits, and that costs are those of: ``layer``, or a larger one."""
        return layer

    def tables_bytes(self, layer: LayerSpec, bits: LayerBits, options: Options) -> float:
        """Bytes of the tables that a layer's weights are looked up in, which its size counts."""
        return 0.0

    def prepare(self, network: QuantizedNetwork, options: Options) -> None:  # noqa: B027 - most have nothing to prepare
        """Add what the state of a finished network holds beyond that of an uncalibrated one."""

    @abstractmethod
    def run(self, options: Options, job: Job, network: QuantizedNetwork) -> None:
        """Calibrate, and whatever follows.

        Args:
            options: of the recipe.
            job: what is to be done.
            network: has quantizers that are not calibrated; changed in place.
        """


METHODS: Plugins[Method[Any]] = Plugins("recipe", "mobo_mpq.training.methods")
register_recipe = METHODS.register


def parsed(options: type[D], recipe: Recipe) -> D:
    """The options of a recipe as a dataclass whose fields are numbers (``float``) and words (``str``).

    Raises:
        UnknownName: for an option that is no field.
        InputError: for a word where a number is expected, or what the dataclass refuses.
    """
    return parse_options(options, recipe.options, f"recipe '{recipe.kind}'")


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes."""
    return METHODS.names


def default_recipe(kind: str) -> Recipe:
    """A recipe with all options at their defaults.

    Raises:
        UnknownName: when there is none of that name.
    """
    return METHODS[kind].default


def trains(recipe: Recipe) -> bool:
    """Whether a recipe fine-tunes at all.

    Raises:
        UnknownName: for an unknown recipe.
    """
    return default_recipe(recipe.kind).epochs > 0 and recipe.epochs > 0


class RecipeCost:
    """A cost model of the layers as a recipe lets the device run them; called as the model is.

    Args:
        model: prices a layer.
        recipe: may make it larger.
    """

    def __init__(self, model: CostModel, recipe: Recipe) -> None:
        self.model, self.name, self.unit = model, model.name, model.unit
        self._method = METHODS[recipe.kind]
        self._options = self._method.options(recipe)

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """Cost of what the device runs in the place of a layer."""
        bits = LayerBits(*bits)
        cost = self.model.layer_cost(self._method.as_run(layer, bits, self._options), bits)
        if self.name != SIZE or not cost:  # a weight that an earlier layer stores costs nothing, tables included
            return cost
        return cost + self._method.tables_bytes(layer, bits, self._options)


def adds_points(kind: str) -> bool:
    """Whether networks of a recipe have :func:`~mobo_mpq.quant.multipoint.points_of`.

    Raises:
        UnknownName: for an unknown recipe.
    """
    return METHODS[kind].adds_points


def run_recipe(
    recipe: Recipe,
    context: TrainingContext,
    policy: Policy,
    *,
    seed: int,
    probe: Probe | None = None,
    details: dict[str, float] | None = None,
) -> QuantizedNetwork:
    """Quantize, and train where the recipe says so.

    The result depends on ``recipe``, ``context``, ``policy`` and ``seed`` alone; the global generators of torch, NumPy
    and Python are left as they were.

    Args:
        recipe: options that it does not name are at their defaults.
        context: network and data.
        policy: bits of every layer.
        seed: of the trial.
        probe: looks at the network after a quarter of its fine-tune, where there is one; what it raises is raised here.
        details: gets the numbers that the recipe tells about its training.

    Raises:
        UnknownName: for an unknown recipe, or an option that it does not take.
        InputError: for an option of a wrong value.
        PolicyError: when the policy does not fit the network.
        TrainingDiverged: when the loss is no longer finite.
    """
    check_recipe(recipe)
    method = METHODS[recipe.kind]
    with isolated(derive(seed, "recipe", recipe.kind)):
        network = apply_uncalibrated(context, policy, recipe)
        job = Job(recipe, context, seed, probe, {} if details is None else details)
        method.run(method.options(recipe), job, network)
    return network.requires_grad_(False)


def apply_uncalibrated(context: TrainingContext, policy: Policy, recipe: Recipe) -> QuantizedNetwork:
    """The network that a recipe begins with: for loading the state dict of one that it has finished.

    Raises: as :func:`run_recipe`.
    """
    method = METHODS[recipe.kind]
    options = method.options(recipe)
    weight, activation = method.schemes(options)
    network = apply_policy(method.source(context.network, options), policy, weight=weight, activation=activation)
    method.prepare(network, options)
    return network


def check_recipe(recipe: Recipe) -> None:
    """Whether a recipe can be run.

    Raises:
        UnknownName: for an unknown recipe, or an option that it does not take.
        InputError: for epochs below 0, a share of the data outside (0, 1], or an option of a wrong value.
    """
    METHODS.check(recipe)


def calibrated(network: QuantizedNetwork, context: TrainingContext) -> list[Inputs]:
    """Choose the ranges of all activations, and return the calibration data as the network takes them."""
    names, device = set(network.example[1]), device_of(network)
    batches = [to_device(accepted_by(inputs, names), device) for inputs in context.calibration]
    calibrate(network, batches)
    return batches
