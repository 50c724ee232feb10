from __future__ import annotations

import numpy as np
import pytest

from mobo_mpq.front import complete, hypervolume_share, maximised, pareto_trials, trials_hypervolume
from mobo_mpq.objective import Measurement, ObjectiveInfo, reference
from mobo_mpq.trial import Trial, TrialState

INFOS = (
    ObjectiveInfo("accuracy", "", "maximize", 0.5),  # type: ignore[arg-type]
    ObjectiveInfo("latency_s", "s", "minimize", 10.0),  # type: ignore[arg-type]
)


def trial(number: int, accuracy: float, latency: float) -> Trial:
    values = {"accuracy": Measurement(accuracy), "latency_s": Measurement(latency)}
    return Trial(number, TrialState.COMPLETE, None, "x", values)


TRIALS = [trial(0, 0.9, 8.0), trial(1, 0.7, 4.0), trial(2, 0.7, 6.0), trial(3, 0.4, 1.0)]


def test_signs_follow_directions() -> None:
    assert np.array_equal(maximised(INFOS, TRIALS[:1]), [[0.9, -8.0]])
    assert np.array_equal(reference(INFOS), [0.5, -10.0])


def test_the_best_quality_comes_first() -> None:
    assert [t.number for t in pareto_trials(INFOS, TRIALS)] == [0, 1, 3]


def test_hypervolume_counts_what_exceeds_the_reference() -> None:
    assert trials_hypervolume(INFOS, TRIALS) == pytest.approx(0.4 * 2 + 0.2 * 4)


def test_the_share_of_a_front_that_costs_nothing_is_one() -> None:
    free = trial(0, 1.0, 0.0)
    assert hypervolume_share(INFOS, [free], ideal_quality=1.0) == pytest.approx(1.0)
    assert hypervolume_share(INFOS, [], ideal_quality=1.0) == 0.0
    assert hypervolume_share(INFOS, [free], ideal_quality=0.4) == 0.0  # nothing is of interest: no box


def test_unfinished_trials_count_for_nothing() -> None:
    running = Trial(9, TrialState.RUNNING, None, "x")
    assert complete([*TRIALS, running]) == TRIALS
    assert pareto_trials(INFOS, [running]) == []
    assert trials_hypervolume(INFOS, []) == 0.0
