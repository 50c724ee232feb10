"""Learners: recipes that find the bits while they train. Each is a :class:`Learner` in a file of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from mobo_mpq.errors import UnknownName
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import derive
from mobo_mpq.training.isolation import isolated
from mobo_mpq.training.recipes import TrainingContext, check_extent
from mobo_mpq.trial import Recipe


@dataclass(frozen=True, eq=False)
class Lesson:
    """One run of a learner.

    Attributes:
        recipe: epochs, share of the data, options.
        context: float network, and the data that bits are learned on: those of the proxy, where a study has one.
        problem: the legal policies, and their exact costs.
        seed: of the trial.
    """

    recipe: Recipe
    context: TrainingContext
    problem: Problem
    seed: int


@dataclass(frozen=True, eq=False)
class Learned:
    """What a learner found.

    Attributes:
        policy: one of the space.
        network: as it was learned, with levels of its own, where it has such; scored beside the policy.
        details: numbers about the training, all finite.
    """

    policy: Policy
    network: nn.Module | None = None
    details: Mapping[str, float] = field(default_factory=dict)


Options = TypeVar("Options")


class Learner(ABC, Generic[Options]):
    """What a learner does; stateless, one for all trials. ``Options`` holds its options, parsed and checked."""

    default: ClassVar[Recipe]
    """Every option it takes, at its default."""

    @abstractmethod
    def options(self, recipe: Recipe) -> Options:
        """Parse and check a recipe's options.

        Raises:
            UnknownName: for an option that it does not take, or a word that it does not know.
            InputError: for an option of a wrong value.
        """

    @abstractmethod
    def learn(self, options: Options, lesson: Lesson) -> Learned:
        """Train, and find the bits.

        Raises:
            InputError: when what is asked for cannot be reached.
            TrainingDiverged: when the loss is no longer finite.
        """


_LEARNERS: dict[str, Learner[Any]] = {}
L = TypeVar("L", bound=type[Learner[Any]])


def register_learner(default: Recipe) -> Callable[[L], L]:
    """Class decorator: make a learner known by ``default.kind``.

    Args:
        default: every option it takes, at its default.
    """

    def register(learner: L) -> L:
        learner.default = default
        _LEARNERS[default.kind] = learner()
        return learner

    return register


def learner_names() -> tuple[str, ...]:
    """Names of the learners."""
    return tuple(sorted(_learners()))


def finds_policy(recipe: Recipe) -> bool:
    """Whether a recipe is a learner's."""
    return recipe.kind in _learners()


def default_learner(kind: str) -> Recipe:
    """A learner's recipe with all options at their defaults.

    Raises:
        UnknownName: when there is none of that name.
    """
    return _learner(kind).default


def check_learner(recipe: Recipe) -> None:
    """Whether a learner can be run.

    Raises:
        UnknownName: for an unknown learner, or an option that it does not take.
        InputError: for epochs below 0, a share of the data outside (0, 1], or an option of a wrong value.
    """
    learner = _learner(recipe.kind)
    check_extent(recipe)
    learner.options(recipe)


def learn(recipe: Recipe, context: TrainingContext, problem: Problem, *, seed: int) -> Learned:
    """Find the bits of every layer by training.

    The result depends on the arguments alone; the global generators of torch, NumPy and Python are left as they were.

    Args:
        recipe: of a learner; options that it does not name are at their defaults.
        context: network and data.
        problem: legal policies and their costs.
        seed: of the trial.

    Returns:
        A policy of ``problem.space``, and what else was learned; numbers that are not finite are left out.

    Raises:
        UnknownName: for an unknown learner, or an option that it does not take.
        InputError: for an option of a wrong value, or a budget that no policy keeps.
        TrainingDiverged: when the loss is no longer finite.
    """
    check_learner(recipe)
    learner = _learner(recipe.kind)
    with isolated(derive(seed, "learner", recipe.kind)):
        found = learner.learn(learner.options(recipe), Lesson(recipe, context, problem, seed))
    problem.space.to_levels([found.policy])  # a learner keeps ties and pins
    finite = {name: float(value) for name, value in found.details.items() if math.isfinite(value)}
    return Learned(found.policy, found.network, finite)


def _learners() -> dict[str, Learner[Any]]:
    import_module("mobo_mpq.training.learners")  # its modules import this one, and register themselves
    return _LEARNERS


def _learner(kind: str) -> Learner[Any]:
    learners = _learners()
    if kind not in learners:
        raise UnknownName("learner", kind, tuple(sorted(learners)))
    return learners[kind]
