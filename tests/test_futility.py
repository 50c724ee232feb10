"""The bar against its closed form, against Monte Carlo, and against envelopes by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from mobo_mpq.futility import CHANCE, FEWEST, bar, lowest_early, verdict
from mobo_mpq.objective import Direction, Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.trial import Recipe, Trial, TrialState

BITS = np.array([2.0, 4.0, 8.0])
ACCURACY = ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.0)


def problem(quality: Any = ACCURACY) -> Problem:
    """Two costs, in which the layers a and b trade places: latency is 2 a + b, size is a + 2 b."""
    return Problem.from_tables(
        ["a", "b"],
        weight_bits=(2, 4, 8),
        activation_bits=(8,),
        costs={"latency_s": np.stack([2 * BITS, BITS]), "size_bytes": np.stack([BITS, 2 * BITS])},
        references={"latency_s": 24.0, "size_bytes": 24.0},
        quality=quality,
    )


def trial(bits: tuple[int, int], value: float | None = None, early: float | None = None, **fields: Any) -> Trial:
    policy = Policy.of({"a": (bits[0], 8), "b": (bits[1], 8)})
    state = TrialState.RUNNING if value is None else TrialState.COMPLETE
    values = {} if value is None else {"accuracy": Measurement(value), **problem().cost_values(policy)}
    return replace(
        Trial(0, state, policy, "test", values), early=None if early is None else Measurement(early), **fields
    )


GAINS = [0.10, 0.12, 0.08, 0.11, 0.15, 0.05, 0.09, 0.10]


def trials(gains: Sequence[float] = GAINS, bits: tuple[int, int] = (8, 8)) -> list[Trial]:
    return [trial(bits, 0.8 + gain, 0.8) for gain in gains]


@given(envelope=st.floats(-10, 10), gains=st.lists(st.floats(-1, 1), min_size=2, max_size=60), shift=st.floats(-1, 1))
def test_the_chance_at_the_bar(envelope: float, gains: list[float], shift: float) -> None:
    """By scipy's distribution, whose location and scale are those of the prediction."""
    lowest, spread = lowest_early(envelope, gains), float(np.std(gains, ddof=1)) * math.sqrt(1 + 1 / len(gains))
    if spread > 1e-9:
        final = student(df=len(gains) - 1, loc=lowest + np.mean(gains), scale=spread)
        assert final.sf(envelope) == pytest.approx(CHANCE, rel=1e-4)
    assert lowest_early(envelope + shift, gains) == pytest.approx(lowest + shift, abs=1e-9)
    assert lowest_early(envelope, [gain + shift for gain in gains]) == pytest.approx(lowest - shift, abs=1e-9)


@pytest.mark.parametrize("n", [8, 30])
def test_the_chance_by_monte_carlo(n: int) -> None:
    """Whatever the true gain is, a trial that starts at the bar ends above the envelope in one case of fifty."""
    rng = np.random.default_rng(n)
    above = []
    for _ in range(20_000):
        gains = rng.normal(0.3, 0.05, n + 1)
        above.append(lowest_early(0.9, gains[:-1].tolist()) + gains[-1] > 0.9)
    assert np.mean(above) == pytest.approx(CHANCE, abs=5 * math.sqrt(CHANCE / len(above)))


@pytest.mark.parametrize(
    ("bits", "envelope"),
    [((8, 8), 0.95), ((8, 4), 0.7), ((4, 8), 0.6), ((4, 4), 0.5), ((2, 8), 0.6), ((8, 2), 0.7), ((2, 2), None)],
)
def test_the_envelope_at_a_cost(bits: tuple[int, int], envelope: float | None) -> None:
    """Of the cheap trials the latencies are 18, 12, 12 and the sizes 12, 12, 18; nothing undercuts (2, 2)."""
    done = [*trials(), trial((8, 2), 0.7), trial((4, 4), 0.5), trial((2, 8), 0.6)]
    cheaper = {(8, 2): 0.7, (4, 4): 0.5, (2, 8): 0.6}
    price = {one: (2 * one[0] + one[1], one[0] + 2 * one[1]) for one in [*cheaper, (8, 8), bits]}
    by_hand = [v for one, v in cheaper.items() if all(x <= y for x, y in zip(price[one], price[bits], strict=True))]
    by_hand += [0.95] if bits == (8, 8) else []
    assert max(by_hand, default=None) == envelope
    found = bar(problem(), done, trial(bits))
    assert found == (None if envelope is None else pytest.approx(lowest_early(envelope, GAINS)))


def test_a_minimised_quality_is_mirrored() -> None:
    loss = replace(ACCURACY, direction=Direction.MINIMIZE)
    done = [
        replace(one, early=Measurement(1 - one.early.value), values={**one.values, "accuracy": Measurement(1 - v)})
        for one in trials()
        if one.early is not None
        for v in [one.values["accuracy"].value]
    ]
    up, down = bar(problem(), trials(), trial((8, 8))), bar(problem(loss), done, trial((8, 8)))
    assert up is not None and down == pytest.approx(1 - up)


def test_too_little_is_known() -> None:
    assert bar(problem(), trials(), trial((8, 8))) is not None
    assert len(GAINS) == FEWEST
    assert bar(problem(), trials(GAINS[1:]), trial((8, 8))) is None
    without = [replace(one, early=None) for one in trials()]
    assert bar(problem(), [*trials(GAINS[1:]), *without], trial((8, 8))) is None
    stopped = [replace(one, state=TrialState.PRUNED, values={}) for one in trials()]
    assert bar(problem(), [*trials(GAINS[1:]), *stopped], trial((8, 8))) is None
    assert bar(problem(), trials(), replace(trial((8, 8)), policy=None)) is None


def test_gains_are_of_one_recipe() -> None:
    own = Recipe("qat", epochs=9.0)
    mixed = [*trials(), *(replace(one, recipe=own) for one in trials([gain + 0.2 for gain in GAINS]))]
    plain, longer = (bar(problem(), mixed, trial((8, 8), recipe=recipe)) for recipe in (None, own))
    assert plain == pytest.approx(lowest_early(1.15, GAINS))
    assert longer == pytest.approx(lowest_early(1.15, GAINS) - 0.2)
    assert bar(problem(), mixed, trial((8, 8), recipe=Recipe("qat", epochs=1.0))) is None


def test_a_second_measured_objective_may_excel() -> None:
    two = problem([ACCURACY, ObjectiveInfo("worst_class", "", Direction.MAXIMIZE, 0.0)])
    assert bar(two, trials(), trial((8, 8))) is None


def test_verdicts() -> None:
    for direction, side, worse, better in (("maximize", "below", 0.4, 0.6), ("minimize", "above", 0.6, 0.4)):
        way = Direction(direction)
        assert verdict("accuracy", way, better, 0.5) is None
        assert verdict("accuracy", way, 0.5, 0.5) is None
        assert verdict("accuracy", way, worse, None) is None
        assert verdict("accuracy", way, worse, 0.5) == (
            f"futile: accuracy of {worse} after a quarter of the fine-tune, {side} the 0.5 that a chance of 2 % takes "
            "to end better than every policy that costs no more"
        )
