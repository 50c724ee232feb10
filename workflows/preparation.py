"""From a study file to everything that a search needs, checked before the first trial."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mobo_mpq import __version__
from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InfeasibleBudget, InputError, PolicyError
from mobo_mpq.graph import Network, capture, model_digest, save_program
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.journal import SCHEMA, measurement_to_list
from mobo_mpq.objective import CostObjective, Measurement, Objective
from mobo_mpq.objectives.costs import COSTS, cost_model
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.quality import quality_info
from mobo_mpq.objectives.tasks import LoadedTask, load_task
from mobo_mpq.policy import LayerBits
from mobo_mpq.problem import Problem
from mobo_mpq.quant.functional import check_bits
from mobo_mpq.sensitivity import about_kind
from mobo_mpq.space import SearchSpace
from mobo_mpq.strategies.registry import check_strategy, learns
from mobo_mpq.training.data import share
from mobo_mpq.training.recipes import RecipeCost, check_recipe, default_recipe, recipe_names, trains
from mobo_mpq.training.subsets import subset
from mobo_mpq.trial import Recipe
from mobo_mpq.workflows.evaluation import Work
from mobo_mpq.workflows.sensitivities import Sensitivities

_COST_WORDS = {"latency_s": "latency", "energy_j": "energy", "size_bytes": "size", "bops": "bops"}


@dataclass(frozen=True)
class Prepared:
    """A search, ready to run.

    Attributes:
        config: the resolved study file.
        task: quality and data.
        target: the device.
        network: traced, in float, batch norms folded.
        problem: what strategies see.
        work: what workers need.
        digest: of the float model's weights.
        baseline: split -> name -> value of the float model.
        sensitivities: of the layers, where the strategy uses them.
        proxy: the search on a proxy that comes before, or that learners learn on, where there is one.
        proxy_of: the study that this one is the proxy of.
    """

    config: StudyConfig
    task: LoadedTask
    target: HardwareTarget
    network: Network
    problem: Problem
    work: Work
    digest: str
    baseline: dict[str, dict[str, Measurement]]
    sensitivities: Sensitivities | None = None
    proxy: Prepared | None = None
    proxy_of: str | None = None

    @property
    def transfers(self) -> bool:
        """Whether policies come from a study of their own, on the proxy."""
        return self.proxy is not None and not learns(self.config.strategy)

    @property
    def searched_on(self) -> LoadedTask:
        """The task, with the share of its training data that trials see."""
        return replace(self.task, train=subset(self.task.train, self.work.train_fraction, self.work.seed))

    def knowing(self, sensitivities: Sensitivities | None) -> Prepared:
        """The same search, with sensitivities."""
        values = None if sensitivities is None else sensitivities.table.values
        return replace(self, problem=replace(self.problem, sensitivity=values), sensitivities=sensitivities)

    def taken_up(self, known: Mapping[str, Any]) -> Prepared:
        """The same with the sensitivities that its study began with, by the journal's first line.

        Raises:
            PolicyError: the float model has changed.
        """
        _check_weights(self.digest, self.task, known)
        table = known.get("sensitivity")
        return self.knowing(Sensitivities.from_dict(table, self.problem.space)) if table else self

    def for_study(self, config: StudyConfig) -> Prepared:
        """The same for a study of another name, strategy, seed or number of trials."""
        return replace(self, config=config, work=replace(self.work, seed=config.seed))

    def header(self) -> dict[str, Any]:
        """The fields of the journal's first line."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "task": self.task.address,
            "target": self.target.name,
            "trials": self.config.trials,
            "strategy": {"name": self.config.strategy, "options": dict(self.config.strategy_options)},
            "objectives": [{**asdict(info), "direction": str(info.direction)} for info in self.problem.infos],
            "layers": [{**asdict(layer), "kind": str(layer.kind)} for layer in self.network.layers],
            "float_layers": [str(entry) for entry in self.network.unquantized],
            "storage": asdict(self.target.storage),
            "recipe": {"name": self.work.recipe.kind, "options": dict(self.work.recipe.options)},
            "model_digest": self.digest,
            "data": dict(self.task.manifest),
            "float": {
                split: {name: measurement_to_list(value) for name, value in values.items()}
                for split, values in self.baseline.items()
            },
            **({"sensitivity": self.sensitivities.to_dict()} if self.sensitivities else {}),
            **({"proxy_study": self.proxy.config.name} if self.proxy is not None and self.transfers else {}),
            **({"proxy_of": self.proxy_of} if self.proxy_of else {}),
        }


