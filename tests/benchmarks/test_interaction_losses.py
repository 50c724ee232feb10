import itertools

import numpy as np
import pytest
from interactions import convex, together

from mobo_mpq.sensitivity import PairTable


def table_of(matrix: np.ndarray, layers: int, options: int) -> PairTable:
    """The losses that half of a Hessian gives: squares of its layers' own options, and products of two layers'."""
    blocks = matrix.reshape(layers, options, layers, options)
    own = np.array([np.diagonal(blocks[i, :, i]) for i in range(layers)])
    both = {(i, j): 2 * blocks[i, :, j] for i, j in itertools.combinations(range(layers), 2)}
    return PairTable(own, both, "nat", 0, 0.0)


def test_what_is_convex_stays_as_it_is_and_what_is_not_becomes_it() -> None:
    errors = np.array([[1.0, 0.5, 0.2], [0.0, 1.0, -0.3], [0.4, 0.0, 1.0]])
    options = np.array(list(itertools.product(range(1), repeat=3)))
    pairs = table_of(errors @ errors.T, 3, 1)
    assert convex(pairs, options) == pytest.approx([pairs.predicted(row) for row in options])
    against = table_of(np.array([[1.0, -3.0], [-3.0, 1.0]]), 2, 1)
    chosen = np.zeros((1, 2), dtype=np.intp)
    assert against.predicted(chosen[0]) == -4.0
    assert convex(against, chosen) == pytest.approx([0.0], abs=1e-12)  # no quadratic form of that sign is left
    assert together(against) == "-2.00 to -2.00"
