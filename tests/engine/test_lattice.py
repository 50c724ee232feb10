from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.engine.lattice import Candidates, Known, around, best_policy, biased
from mobo_mpq.problem import Problem
from mobo_mpq.testing.toys import make_toy

Levels = np.ndarray
Floats = np.ndarray


class Explicit:
    """A function of levels as the objective, and another one, or the same, as its stand-in."""

    def __init__(self, value: Callable[[Levels], Floats], screen: Callable[[Levels], Floats] | None = None) -> None:
        self.function, self.stand_in = value, screen or value
        self.looked_at: list[Levels] = []
        self.valued = 0

    def screen(self, candidates: Candidates) -> Floats:
        self.looked_at.append(candidates.levels)
        return self.stand_in(candidates.levels)

    def value(self, chosen: np.ndarray) -> Floats:
        self.valued += len(chosen)
        return self.function(self.looked_at[-1][chosen])


def _additive(problem: Problem, seed: int) -> Callable[[Levels], Floats]:
    sizes = problem.space.sizes
    table = np.random.default_rng(seed).random((len(sizes), max(sizes)))
    return lambda levels: table[np.arange(len(sizes)), levels].sum(-1)


NONE = np.zeros((0, 6), dtype=np.intp)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_of_a_pool_is_found(seed: int) -> None:
    problem = make_toy().problem
    grid = problem.space.grid()
    value = _additive(problem, seed)
    found = best_policy(problem, Explicit(value), Candidates.alone(grid), NONE, np.random.default_rng(0))
    assert found is not None
    assert found[1] == value(grid).max() == value(found[0])


@pytest.mark.parametrize("seed", range(4))
def test_rounds_climb_to_the_best_policy_three_moves_away(seed: int) -> None:
    problem = make_toy().problem
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, 6)
    base = target.copy()
    base[rng.permutation(6)[:3]] += 1
    base %= 3
    objective = Explicit(lambda levels: -(levels != target).sum(-1).astype(float))
    found = best_policy(problem, objective, around(problem, base[None], rng), base[None], rng)
    assert found is not None
    assert found[0].tolist() == target.tolist()
    assert found[1] == 0


def test_a_poor_stand_in_costs_little() -> None:
    """The screening keeps 12 % of the candidates: the best of them is among the best of all."""
    problem = make_toy().problem
    grid = problem.space.grid()
    value = _additive(problem, 0)
    noise = np.random.default_rng(0)
    objective = Explicit(value, lambda levels: value(levels) + 0.3 * noise.standard_normal(len(levels)))
    found = best_policy(problem, objective, Candidates.alone(grid), NONE, np.random.default_rng(0))
    assert found is not None
    assert found[1] >= np.sort(value(grid))[-5]
    assert objective.valued < 0.2 * sum(len(levels) for levels in objective.looked_at) + 2 * 16


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 1.0), st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=30)
def test_what_is_returned_is_new_legal_and_affordable(seed: int, budget: float, used: float) -> None:
    rng = np.random.default_rng(seed)
    problem = make_toy(
        5,
        weight_bits=(8, 16, 32),
        activation_bits=(8, 32),
        depthwise_pairs=[(8, 8), (32, 32)],
        tie=[["layer1", "layer3"]],
        budgets={"latency_s": budget, "size_bytes": 0.9},
    ).problem
    grid = problem.space.grid()
    taken = grid[rng.permutation(len(grid))[: int(used * len(grid))]]
    objective = Explicit(_additive(problem, seed % 7))
    found = best_policy(problem, objective, around(problem, grid[rng.integers(len(grid), size=3)], rng), taken, rng)
    for levels in objective.looked_at:
        assert problem.space.is_legal(levels).all()
        assert problem.affordable(levels).all()
        assert not {row.tobytes() for row in levels} & {row.tobytes() for row in taken}
    every = np.concatenate([*objective.looked_at, grid[:0]])
    assert len(np.unique(every, axis=0)) == len(every)  # nothing is looked at twice
    if found is None:
        assert not len(every)
    else:
        assert found[1] == objective.function(every).max()


def test_the_last_policy_is_found_and_then_none() -> None:
    problem = make_toy(4, budgets={"latency_s": 0.6}).problem
    grid = problem.space.grid()
    affordable = grid[problem.affordable(grid)]
    pool = around(problem, affordable[:1], np.random.default_rng(0))
    last = pool.levels[problem.affordable(pool.levels)][0]
    others = affordable[(affordable != last).any(-1)]
    objective = Explicit(_additive(problem, 0))
    found = best_policy(problem, objective, pool, others, np.random.default_rng(0))
    assert found is not None
    assert found[0].tolist() == last.tolist()
    assert best_policy(problem, objective, pool, affordable, np.random.default_rng(0)) is None


