"""The strategies, by name. A strategy's module is imported when it is made, so listing them costs nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

from mobo_mpq.errors import UnknownName
from mobo_mpq.problem import Problem
from mobo_mpq.strategies.base import Strategy


class _Entry(NamedTuple):
    module: str
    cls: str
    description: str
    uses_sensitivity: bool = False
    kind: str = "perturbation"  # of sensitivity, which it gets unless the user wants another
    learns: bool = False  # by training the network: it proposes learners, not policies


_STRATEGIES = {
    "amp": _Entry(
        "mobo_mpq.strategies.amp",
        "Amp",
        "groups of quantizers lowered one after the other, the least sensitive first (Pandey et al., 2023)",
        uses_sensitivity=True,
    ),
    "haq": _Entry(
        "mobo_mpq.strategies.haq",
        "Haq",
        "an agent chooses the bits layer by layer and backs off to budgets spread over the cost (HAQ)",
    ),
    "bsq": _Entry(
        "mobo_mpq.strategies.learned",
        "Bsq",
        "bits that remain where bit planes are trained to vanish (BSQ), with strengths where the front can grow",
        learns=True,
    ),
    "ddq": _Entry(
        "mobo_mpq.strategies.learned",
        "Ddq",
        "bits that gates learn with the levels (DDQ), within budgets where the front can grow",
        learns=True,
    ),
    "hawq": _Entry(
        "mobo_mpq.strategies.hawq",
        "Hawq",
        "least sum of second derivatives within budgets spread over the cost, by integer programming (HAWQ-V3)",
        uses_sensitivity=True,
        kind="hessian",
    ),
    "mobo": _Entry(
        "mobo_mpq.strategies.mobo",
        "Mobo",
        "Bayesian optimization: a process shaped by what quantization does, exact costs, improvement in closed form",
        uses_sensitivity=True,
    ),
    "nsga2": _Entry(
        "mobo_mpq.strategies.optuna_samplers", "Nsga2", "the genetic algorithm NSGA-II (Deb et al., 2002), by Optuna"
    ),
    "ompq": _Entry(
        "mobo_mpq.strategies.ompq",
        "Ompq",
        "most bits where layers share least with others, within budgets spread over the cost (OMPQ)",
        uses_sensitivity=True,
        kind="orthogonality",
    ),
    "random": _Entry("mobo_mpq.strategies.optuna_samplers", "Random", "independent uniform bits, by Optuna"),
    "seam": _Entry(
        "mobo_mpq.strategies.learned",
        "Seam",
        "mixtures of bits trained with a margin (SEAM), within budgets where the front can grow",
        learns=True,
    ),
    "sensitivity": _Entry(
        "mobo_mpq.strategies.sensitivity",
        "SensitivityFront",
        "policies that the sum of the layers' sensitivities puts on the front, without learning",
        uses_sensitivity=True,
    ),
    "sobol": _Entry(
        "mobo_mpq.strategies.quasirandom", "Sobol", "a scrambled Sobol sequence, which fills the space evenly"
    ),
    "tpe": _Entry(
        "mobo_mpq.strategies.optuna_samplers",
        "Tpe",
        "multi-objective tree-structured Parzen estimators (Ozaki et al., 2022), by Optuna",
    ),
}


def strategy_names() -> tuple[str, ...]:
    """Names of all strategies, sorted."""
    return tuple(sorted(_STRATEGIES))


def describe(name: str) -> str:
    """One line for people.

    Raises:
        UnknownName: when there is no strategy of that name.
    """
    return _entry(name).description


def uses_sensitivity(name: str) -> bool:
    """Whether a strategy makes use of ``Problem.sensitivity``: whether it is worth measuring for it.

    Raises:
        UnknownName: when there is no strategy of that name.
    """
    return _entry(name).uses_sensitivity


def learns(name: str) -> bool:
    """Whether a strategy finds policies by training, so that it needs a network and its data.

    Raises:
        UnknownName: when there is no strategy of that name.
    """
    return _entry(name).learns


def own_sensitivity(name: str) -> str:
    """The kind of sensitivity that a strategy is made for.

    Raises:
        UnknownName: when there is no strategy of that name.
    """
    return _entry(name).kind


def check_strategy(name: str, options: Mapping[str, float | str] | None = None) -> None:
    """Whether a strategy can be made with these options.

    Raises:
        UnknownName: when there is no strategy of that name, or it has no such option.
        InputError: for an option of a wrong value.
    """
    made = _class(name)
    if options:
        made.parse(options, f"strategy '{name}'")


def make_strategy(name: str, problem: Problem, seed: int, options: Mapping[str, float | str] | None = None) -> Strategy:
    """A strategy for a problem.

    Args:
        name: of the strategy.
        problem: what it searches.
        seed: of its random numbers.
        options: what else it takes; what is missing has its default.

    Raises:
        UnknownName: when there is no strategy of that name, or it has no such option.
        InputError: for an option of a wrong value, or a problem that the strategy cannot search.
    """
    made = _class(name)
    if not options:
        return made(problem, seed=seed)
    return made(problem, seed=seed, options=made.parse(options, f"strategy '{name}'"))


def _class(name: str) -> type[Strategy]:
    entry = _entry(name)
    with warnings.catch_warnings():
        # linear_operator, which BoTorch stands on, still scripts a function when it is imported
        warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
        module = import_module(entry.module)
    found: type[Strategy] = getattr(module, entry.cls)
    return found


def _entry(name: str) -> _Entry:
    if name not in _STRATEGIES:
        raise UnknownName("strategy", name, _STRATEGIES, "Run 'mobo-mpq strategies' to see what each does.")
    return _STRATEGIES[name]
