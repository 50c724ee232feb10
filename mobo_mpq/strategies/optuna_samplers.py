"""NSGA-II, TPE and random search, by Optuna.

Optuna's samplers read a study. Every proposal gets a study of its own, built from the trials told so far, and a sampler
seeded for this proposal: so nothing is left to the history of a generator, and a replay proposes the same.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy
from mobo_mpq.strategies.base import Strategy
from mobo_mpq.trial import Proposal

_TRIES = 8
"""Answers of a sampler that are looked at before a seen policy gives way to a neighbour."""


class OptunaStrategy(Strategy):
    """A strategy that asks an Optuna sampler; the variables are ordinal, as whole numbers from 0."""

    origin: str
    learns = True
    """Whether the sampler looks at the trials."""

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """A new sampler."""

    def attributes(self, index: int) -> dict[str, int]:
        """System attributes that the sampler expects of the complete trial that finished as number ``index``."""
        return {}

    def propose(self, n: int) -> list[Proposal]:
        """The sampler's answer, given all trials told and those running."""
        with _quiet():
            policy = self.fresh(self._answers(), self.rng(self.number))
        return [] if policy is None else [Proposal(policy, self.origin)]

    def _answers(self) -> Iterator[Policy]:
        space = self.problem.space
        if not space.variables:
            return
        study = self._study()
        for _ in range(_TRIES):
            params = study.ask(self._distributions()).params
            levels = np.array([params[variable.name] for variable in space.variables], dtype=np.intp)
            yield space.to_policies(space.repair(levels))[0]

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {v.name: IntDistribution(0, len(v.choices) - 1) for v in self.problem.space.variables}

    def _study(self) -> optuna.Study:
        study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            directions=[StudyDirection[info.direction.name] for info in self.problem.infos],
            sampler=self.sampler(self.derived_seed(self.number)),
        )
        if not self.learns:
            return study
        study.add_trials([self._complete(index, *observed) for index, observed in enumerate(self.observed)])
        study.add_trials([self._running(policy) for policy in self.pending])
        return study

    def _complete(self, index: int, policy: Policy, values: Mapping[str, Measurement]) -> FrozenTrial:
        return create_trial(
            values=[values[info.name].value for info in self.problem.infos],
            params=self._params(policy),
            distributions=self._distributions(),
            system_attrs=self.attributes(index),
        )

    def _running(self, policy: Policy) -> FrozenTrial:
        return create_trial(state=TrialState.RUNNING, params=self._params(policy), distributions=self._distributions())

    def _params(self, policy: Policy) -> dict[str, int]:
        space = self.problem.space
        return {v.name: int(level) for v, level in zip(space.variables, space.to_levels([policy])[0], strict=True)}


class Random(OptunaStrategy):
    """Every variable uniform and independent."""

    origin = "random"
    learns = False

    def sampler(self, seed: int) -> BaseSampler:
        """Optuna's random sampler."""
        return RandomSampler(seed=seed)


class Tpe(OptunaStrategy):
    """Multi-objective TPE (Ozaki et al., 2022) with a joint model of all variables; running trials count as bad."""

    origin = "tpe"

    def sampler(self, seed: int) -> BaseSampler:
        """Optuna's TPE sampler; its first ten trials are random."""
        return TPESampler(multivariate=True, constant_liar=True, seed=seed)


class Nsga2(OptunaStrategy):
    """NSGA-II (Deb et al., 2002), asynchronous: a generation is full when enough trials have finished."""

    origin = "nsga2"
    population_size = 16
    """Small, since studies have tens of trials: Optuna's default of 50 would never leave its random start."""

    def sampler(self, seed: int) -> BaseSampler:
        """Optuna's NSGA-II sampler."""
        return NSGAIISampler(population_size=self.population_size, seed=seed)

    def attributes(self, index: int) -> dict[str, int]:
        """The generation, by order of completion, where Optuna itself goes by the order of proposal."""
        return {NSGAIISampler._get_generation_key(): index // self.population_size}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log lines about studies that no user asked for."""
    logger = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(logger)
