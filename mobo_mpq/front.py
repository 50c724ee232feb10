"""The Pareto set of trials, and the volume it dominates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobo_mpq import objective
from mobo_mpq.objective import ObjectiveInfo, reference
from mobo_mpq.pareto import hypervolume, non_dominated
from mobo_mpq.trial import Trial, TrialState


def complete(trials: Sequence[Trial]) -> list[Trial]:
    """Those that have values."""
    return [trial for trial in trials if trial.state is TrialState.COMPLETE]


def maximised(infos: Sequence[ObjectiveInfo], trials: Sequence[Trial]) -> NDArray[np.float64]:  # n x m
    """Values of complete trials, with the signs that make every objective one to maximise."""
    rows = [objective.maximised(infos, trial.values) for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(trials), len(infos))


def pareto_trials(infos: Sequence[ObjectiveInfo], trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials that no other one beats, best in the first objective first."""
    candidates = complete(trials)
    points = maximised(infos, candidates)
    kept = [i for i in np.flatnonzero(non_dominated(points))]
    return [candidates[i] for i in sorted(kept, key=lambda i: (*(-points[i]), candidates[i].number))]


def hypervolume_share(infos: Sequence[ObjectiveInfo], trials: Sequence[Trial], ideal_quality: float) -> float:
    """The hypervolume as a share of the box from the reference to a network of ``ideal_quality`` that costs nothing.

    For people: 0 when nothing is better than the reference; even the best devices stay far below 1.
    """
    ideal = np.array([infos[0].sign * ideal_quality, *np.zeros(len(infos) - 1)])
    box = float(np.prod(ideal - reference(infos)))
    return trials_hypervolume(infos, trials) / box if box > 0 else 0.0


def trials_hypervolume(infos: Sequence[ObjectiveInfo], trials: Sequence[Trial]) -> float:
    """Volume above the reference that the complete trials dominate, in the product of the objectives' units."""
    return hypervolume(maximised(infos, complete(trials)), reference(infos))
