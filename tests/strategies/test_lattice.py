import numpy as np

from mobo_mpq.strategies.lattice import best_policy, biased
from mobo_mpq.testing.toys import make_toy

Levels = np.ndarray


def _bits(levels: Levels) -> np.ndarray:
    return levels.sum(axis=-1).astype(float)


def test_the_best_of_a_small_space_is_found() -> None:
    toy = make_toy()
    grid = toy.problem.space.grid()
    values = np.random.default_rng(0).random(len(grid))
    order = {row.tobytes(): value for row, value in zip(grid, values, strict=True)}
    found = best_policy(
        toy.problem,
        lambda levels: np.array([order[row.tobytes()] for row in levels]),
        grid[:12],
        grid[:0],
        np.random.default_rng(1),
    )
    assert found is not None
    assert order[found.tobytes()] >= np.sort(values)[-20]  # it looks at most of the space, unguided


def test_rounds_climb_from_the_starts() -> None:
    toy = make_toy(30)
    lowest = toy.problem.space.to_levels([toy.problem.space.lowest()])
    found = best_policy(
        toy.problem, lambda levels: -np.abs(_bits(levels) - 3), lowest, lowest, np.random.default_rng(0)
    )
    assert found is not None
    assert found.sum() == 3  # one move raises it by two at most


def test_taken_and_unaffordable_policies_are_not_found() -> None:
    toy = make_toy(4, budgets={"latency_s": 0.6})
    grid = toy.problem.space.grid()
    affordable = grid[toy.problem.affordable(grid)]
    order = np.argsort(_bits(affordable), kind="stable")
    found = best_policy(toy.problem, _bits, affordable[order[:1]], affordable[order[1:]], np.random.default_rng(0))
    assert found is not None
    assert (found == affordable[order[0]]).all()
    assert best_policy(toy.problem, _bits, affordable[:1], affordable, np.random.default_rng(0)) is None


def test_random_policies_spread_over_the_cost() -> None:
    toy = make_toy(60)
    cost = toy.problem.costs[0]
    low, high = cost(toy.problem.space.lowest()), cost(toy.problem.space.highest())
    share = (cost.of_levels(biased(toy.problem, 200, np.random.default_rng(0))) - low) / (high - low)
    assert np.histogram(share, bins=5, range=(0, 1))[0].min() >= 15
