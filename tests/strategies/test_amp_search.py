import math
from collections.abc import Callable

import numpy as np
import pytest

from mobo_mpq.strategies.amp_search import SEARCHES, follow, phase_2_search

POINTS = 1000
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "log2": lambda x: np.log2(1 + x),
    "tanh": lambda x: np.tanh((x - 500) / 500),
    "sigmoid": lambda x: 1 / (1 + np.exp(-(x - 500) / 250)),
}


def falling(curve: str) -> np.ndarray:
    return CURVES[curve](np.arange(POINTS, dtype=np.float64))[::-1]


def found(name: str, values: np.ndarray, target: float) -> int:
    known = dict(enumerate(values.tolist()))
    wanted, index = follow(SEARCHES[name](len(values), target), known)
    assert wanted is None
    assert index is not None
    return index


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("name", SEARCHES)
def test_the_last_point_that_keeps_the_target(name: str, curve: str) -> None:
    values = falling(curve)
    for index in [*range(0, POINTS, 37), 1, POINTS - 2, POINTS - 1]:
        assert found(name, values, values[index]) == index
        assert found(name, values, values[index] - 1e-5) == index
        assert found(name, values, values[index] + 1e-5) == max(index - 1, 0)


def visited(name: str, values: list[float], target: float) -> list[int]:
    known: dict[int, float] = {}
    order = []
    while True:
        wanted, _ = follow(SEARCHES[name](len(values), target), known)
        if wanted is None:
            return order
        order.append(wanted)
        known[wanted] = values[wanted]


def test_what_is_looked_at() -> None:
    values = [0.91, 0.90, 0.89, 0.86]
    assert visited("brute", values, 0.88) == [0, 1, 2, 3]
    assert visited("binary", values, 0.88) == [2, 3]
    assert visited("interpolation", values, 0.87) == [0, 3, 2]  # three of four
    linear = falling("identity").tolist()
    assert len(visited("interpolation", linear, 200.0)) <= 4
    assert len(visited("binary", linear, 200.0)) <= math.ceil(math.log2(POINTS)) + 1


@pytest.mark.parametrize("name", SEARCHES)
def test_lists_of_one_point_and_points_without_a_value(name: str) -> None:
    assert found(name, np.array([0.5]), 0.4) == found(name, np.array([0.5]), 0.6) == 0
    assert found(name, np.array([0.9, 0.8, -np.inf, -np.inf]), 0.5) == 1
    assert found(name, np.array([-np.inf, -np.inf]), 0.5) == 0


@pytest.mark.parametrize("name", SEARCHES)
def test_early_exits(name: str) -> None:
    values = {0: 0.9, 3: 0.8}
    assert follow(phase_2_search(name, 4, 0.95), values) == (None, 0)  # the highest bits miss it
    assert follow(phase_2_search(name, 4, 0.80), values) == (None, 3)  # the lowest keep it
    wanted, index = follow(phase_2_search(name, 4, 0.85), values)
    assert wanted in (1, 2)
    assert index is None
    assert follow(phase_2_search(name, 4, 0.85), {}) == (0, None)
