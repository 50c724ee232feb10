"""A proposal, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mobo_mpq.objective import Measurement
from mobo_mpq.policy import Policy

REPLICATE = "replicate"
"""The one origin under which a policy may be evaluated again."""


class TrialState(StrEnum):
    """How far a trial has come. All but ``running`` are final."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"  # over budget, or stopped early
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a policy becomes a quantized network: "ptq", "qat", ... and its options.

    Attributes:
        kind: name of a registered recipe.
        epochs: passes over the training data, fractions allowed; 0 where nothing is trained.
        train_fraction: share of the training data that is used.
        options: what else the recipe takes.
    """

    kind: str
    epochs: float = 0.0
    train_fraction: float = 1.0
    options: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a strategy wants evaluated.

    Attributes:
        policy: the bits; ``None`` where a learner finds them while it trains.
        origin: what in the strategy made it, "sobol" or "ehvi".
        recipe: overrides the study's recipe when given.
        learner: "ddq", "bsq", ... and its options, where there is no policy yet; the policy that it finds is then
            scored by the recipe, as any other.
    """

    policy: Policy | None
    origin: str
    recipe: Recipe | None = None
    learner: Recipe | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy, evaluated once.

    Attributes:
        number: 0, 1, 2, ... in the order of proposal.
        state: how far it has come.
        policy: what is, or was really, evaluated.
        origin: what made it.
        values: objective name -> measurement; empty unless complete.
        early: the quality after a quarter of the fine-tune, where the study stops hopeless trials.
        seed: the trial's own seed, derived from the study's and the number.
        error: why it failed or was pruned.
        started: UTC.
        finished: UTC.
        seconds: spent on the evaluation.
        recipe: overrides the study's recipe when given.
        learner: what found the policy, where the strategy did not give one.
        details: what recipe and learner tell about their training: name -> finite number.
        cpu_s: CPU time of the evaluation, of the thread that made it; ``None`` where nobody looked.
        proposal_cpu_s: CPU time that the strategy took for it: since the trial before was proposed, learning included.
    """

    number: int
    state: TrialState
    policy: Policy | None
    origin: str
    values: Mapping[str, Measurement] = field(default_factory=dict)
    seed: int = 0
    error: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    seconds: float | None = None
    recipe: Recipe | None = None
    learner: Recipe | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    early: Measurement | None = None
    cpu_s: float | None = None
    proposal_cpu_s: float | None = None

    @property
    def was_evaluated(self) -> bool:
        """Whether it ended, and was not refused for its budget before it began."""
        return self.is_final and (self.state is not TrialState.PRUNED or self.seconds is not None)

    @property
    def proposal(self) -> Proposal:
        """What the strategy asked for."""
        return Proposal(None if self.learner else self.policy, self.origin, self.recipe, self.learner)

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be heard of it."""
        return self.state is not TrialState.RUNNING
