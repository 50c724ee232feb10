"""Learners: recipes that find the bits while they train. Each is a :class:`Learner` in a file of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.seeding import derive
from mobo_mpq.training.isolation import isolated
from mobo_mpq.training.plugins import Plugins
from mobo_mpq.training.recipes import TrainingContext
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


LEARNERS: Plugins[Learner[Any]] = Plugins("learner", "mobo_mpq.training.learners")
register_learner = LEARNERS.register


def learner_names() -> tuple[str, ...]:
    """Names of the learners."""
    return LEARNERS.names


def default_learner(kind: str) -> Recipe:
    """A learner's recipe with all options at their defaults.

    Raises:
        UnknownName: when there is none of that name.
    """
    return LEARNERS[kind].default


def check_learner(recipe: Recipe) -> None:
    """Whether a learner can be run.

    Raises:
        UnknownName: for an unknown learner, or an option that it does not take.
        InputError: for epochs below 0, a share of the data outside (0, 1], or an option of a wrong value.
    """
    LEARNERS.check(recipe)


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
    learner = LEARNERS[recipe.kind]
    with isolated(derive(seed, "learner", recipe.kind)):
        found = learner.learn(learner.options(recipe), Lesson(recipe, context, problem, seed))
    problem.space.to_levels([found.policy])  # a learner keeps ties and pins
    finite = {name: float(value) for name, value in found.details.items() if math.isfinite(value)}
    return Learned(found.policy, found.network, finite)
