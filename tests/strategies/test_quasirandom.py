import numpy as np

from mobo_mpq.strategies.quasirandom import Sobol
from mobo_mpq.testing.toys import make_toy


def test_the_first_points_are_balanced_in_every_variable() -> None:
    toy = make_toy(10, weight_bits=(2, 3, 4, 8), activation_bits=(4, 8))
    strategy = Sobol(toy.problem, seed=0)
    levels = toy.problem.space.to_levels([strategy.point(k) for k in range(64)])
    for size, column in zip(toy.problem.space.sizes, levels.T, strict=True):
        assert np.bincount(column).tolist() == [64 // size] * size


def test_a_point_depends_on_the_seed_and_its_number_alone() -> None:
    toy = make_toy(10)
    one, two = Sobol(toy.problem, seed=4), Sobol(toy.problem, seed=4)
    proposals = one.ask(6)
    assert [two.point(k) for k in (5, 3)] == [proposals[5].policy, proposals[3].policy]
    assert Sobol(toy.problem, seed=5).point(3) != one.point(3)


def test_a_space_of_one_policy_is_used_up_by_trial_0() -> None:
    toy = make_toy(2, weight_bits=(8,))
    strategy = Sobol(toy.problem, seed=0)
    assert strategy.point(1) == toy.problem.space.highest()
    assert len(strategy.ask(3)) == 1
