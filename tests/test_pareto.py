import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mobo_mpq.errors import InputError
from mobo_mpq.pareto import hypervolume, non_dominated

points_of_few_values = st.integers(2, 4).flatmap(
    lambda m: arrays(np.float64, st.tuples(st.integers(1, 20), st.just(m)), elements=st.integers(0, 4).map(float))
)


@pytest.mark.parametrize(("reference", "expected"), [((0.0, 0.0), 37.75), ((1.0, 0.5), 28.75)])
def test_hypervolume_of_five_points_in_the_plane(reference: tuple[float, float], expected: float) -> None:
    points = [(8.5, 3.0), (8.5, 3.5), (5.0, 5.0), (9.0, 1.0), (4.0, 5.0)]  # BoTorch's own test
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-12)


def test_hypervolume_of_negated_axes() -> None:
    assert hypervolume(-np.eye(3), (-2.1, -2.5, -2.3)) == pytest.approx(11.075, rel=1e-12)  # BoTorch's own test


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_hypervolume_of_a_staircase(n: int) -> None:
    steps = np.array([(k, n - 1 - k) for k in range(n)], dtype=float)  # Optuna's own test, minimised
    assert hypervolume(-steps, (-n, -n)) == pytest.approx(n * n - n * (n - 1) / 2, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_hypervolume_of_a_simplex_layer(n: int) -> None:
    layer = np.array([(i, j, n - 1 - i - j) for i in range(n) for j in range(n - i)], dtype=float)
    expected = n**3 - (n - 1) * n * (n + 1) / 6  # Optuna's own test, minimised
    assert hypervolume(-layer, (-n, -n, -n)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_hypervolume_of_the_identity(m: int) -> None:
    assert hypervolume(-np.eye(m), [-10.0] * m) == pytest.approx(10.0**m - 1, rel=1e-12)


def test_points_at_or_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([(1.0, 1.0), (5.0, 0.0), (-1.0, 9.0)], (0.0, 0.0)) == 1.0
    assert hypervolume([(0.0, 5.0)], (0.0, 0.0)) == 0.0


def test_no_points_have_no_volume() -> None:
    assert hypervolume([], (0.0, 0.0)) == 0.0
    assert hypervolume(np.zeros((0, 2)), (0.0, 0.0)) == 0.0
    assert non_dominated([]).shape == (0,)


@settings(deadline=None, max_examples=60)
@given(points_of_few_values)
def test_non_dominated_agrees_with_the_definition(points: np.ndarray) -> None:
    beats = (points[None] >= points[:, None]).all(-1) & (points[None] > points[:, None]).any(-1)  # [i, j]: j beats i
    assert (non_dominated(points) == ~beats.any(axis=1)).all()


@settings(deadline=None, max_examples=60)
@given(points_of_few_values)
def test_hypervolume_counts_unit_cells(points: np.ndarray) -> None:
    cells = np.indices([4] * points.shape[1]).reshape(points.shape[1], -1).T  # [0, 4]^m in unit cubes, by lower corner
    covered = (points[None] >= cells[:, None] + 1).all(-1).any(-1).sum()
    assert hypervolume(points, np.zeros(points.shape[1])) == pytest.approx(covered, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(points_of_few_values)
def test_the_front_alone_has_the_whole_volume(points: np.ndarray) -> None:
    reference = np.full(points.shape[1], -1.0)
    assert hypervolume(points[non_dominated(points)], reference) == pytest.approx(hypervolume(points, reference))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1.0, 2.0], r"points have shape \(2,\); expected n x m"),
        ([[1.0, float("nan")]], "points hold NaN; drop failed trials"),
    ],
)
def test_points_that_are_none_are_refused(points: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        non_dominated(points)
    with pytest.raises(InputError, match=message):
        hypervolume(points, (0.0, 0.0))


def test_a_reference_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"reference has shape \(3,\), the points \(1, 2\)"):
        hypervolume([[1.0, 2.0]], (0.0, 0.0, 0.0))
