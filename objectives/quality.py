"""The measured objective: the task's metric."""

from __future__ import annotations

from mobo_mpq.objective import Direction, ObjectiveInfo
from mobo_mpq.objectives.tasks.base import LoadedTask

WORST_POINTS = 0.10
"""Share of a maximised metric's scale that may be lost and still be of interest: 10 percentage points."""

WORST_FACTOR = 1.2
"""Times the float network's value of a minimised metric."""

PERCENT_FROM = 1.5
"""A maximised metric beyond this is on a scale of 0 to 100, not of 0 to 1."""


def default_reference(direction: Direction, float_value: float) -> float:
    """The worst value still of interest, given the float network's."""
    if direction is Direction.MINIMIZE:
        # Of a negative value, such as a log-likelihood, 1.2 times would be better: worse by a fifth is meant.
        return float_value + (WORST_FACTOR - 1) * abs(float_value)
    scale = 100.0 if abs(float_value) > PERCENT_FROM else 1.0
    return float_value - WORST_POINTS * scale


def quality_info(task: LoadedTask, float_value: float, worst_quality: float | None = None) -> ObjectiveInfo:
    """Describe a task's metric as an objective.

    Args:
        task: gives the name and the direction.
        float_value: of the float network on the validation split.
        worst_quality: the hypervolume's reference; the default is 10 percentage points below the float network's
            value, or 1.2 times a metric that is minimised.

    Raises:
        InputError: when the reference is not finite.
    """
    reference = default_reference(task.direction, float_value) if worst_quality is None else worst_quality
    return ObjectiveInfo(task.metric_name, "", task.direction, float(reference))
