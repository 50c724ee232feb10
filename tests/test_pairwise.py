"""Allocation with interactions, against brute force and against allocation without."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.allocation import allocate, least_pairwise
from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.pairwise import PairwiseSum

Interactions = dict[tuple[int, int], np.ndarray]


def total(loss: np.ndarray, interactions: Interactions, chosen: np.ndarray) -> float:
    own = loss[np.arange(len(loss)), chosen].sum()
    return float(own + sum(table[chosen[i], chosen[j]] for (i, j), table in interactions.items()))


def draw(rng: np.random.Generator, layers: int, options: int, share: float) -> tuple[np.ndarray, Interactions]:
    """Losses and interactions of either sign, of some pairs, and in either order."""
    scale = 10.0 ** rng.integers(-6, 7)
    interactions = {}
    for i, j in itertools.combinations(range(layers), 2):
        if rng.random() < share:
            interactions[(i, j) if rng.random() < 0.5 else (j, i)] = rng.normal(size=(options, options)) * scale
    return rng.normal(size=(layers, options)) * scale, interactions


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10_000),
    layers=st.integers(2, 6),
    options=st.integers(1, 3),
    share=st.sampled_from([0.3, 1.0]),
    tightness=st.floats(0.0, 1.0),
    grouped=st.booleans(),
)
def test_interactions_agree_with_brute_force(
    seed: int, layers: int, options: int, share: float, tightness: float, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    loss, interactions = draw(rng, layers, options, share)
    cost = rng.random((layers, options))
    limit = float(cost.min(1).sum() + tightness * (cost.max(1) - cost.min(1)).sum())
    groups = [sorted(rng.choice(layers, 2, replace=False).tolist())] if grouped else []
    every = map(np.array, itertools.product(range(options), repeat=layers))
    legal = [
        chosen
        for chosen in every
        if cost[np.arange(layers), chosen].sum() <= limit * (1 + 1e-9)
        and all(len(set(chosen[group])) == 1 for group in groups)
    ]
    if not legal:
        with pytest.raises(InfeasibleBudget, match="^budget 'c' of"):
            allocate(loss, {"c": cost}, {"c": limit}, groups, interactions)
        return
    chosen = allocate(loss, {"c": cost}, {"c": limit}, groups, interactions)
    assert any((chosen == one).all() for one in legal)
    best = min(total(loss, interactions, one) for one in legal)
    assert total(loss, interactions, chosen) == pytest.approx(best, rel=1e-9, abs=1e-9 * np.abs(loss).max())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), layers=st.integers(2, 8))
def test_interactions_of_nothing_change_nothing(seed: int, layers: int) -> None:
    rng = np.random.default_rng(seed)
    loss, cost = rng.random((layers, 3)), rng.random((layers, 3))
    limit = float(cost.mean(axis=1).sum())
    nothing = {pair: np.zeros((3, 3)) for pair in itertools.combinations(range(layers), 2)}
    plain = allocate(loss, {"c": cost}, {"c": limit})
    assert (allocate(loss, {"c": cost}, {"c": limit}, interactions=nothing) == plain).all()
    assert (allocate(loss, {"c": cost}, {"c": limit}, interactions={}) == plain).all()


def test_two_layers_that_hurt_each_other_are_not_lowered_together() -> None:
    loss = [[1.0, 0.0], [1.1, 0.0], [1.2, 0.0]]  # low bits, high bits
    cost = [[1.0, 2.0]] * 3
    budget = {"size_bytes": 4.0}
    assert allocate(loss, {"size_bytes": cost}, budget).tolist() == [0, 0, 1]
    together = {(0, 1): [[5.0, 0.0], [0.0, 0.0]]}
    assert allocate(loss, {"size_bytes": cost}, budget, interactions=together).tolist() == [0, 1, 0]


def test_twenty_layers_that_all_interact() -> None:
    """1900 combinations; no change of one or two layers is better, as in an optimum."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(20, 4)) * rng.lognormal(0.0, 1.0, (20, 1))
    steps = 2.0 ** (2 - np.array([2, 4, 8]))
    loss = (directions**2).sum(axis=1)[:, None] * steps**2
    interactions = {
        (i, j): 0.6 * (directions[i] @ directions[j]) * np.outer(steps, steps)
        for i, j in itertools.combinations(range(20), 2)
    }
    cost = rng.lognormal(0.0, 1.0, (20, 1)) * [2, 4, 8]
    limit = 0.5 * float(cost[:, -1].sum())
    chosen = allocate(loss, {"c": cost}, {"c": limit}, interactions=interactions)
    least = total(loss, interactions, chosen)
    for (i, j), (a, b) in itertools.product(
        itertools.combinations(range(20), 2), itertools.product(range(3), repeat=2)
    ):
        other = chosen.copy()
        other[[i, j]] = a, b
        if cost[np.arange(20), other].sum() <= limit:
            assert total(loss, interactions, other) >= least * (1 - 1e-9)
    plain = allocate(loss, {"c": cost}, {"c": limit})
    assert least < total(loss, interactions, plain)


def test_budgets_on_pairs() -> None:
    objective = PairwiseSum(np.array([[0.0, 1.0], [0.0, 1.0], [0.0, np.nan]]))
    differ = PairwiseSum(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), {(0, 1): np.eye(2), (2, 1): np.eye(2)})
    assert differ(np.array([0, 0, 0])) == 2.0
    assert least_pairwise(objective, [(differ, 2.0)]).tolist() == [0, 0, 0]
    assert least_pairwise(objective, [(differ, 0.0)]).tolist() == [0, 1, 0]
    assert least_pairwise(objective, [(differ, -1.0)]) is None


@pytest.mark.parametrize(
    ("interactions", "message"),
    [
        ({(0, 0): np.zeros((2, 2))}, r"interaction \(0, 0\) is not one of two layers; expected two different indices"),
        ({(0, 3): np.zeros((2, 2))}, r"interaction \(0, 3\) is not one of two layers; .* from 0 to 2"),
        ({(0, 1): np.zeros((2, 3))}, r"table 'interactions\[0, 1\]' has shape \(2, 3\); expected \(2, 2\)"),
        ({(0, 1): np.full((2, 2), np.nan)}, r"table 'interactions\[0, 1\]' holds values that are not finite"),
    ],
)
def test_bad_interactions_are_refused(interactions: Interactions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate(np.zeros((3, 2)), {}, {}, interactions=interactions)


def test_too_many_interactions_are_refused_before_they_take_hours() -> None:
    pairs = {pair: np.zeros((7, 7)) for pair in itertools.combinations(range(40), 2)}
    expected = "^780 interactions of 7 options have 38220 combinations; expected at most 3000: leave out the weakest"
    with pytest.raises(InputError, match=expected):
        allocate(np.zeros((40, 7)), {}, {}, interactions=pairs)
