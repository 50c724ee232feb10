from dataclasses import replace

import numpy as np
import pytest

from mobo_mpq.engine.designs import sensitivity_front, spread, uniform_policies, van_der_corput
from mobo_mpq.pareto import non_dominated
from mobo_mpq.testing.toys import make_toy


def test_uniform_policies_fall_from_the_highest_bits() -> None:
    problem = make_toy(8, activation_bits=(2, 4, 8)).problem
    uniform = problem.space.uniform
    expected = [(4, 4), (2, 2), (8, 4), (8, 2), (4, 8), (4, 2), (2, 8), (2, 4)]
    assert uniform_policies(problem, 99) == [uniform(*bits) for bits in expected]
    assert uniform_policies(problem, 3) == [uniform(*bits) for bits in expected[:3]]


def test_many_equal_ranks_are_thinned_evenly() -> None:
    problem = make_toy(3, weight_bits=range(2, 9), activation_bits=range(2, 9)).problem
    assert uniform_policies(problem, 3) == [problem.space.uniform(bits, bits) for bits in (7, 5, 2)]


def test_a_space_of_one_policy_has_no_uniform_policies() -> None:
    assert uniform_policies(make_toy(3, weight_bits=(8,)).problem, 5) == []


@pytest.mark.parametrize("size", [False, True])
def test_the_front_of_the_sensitivities_is_on_the_true_front_of_their_sum(size: bool) -> None:
    problem = make_toy(6, size=size, sensitivity=True).problem
    front = sensitivity_front(problem, np.random.default_rng(0))
    costs = problem.costs[0].of_levels(front)
    assert (np.diff(costs) <= 0).all()
    assert problem.sensitivity is not None
    grid = problem.space.grid()

    def points(levels: np.ndarray) -> np.ndarray:
        table = problem.sensitivity
        loss = table[np.arange(len(table)), problem.space.option_indices(levels)].sum(-1)
        return -np.column_stack([loss, *(cost.of_levels(levels) for cost in problem.costs)]).round(12)

    best = {tuple(point) for point in points(grid)[non_dominated(points(grid))]}
    assert {tuple(point) for point in points(front)} <= best
    assert len(front) >= 8


def test_it_keeps_the_budgets() -> None:
    problem = make_toy(6, sensitivity=True, budgets={"latency_s": 0.5}).problem
    front = sensitivity_front(problem, np.random.default_rng(0))
    assert problem.affordable(front).all()
    assert 0 < len(front) < len(sensitivity_front(replace(problem, budgets={}), np.random.default_rng(0)))


@pytest.mark.parametrize("arguments", [{"layers": 3, "weight_bits": (8,)}, {"layers": 1}])
def test_small_spaces_have_a_front(arguments: dict) -> None:
    problem = make_toy(**arguments, sensitivity=True).problem
    front = sensitivity_front(problem, np.random.default_rng(0))
    assert {tuple(row) for row in front} == {tuple(row) for row in problem.space.grid()}


def test_layers_that_cost_nothing_leave_the_cheapest_policy() -> None:
    problem = make_toy(5, weight_bits=(8, 16, 32), activation_bits=(8, 32), depthwise_pairs=[(8, 8), (32, 32)]).problem
    known = replace(problem, sensitivity=np.zeros((5, 6)))
    front = sensitivity_front(known, np.random.default_rng(0))
    assert known.space.to_policies(front) == [known.space.lowest()]


def test_spread_takes_members_at_even_costs() -> None:
    costs = np.array([9.0, 8.9, 8.8, 5.2, 4.0, 1.0])
    levels = np.arange(6)[:, None]
    assert spread(levels, costs, 3)[:, 0].tolist() == [0, 3, 5]
    assert spread(levels, costs, 999)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(spread(levels[:0], costs[:0], 3)) == 0


def test_van_der_corput_halves_the_gaps() -> None:
    assert [van_der_corput(k) for k in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