def resolve(config: StudyConfig) -> StudyConfig:
    """Fill in what depends on where the command runs: the study's name, and paths that a resume will need.

    Raises:
        UnknownName: the strategy, the recipe, an option of either, a kind of sensitivity, or an objective does not
            exist.
        InputError: an option has a wrong value, or there is no fine-tune on a proxy that could have epochs of its own.
    """
    check_strategy(config.strategy, config.strategy_options)
    check_recipe(study_recipe(config))
    _check_proxy_epochs(config)
    if config.sensitivity_kind is not None:
        about_kind(config.sensitivity_kind)  # unknown ones are refused now
    target = config.target
    if target.endswith((".toml", ".csv")):
        target = str(Path(target).expanduser().resolve())
    task, device = load_task(config.task), load_target(target)
    name = config.name or re.sub(r"[^A-Za-z0-9._-]+", "-", f"{task.name}-{device.name}").strip("-._")
    # A task's full address finds it from any folder; a built-in one keeps its short name.
    address = config.task if config.task == task.name else task.address
    resolved = {**config.model_dump(by_alias=True), "name": name, "task": address, "target": target}
    if config.proxy_task is not None:
        proxy = load_task(config.proxy_task)
        resolved["proxy_task"] = config.proxy_task if config.proxy_task == proxy.name else proxy.address
    return StudyConfig.parse(resolved | _default_bits(config, device))


def _check_proxy_epochs(config: StudyConfig) -> None:
    """Whether epochs for fine-tunes on a proxy have an effect, where they are given."""
    if config.proxy_epochs is None:
        return
    recipe, unused = _proxy_recipe(config), ""
    if not config.has_proxy:
        unused = "there is no proxy; leave it out, or search on one with --proxy-fraction or --proxy-task"
    elif learns(config.strategy):
        unused = (
            f"strategy '{config.strategy}' fine-tunes nothing on the proxy, it learns there; leave it out, or set the "
            "epochs of the learner in [strategy_options]"
        )
    elif not trains(recipe):
        unused = f"recipe '{config.recipe}' has no fine-tune; leave it out, or take --recipe qat"
    if unused:
        raise InputError(f"--proxy-epochs is {config.proxy_epochs:g}, but {unused}")
    check_recipe(recipe)


def _proxy_recipe(config: StudyConfig) -> Recipe:
    """How policies become networks in a search on a proxy."""
    recipe = study_recipe(config)
    return recipe if config.proxy_epochs is None else replace(recipe, epochs=config.proxy_epochs)


def _default_bits(config: StudyConfig, target: HardwareTarget) -> dict[str, tuple[int, ...]]:
    """Where the user names no bits: those of the default that the target supports, or else all that it does."""
    bits = {}
    for column, field in enumerate(("weight_bits", "activation_bits")):
        if field not in config.model_fields_set:
            supported = {pair[column] for pairs in target.bit_pairs.values() for pair in pairs}
            bits[field] = tuple(sorted(supported & set(getattr(config, field)) or supported))
    return bits


def prepare(config: StudyConfig, known: Mapping[str, Any] | None = None) -> Prepared:
    """Load, trace and price; measure the float model.

    Args:
        config: resolved.
        known: the journal's first line, when a study is taken up again: neither the float model
            nor its sensitivities are measured anew.

    Raises:
        InputError: anything that the user can mend.
    """
    if known is not None and known.get("proxy_of"):  # prepared as it was: from the study that it is the proxy of
        found = prepare(config.model_copy(update={"name": known["proxy_of"]})).proxy
        assert found is not None, "its study file says so"
        return found.taken_up(known)
    task, target = load_task(config.task), load_target(config.target)
    model = task.model()
    digest = model_digest(model)
    if known is not None:
        _check_weights(digest, task, known)  # before anything else, which takes time
    for bits in sorted({*config.weight_bits, *config.activation_bits, *itertools.chain(*config.pins.values())}):
        check_bits(bits)  # a target may price what no quantizer makes
    program = capture(model, task.example)
    network = Network.from_program(program)
    space = space_of(config, network, target)
    baseline = _baseline(task, model, network, target) if known is None else _read_baseline(known)
    problem = _problem(config, task, target, network, space, baseline["val"][task.metric_name].value)
    work = Work(
        task=config.task,
        program=save_program(program),
        recipe=study_recipe(config),
        train=share(task.train),
        val=share(task.val),
        seed=config.seed,
        gpus=config.gpus_per_trial,
        futility=config.futility,
        problem=problem,
    )
    prepared = Prepared(config, task, target, network, problem, work, digest, baseline)
    if config.has_proxy:
        prepared = _with_proxy(prepared)
    return prepared if known is None else prepared.taken_up(known)


def _check_weights(digest: str, task: LoadedTask, known: Mapping[str, Any]) -> None:
    if known["model_digest"] != digest:
        raise PolicyError(
            f"the model of task '{task.address}' has other weights than when study '{known['name']}' began; "
            "bring the old ones back, or begin a new study with another --name"
        )


