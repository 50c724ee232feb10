"""Recipes: how a policy becomes a quantized network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.quant.base import Scheme
from mobo_mpq.quant.lsq import LsqScheme
from mobo_mpq.quant.transform import ACTIVATION, WEIGHT, QuantizedNetwork, apply_policy, calibrate
from mobo_mpq.seeding import derive
from mobo_mpq.training.data import Inputs, accepted_by, batch_count, device_of, passes, to_device
from mobo_mpq.training.isolation import isolated
from mobo_mpq.training.loop import Settings, finetune
from mobo_mpq.training.losses import Loss
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


Run = Callable[[Recipe, TrainingContext, QuantizedNetwork, int, Probe | None], None]
"""What a recipe does to a network that has quantizers but is not calibrated.

The last arguments are the trial's seed, and a probe for its fine-tune; recipes that train nothing ignore it.
"""


@dataclass(frozen=True)
class _Entry:
    run: Run
    default: Recipe
    weight: Scheme
    activation: Scheme


_RECIPES: dict[str, _Entry] = {}


def register_recipe(default: Recipe, *, weight: Scheme, activation: Scheme) -> Callable[[Run], Run]:
    """Make a recipe known by ``default.kind``.

    Args:
        default: every option it takes, at its default.
        weight: scheme of the weights.
        activation: scheme of the activations.
    """

    def register(run: Run) -> Run:
        _RECIPES[default.kind] = _Entry(run, default, weight, activation)
        return run

    return register


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes."""
    return tuple(sorted(_RECIPES))


def default_recipe(kind: str) -> Recipe:
    """A recipe with all options at their defaults.

    Raises:
        UnknownName: when there is none of that name.
    """
    return _entry(kind).default


def trains(recipe: Recipe) -> bool:
    """Whether a recipe fine-tunes at all.

    Raises:
        UnknownName: for an unknown recipe.
    """
    return default_recipe(recipe.kind).epochs > 0 and recipe.epochs > 0


def run_recipe(
    recipe: Recipe, context: TrainingContext, policy: Policy, *, seed: int, probe: Probe | None = None
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

    Raises:
        UnknownName: for an unknown recipe, or an option that it does not take.
        InputError: for an option of a wrong value.
        PolicyError: when the policy does not fit the network.
        TrainingDiverged: when the loss is no longer finite.
    """
    check_recipe(recipe)
    with isolated(derive(seed, "recipe", recipe.kind)):
        network = apply_uncalibrated(context, policy, recipe)
        _entry(recipe.kind).run(recipe, context, network, seed, probe)
    return network.requires_grad_(False)


def apply_uncalibrated(context: TrainingContext, policy: Policy, recipe: Recipe) -> QuantizedNetwork:
    """The network that a recipe begins with: for loading the state dict of one that it has finished.

    Raises: as :func:`run_recipe`.
    """
    entry = _entry(recipe.kind)
    return apply_policy(context.network, policy, weight=entry.weight, activation=entry.activation)


def check_recipe(recipe: Recipe) -> None:
    """Whether a recipe can be run.

    Raises:
        UnknownName: for an unknown recipe, or an option that it does not take.
        InputError: for epochs below 0, or a share of the data outside (0, 1].
    """
    known = _entry(recipe.kind).default.options
    for option in recipe.options:
        if option not in known:
            raise UnknownName(f"option of recipe '{recipe.kind}'", option, known)
    if not 0.0 <= recipe.epochs < float("inf"):
        raise InputError(f"recipe '{recipe.kind}' has epochs {recipe.epochs!r}; expected 0 or more")
    if not 0.0 < recipe.train_fraction <= 1.0:
        raise InputError(
            f"recipe '{recipe.kind}' has train_fraction {recipe.train_fraction!r}; expected more than 0, at most 1"
        )


def _entry(kind: str) -> _Entry:
    if kind not in _RECIPES:
        raise UnknownName("recipe", kind, _RECIPES)
    return _RECIPES[kind]


def _calibrate(context: TrainingContext, network: QuantizedNetwork) -> None:
    names, device = set(network.example[1]), device_of(network)
    calibrate(network, (to_device(accepted_by(inputs, names), device) for inputs in context.calibration))


@register_recipe(Recipe("ptq"), weight=WEIGHT, activation=ACTIVATION)
def ptq(
    recipe: Recipe, context: TrainingContext, network: QuantizedNetwork, seed: int, probe: Probe | None = None
) -> None:
    """Post-training quantization: ranges of least squared error, nothing trained."""
    _calibrate(context, network)


@register_recipe(
    Recipe("qat", epochs=1.5, options=asdict(Settings())),
    weight=LsqScheme(),
    activation=LsqScheme(symmetric=False, per_channel=False),
)
def qat(
    recipe: Recipe, context: TrainingContext, network: QuantizedNetwork, seed: int, probe: Probe | None = None
) -> None:
    """Quantization-aware training: starts from what ``ptq`` gives, then learns weights and step sizes (LSQ)."""
    settings = _settings(recipe)
    _calibrate(context, network)
    steps = round(recipe.epochs * batch_count(context.train, recipe.train_fraction))
    if steps:
        batches = passes(context.train, derive(seed, "batches"), recipe.train_fraction)
        finetune(network, batches, context.loss, steps, settings, context.network, probe)


def _settings(recipe: Recipe) -> Settings:
    values: dict[str, float] = {}
    for name, value in recipe.options.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            raise InputError(f"option '{name}' of recipe '{recipe.kind}' is {value!r}; expected a number") from None
    return Settings(**values)