def test_large_spaces_are_climbed() -> None:
    problem = make_toy(60).problem
    base = np.ones((4, 60), dtype=np.intp)
    objective = Explicit(lambda levels: -np.abs(levels.sum(-1) - 57.0))
    found = best_policy(
        problem, objective, around(problem, base, np.random.default_rng(0)), base, np.random.default_rng(0)
    )
    assert found is not None
    assert found[1] == 0.0


# --- moves ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie", [[], [["layer1", "layer3"]]])
def test_moves_are_legal_and_near_their_base(tie: list) -> None:
    problem = make_toy(
        4, weight_bits=(8, 16, 32), activation_bits=(8, 32), depthwise_pairs=[(8, 8), (32, 32)], tie=tie
    ).problem
    grid = problem.space.grid()
    base = grid[[0, len(grid) // 2, len(grid) - 1]]
    moves = around(problem, base, np.random.default_rng(0))
    assert problem.space.is_legal(moves.levels).all()
    for index, levels in enumerate(base):
        mine = {row.tobytes() for row in moves.levels[moves.of == index]}
        assert {row.tobytes() for row in problem.space.neighbour_levels(levels)} <= mine
        assert levels.tobytes() not in mine


def test_pairs_of_moves_trade_one_level_for_another() -> None:
    problem = make_toy(6).problem
    base = np.array([[1, 1, 1, 1, 1, 1], [2, 2, 2, 0, 0, 0]])
    moves = around(problem, base, np.random.default_rng(0))
    change = moves.levels - base[moves.of]
    pairs = change[(change != 0).sum(-1) == 2]
    assert {tuple(sorted(row[row != 0].tolist())) for row in pairs if set(row.tolist()) <= {-1, 0, 1}} == {(-1, 1)}
    assert len(np.unique(moves.levels[moves.of == 0], axis=0)) == 6 * 2 + 6 * 5  # every move there is, after 192 draws
    one = make_toy(1).problem
    assert around(one, np.array([[1]]), np.random.default_rng(0)).levels.tolist() == [[0], [2]]


def test_candidates_keep_their_bases() -> None:
    problem = make_toy(6).problem
    rng = np.random.default_rng(0)
    near, far = around(problem, problem.space.grid()[[0, 5]], rng), Candidates.alone(problem.space.grid()[100:103])
    both = Candidates.join([near, far])
    assert len(both) == len(near) + 3
    assert (both.base[both.of[-3:]] == far.levels).all()
    assert (both.base[both.of[: len(near)]] == near.base[near.of]).all()
    some = both[both.levels[:, 0] == 0]
    assert (some.levels[:, 0] == 0).all()
    assert (np.abs(some.levels - some.base[some.of]).astype(bool).sum(-1) <= 2).all()


def test_random_policies_spread_over_the_cost() -> None:
    toy = make_toy(60)
    cost = toy.problem.costs[0]
    low, high = cost(toy.problem.space.lowest()), cost(toy.problem.space.highest())
    share = (cost.of_levels(biased(toy.problem, 200, np.random.default_rng(0))) - low) / (high - low)
    assert np.histogram(share, bins=5, range=(0, 1))[0].min() >= 15


# --- the set of known policies -------------------------------------------------------------------------------------


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_known_policies_are_those_of_a_set(data: st.DataObject) -> None:
    d = data.draw(st.integers(0, 5))
    rows = st.lists(st.lists(st.integers(0, 3), min_size=d, max_size=d), max_size=12)

    def draw() -> Levels:
        drawn = data.draw(rows)
        return np.array(drawn, dtype=np.intp).reshape(len(drawn), d)

    first = draw()
    known, expected = Known(first), {tuple(row) for row in first.tolist()}
    for batch in (draw(), draw()):
        fresh = []
        for index, row in enumerate(map(tuple, batch.tolist())):
            if row not in expected:
                fresh.append(index)
                expected.add(row)
        assert known.add_new(batch).tolist() == fresh


def test_many_policies_have_hashes_of_their_own() -> None:
    levels = np.stack(np.unravel_index(np.arange(4**9), (4,) * 9), axis=-1)
    known = Known(levels[:0])
    assert len(known.add_new(levels)) == 4**9
    assert len(known.add_new(levels[::-1])) == 0