def _with_proxy(prepared: Prepared) -> Prepared:
    """The same, and before it the search on the proxy: its data, its network, its quality, but the costs of this one.

    Raises:
        InputError: the networks of the two tasks have different layers.
    """
    config, problem = prepared.config, prepared.problem
    proxy = prepared
    if config.proxy_task is not None:
        alone = {"task": config.proxy_task, "proxy_task": None, "proxy_fraction": 1.0, "budget": ()}
        alone |= {"worst_quality": None}  # which is in the unit of the task's own metric
        proxy = prepare(config.model_copy(update=alone))
        _check_same_layers(prepared, proxy)
    shared = replace(
        problem,
        objectives=tuple(o if isinstance(o, CostObjective) else proxy.problem.quality for o in problem.objectives),
        float_quality=proxy.problem.float_quality,
    )
    fraction, recipe = config.proxy_fraction, _proxy_recipe(config)
    work = replace(proxy.work, problem=shared, train_fraction=fraction, recipe=recipe)
    own = config.model_copy(update={"name": f"{config.name}-proxy"})
    proxy = replace(proxy, config=own, problem=shared, work=work, proxy_of=config.name)
    learned_on = work if learns(config.strategy) else None
    return replace(prepared, proxy=proxy, work=replace(prepared.work, proxy=learned_on))


def _check_same_layers(prepared: Prepared, proxy: Prepared) -> None:
    mine, theirs = (
        [(layer.name, layer.kind, layer.weight_tie, layer.activation_tie) for layer in one.network.layers]
        for one in (prepared, proxy)
    )
    different = next((a or b for a, b in itertools.zip_longest(mine, theirs) if a != b), None)
    if different is not None:
        raise InputError(
            f"proxy task '{proxy.config.task}' has a network of other layers than task '{prepared.config.task}': they "
            f"differ at '{different[0]}'; expected the same names, kinds and ties, so that a policy of one is a policy "
            "of the other"
        )


def space_of(config: StudyConfig, network: Network, target: HardwareTarget) -> SearchSpace:
    """The policies that are legal on the target, with the bits, pins and ties of a study file."""
    return SearchSpace.from_layers(
        network.layers,
        target,
        weight_bits=config.weight_bits,
        activation_bits=config.activation_bits,
        pin=config.pins,
        tie=config.ties,
    )


def study_recipe(config: StudyConfig) -> Recipe:
    """The recipe's defaults, under what the study file changes.

    Raises:
        UnknownName: there is no such recipe.
        InputError: it does not fine-tune in a precision that could be chosen, and one is given.
    """
    default = default_recipe(config.recipe)
    given = {"precision": config.precision, "loss_scaling": config.loss_scaling}
    chosen = {name: word for name, word in given.items() if word is not None}
    for name, word in chosen.items():
        if name not in default.options:
            able = [f"'{kind}'" for kind in recipe_names() if name in default_recipe(kind).options]
            raise InputError(
                f"--{name.replace('_', '-')} is '{word}', but recipe '{default.kind}' has no fine-tune whose "
                f"arithmetic could be chosen; leave it out, or take --recipe {' or '.join(able)}"
            )
    return Recipe(
        kind=default.kind,
        epochs=default.epochs if config.epochs is None else config.epochs,
        train_fraction=default.train_fraction,
        options={**default.options, **config.recipe_options, **chosen},
    )


def _problem(
    config: StudyConfig,
    task: LoadedTask,
    target: HardwareTarget,
    network: Network,
    space: SearchSpace,
    float_value: float,
) -> Problem:
    def cost(word: str) -> CostObjective:
        model = RecipeCost(cost_model(word, target, network.layers), recipe)
        return CostObjective.from_model(model, network.layers, space)

    recipe = study_recipe(config)
    budgets = config.budgets
    extra = [_COST_WORDS[name] for name in budgets if _COST_WORDS[name] not in config.objectives]
    quality = quality_info(task, float_value, config.worst_quality)
    objectives: tuple[Objective, ...] = (quality, *(cost(word) for word in config.objectives))
    try:
        return Problem(
            network.layers,
            space,
            objectives,
            budgets,
            tuple(cost(word) for word in extra),
            deterministic=not trains(recipe),  # no training, no noise from one evaluation to the next
            float_quality=float_value,
        )
    except InfeasibleBudget as error:  # answer in the unit of the question
        written, factor = config.as_written(error.budget)
        raise InfeasibleBudget(written, error.cheapest / factor, error.asked / factor, error.beside) from None


def _baseline(
    task: LoadedTask, model: Any, network: Network, target: HardwareTarget
) -> dict[str, dict[str, Measurement]]:
    """Quality of the float model on each split, and those of its costs that the target can price."""
    costs: dict[str, Measurement] = {}
    for word in COSTS:
        try:
            priced = cost_model(word, target, network.layers)
            total = sum(priced.layer_cost(layer, LayerBits(32, 32)) for layer in network.layers)
        except InputError:  # most devices of this kind do not run floats
            continue
        costs[priced.name] = Measurement(float(total), 0.0)
    baseline = {"val": {task.metric_name: task.measure(model, task.val), **costs}}
    if task.test is not None:
        baseline["test"] = {task.metric_name: task.measure(model, task.test), **costs}
    return baseline


def _read_baseline(known: Mapping[str, Any]) -> dict[str, dict[str, Measurement]]:
    return {
        split: {name: Measurement(value, stderr) for name, (value, stderr) in values.items()}
        for split, values in known["float"].items()
    }
