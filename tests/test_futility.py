"""The bar against its closed form, against Monte Carlo, and against envelopes by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import linregress
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


EARLY = [0.50, 0.62, 0.71, 0.55, 0.80, 0.75, 0.66, 0.58]
FINAL = [0.81, 0.85, 0.89, 0.84, 0.95, 0.92, 0.86, 0.83]


def trials(early: Sequence[float] = EARLY, final: Sequence[float] = FINAL) -> list[Trial]:
    return [trial((8, 8), end, start) for start, end in zip(early, final, strict=True)]


def chance_above(envelope: float, early: Sequence[float], final: Sequence[float], at: float) -> float:
    """By the design matrix X and scipy: the variance of a prediction at x is s^2 (1 + x (X'X)^-1 x)."""
    x = np.column_stack([np.ones(len(early)), early])
    inverse = np.linalg.inv(x.T @ x)
    line = inverse @ x.T @ np.array(final)
    s = np.linalg.norm(np.array(final) - x @ line) / math.sqrt(len(early) - 2)
    here = np.array([1.0, at])
    chance: float = student(df=len(early) - 2, loc=here @ line, scale=s * math.sqrt(1 + here @ inverse @ here)).sf(
        envelope
    )
    return chance


def regression(seed: int, n: int, slope: float, noise: float) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    early = rng.uniform(0, 1, n)
    return early, slope * early + noise * rng.normal(size=n)


SEEDS, SIZES = st.integers(0, 2**32 - 1), st.integers(3, 40)


@settings(deadline=None)
@given(seed=SEEDS, n=SIZES, slope=st.floats(-1, 2), noise=st.floats(0.01, 1), envelope=st.floats(-3, 3))
def test_the_chance_at_the_bar(seed: int, n: int, slope: float, noise: float, envelope: float) -> None:
    """Of one in fifty; rising with the early value; and where there is no bar, there is no such value."""
    early, final = regression(seed, n, slope, noise)
    lowest = lowest_early(envelope, early, final)
    fit = linregress(early, final)
    significant = fit.slope - student(n - 2).isf(CHANCE) * fit.stderr
    if lowest is None:
        assert significant < 1e-9
    elif significant > 1e-3:  # else the bar is far away from all values, and the design matrix ill-conditioned
        assert chance_above(envelope, early, final, lowest) == pytest.approx(CHANCE, rel=1e-5)
        assert (
            chance_above(envelope, early, final, lowest - 0.1)
            < CHANCE
            < chance_above(envelope, early, final, lowest + 0.1)
        )


@settings(deadline=None)
@given(seed=SEEDS, n=SIZES, envelope=st.floats(-3, 3), shift=st.floats(-1, 1), scale=st.floats(0.1, 10))
def test_the_bar_moves_with_its_axes(seed: int, n: int, envelope: float, shift: float, scale: float) -> None:
    early, final = regression(seed, n, 1.0, 0.05)
    lowest = lowest_early(envelope, early, final)
    if lowest is not None:
        near = {"rel": 1e-6, "abs": 1e-6}
        assert lowest_early(envelope, scale * early + shift, final) == pytest.approx(scale * lowest + shift, **near)
        assert lowest_early(scale * envelope + shift, early, scale * final + shift) == pytest.approx(lowest, **near)


def test_the_bar_against_a_root_finder() -> None:
    for envelope in (0.7, 0.8, 0.85, 0.9, 1.0):
        root = brentq(lambda at, e=envelope: chance_above(e, EARLY, FINAL, at) - CHANCE, -2.0, 2.0, xtol=1e-13)
        assert lowest_early(envelope, EARLY, FINAL) == pytest.approx(root, abs=1e-9)


def test_the_chance_by_monte_carlo() -> None:
    """Lines and noises drawn from what eight trials leave open: the end is above the envelope in one case of fifty."""
    rng, n, draws = np.random.default_rng(1), len(EARLY), 200_000
    early, final = np.array(EARLY), np.array(FINAL)
    slope, intercept = np.polyfit(early, final, 1)
    squares, deviation = np.sum((final - intercept - slope * early) ** 2), early - early.mean()
    lowest = lowest_early(0.85, EARLY, FINAL)
    assert lowest is not None
    noise = np.sqrt(squares / rng.chisquare(n - 2, draws))
    level = final.mean() + noise * rng.normal(size=draws) / math.sqrt(n)
    slopes = slope + noise * rng.normal(size=draws) / np.linalg.norm(deviation)
    ends = level + slopes * (lowest - early.mean()) + noise * rng.normal(size=draws)
    assert np.mean(ends > 0.85) == pytest.approx(CHANCE, abs=5 * math.sqrt(CHANCE / draws))


@pytest.mark.parametrize(("n", "at"), [(8, 0.2), (30, 0.9)])
def test_a_trial_that_would_reach_the_envelope_is_seldom_stopped(n: int, at: float) -> None:
    """In one case of fifty, whatever the true line is: that makes the quantile one of confidence, too."""
    rng, early = np.random.default_rng(n), np.linspace(0.0, 1.0, n)
    stopped = []
    for _ in range(10_000):
        final, end = 0.5 + 0.3 * early + 0.02 * rng.normal(size=n), 0.5 + 0.3 * at + 0.02 * rng.normal()
        lowest = lowest_early(end, early.tolist(), final.tolist())
        stopped.append(lowest is not None and at < lowest)
    assert np.mean(stopped) == pytest.approx(CHANCE, abs=5 * math.sqrt(CHANCE / len(stopped)))


def test_low_starts_that_catch_up_are_let_go_on() -> None:
    """Ends on a nearly flat line, which is at the envelope for 0.4: a start of 0.4 is as good as the highest one."""
    early = np.linspace(0.2, 0.9, 20)
    final = 0.9 + 0.05 * early + 0.001 * np.resize([1.0, -1.0], 20)
    lowest = lowest_early(0.92, early.tolist(), final.tolist())
    assert lowest is not None and 0.3 < lowest < 0.4


@pytest.mark.parametrize("final", [FINAL[::-1], [0.9] * 8, [1 - one for one in EARLY], [0.9, 0.8] * 4])
def test_early_values_that_do_not_tell_the_end(final: list[float]) -> None:
    assert lowest_early(5.0, EARLY, final) is None
    assert bar(problem(), trials(EARLY, final), trial((8, 8))) is None


@pytest.mark.parametrize("final", [FINAL, [0.9] * 8])
def test_early_values_that_are_all_the_same(final: list[float]) -> None:
    assert lowest_early(0.9, [0.1 + 0.2] * 8, final) is None


@settings(deadline=None)
@given(seed=SEEDS, n=SIZES)
def test_a_quality_that_training_does_not_change(seed: int, n: int) -> None:
    """Without any scatter the bar is the envelope, less what rounding may take: what equals it goes on."""
    early = np.random.default_rng(seed).uniform(0.1, 1.0, n)
    for envelope in (*early.tolist(), 1.1):
        lowest = lowest_early(envelope, early.tolist(), early.tolist())
        assert lowest is not None and lowest < envelope
        assert lowest == pytest.approx(envelope, abs=1e-9)


@pytest.mark.parametrize("envelope", [1.0, 0.3, 0.05])
def test_a_slope_that_is_just_significant(envelope: float) -> None:
    """As the quantile of the slope goes to 0, the bar goes to d = sqrt(S) (h^2 - m^2 k) / (2 h m), m = b sqrt(S)."""
    early, off = np.arange(4.0) - 1.5, np.array([1.0, -1.0, -1.0, 1.0])  # at right angles to each other, and to ones
    quantile, slope = student(2).isf(CHANCE), 0.02
    m = slope * math.sqrt(5)
    scatter = m / quantile * math.sqrt(2) / 2  # so that the slope's t statistic is the quantile
    final = slope * (1 + 1e-13) * early + scatter * (1 - 1e-13) * off
    lowest = lowest_early(envelope, early.tolist(), final.tolist())
    assert lowest == pytest.approx(math.sqrt(5) * (envelope**2 - m**2 * 1.25) / (2 * envelope * m), rel=1e-6)


@pytest.mark.parametrize(
    ("bits", "envelope"),
    [((8, 8), 0.95), ((8, 4), 0.7), ((4, 8), 0.6), ((4, 4), 0.5), ((2, 8), 0.6), ((8, 2), 0.7), ((2, 2), 0.4)],
)
def test_the_envelope_at_a_cost(bits: tuple[int, int], envelope: float) -> None:
    """Of the cheap trials the latencies are 18, 12, 12 and the sizes 12, 12, 18; (2, 2) has the reference alone."""
    cheaper = {(8, 2): 0.7, (4, 4): 0.5, (2, 8): 0.6}
    done = [*trials(), *(trial(one, value) for one, value in cheaper.items())]
    price = {one: (2 * one[0] + one[1], one[0] + 2 * one[1]) for one in [*cheaper, (8, 8), bits]}
    by_hand = [v for one, v in cheaper.items() if all(x <= y for x, y in zip(price[one], price[bits], strict=True))]
    by_hand += [0.95] if bits == (8, 8) else []
    assert max([0.4, *by_hand]) == envelope
    found = bar(problem(replace(ACCURACY, reference=0.4)), done, trial(bits))
    assert found is not None and found == pytest.approx(lowest_early(envelope, EARLY, FINAL))


def test_the_worst_quality_of_interest_bounds_the_envelope() -> None:
    worst = replace(ACCURACY, reference=0.97)
    assert bar(problem(worst), trials(), trial((8, 8))) == lowest_early(0.97, EARLY, FINAL)
    assert bar(problem(), trials(), trial((8, 8))) == lowest_early(max(FINAL), EARLY, FINAL)
    loss = replace(ACCURACY, direction=Direction.MINIMIZE, reference=0.03)
    mirrored = trials([1 - one for one in EARLY], [1 - one for one in FINAL])
    assert bar(problem(loss), mirrored, trial((8, 8))) == pytest.approx(1 - (lowest_early(0.97, EARLY, FINAL) or 0.0))


def test_a_minimised_quality_is_mirrored() -> None:
    loss = replace(ACCURACY, direction=Direction.MINIMIZE, reference=1.0)
    done = trials([1 - one for one in EARLY], [1 - one for one in FINAL])
    up, down = bar(problem(), trials(), trial((8, 8))), bar(problem(loss), done, trial((8, 8)))
    assert up is not None and down == pytest.approx(1 - up)


def test_too_little_is_known() -> None:
    assert bar(problem(), trials(), trial((8, 8))) is not None
    assert len(EARLY) == FEWEST
    assert bar(problem(), trials()[1:], trial((8, 8))) is None
    without = [replace(one, early=None) for one in trials()]
    assert bar(problem(), [*trials()[1:], *without], trial((8, 8))) is None
    stopped = [replace(one, state=TrialState.PRUNED, values={}) for one in trials()]
    assert bar(problem(), [*trials()[1:], *stopped], trial((8, 8))) is None
    assert bar(problem(), trials(), replace(trial((8, 8)), policy=None)) is None


def test_the_regression_is_over_one_recipe() -> None:
    own = Recipe("qat", epochs=9.0)
    better = [one + 0.2 for one in FINAL]
    mixed = [*trials(), *(replace(one, recipe=own) for one in trials(EARLY, better))]
    plain, longer = (bar(problem(), mixed, trial((8, 8), recipe=recipe)) for recipe in (None, own))
    assert plain == pytest.approx(lowest_early(1.15, EARLY, FINAL))
    assert longer == pytest.approx(lowest_early(1.15, EARLY, better))
    assert plain is not None and longer is not None and longer < plain
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
            "to end better than the worst quality of interest and every policy that costs no more"
        )
