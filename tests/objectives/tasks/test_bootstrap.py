import numpy as np
import pytest

from mobo_mpq.objectives.tasks.bootstrap import grouped_mean, standard_error


def test_agrees_with_the_closed_form_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=500)
    expected = values.std() / np.sqrt(len(values))  # the bootstrap's limit for a mean
    assert standard_error(values, resamples=20_000) == pytest.approx(expected, rel=0.03)


def test_copies_of_one_image_do_not_count_as_independent() -> None:
    base = np.random.default_rng(1).integers(0, 2, size=200).astype(float)
    copied = np.repeat(base, 4)
    assert np.array_equal(grouped_mean(copied, 4), base)
    assert standard_error(grouped_mean(copied, 4)) == pytest.approx(2 * standard_error(copied), rel=0.1)


def test_constant_scores_are_exact_and_draws_repeat() -> None:
    assert standard_error(np.ones(10)) == pytest.approx(0.0, abs=1e-12)
    values = np.arange(20.0)
    assert standard_error(values) == standard_error(values)
    assert standard_error(values) != standard_error(values, seed=1)
