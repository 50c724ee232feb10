import math

import pytest
import torch

from mobo_mpq.sensitivity.sqnr import mean_sqnr_db, sqnr


def test_identities() -> None:
    ones, zeros = torch.ones(4, 3), torch.zeros(4, 3)
    assert sqnr(ones, zeros) == 1.0
    assert sqnr(2 * ones, ones) == 4.0
    assert sqnr(ones, ones) == math.inf
    assert sqnr(zeros, ones) == 0.0


def test_the_scale_of_both_does_not_matter() -> None:
    x, noise = torch.randn(50, 7), 0.1 * torch.randn(50, 7)
    expected = sqnr(x, x + noise)
    assert sqnr(1e-4 * x, 1e-4 * (x + noise)) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(100, rel=0.3)


def test_decibels_are_of_the_mean_over_batches() -> None:
    ones, zeros = torch.ones(4, 3), torch.zeros(4, 3)
    assert mean_sqnr_db([(ones, zeros)]) == 0.0
    assert mean_sqnr_db([(ones, zeros), (3 * ones, 2 * ones)]) == pytest.approx(10 * math.log10(5))
    assert mean_sqnr_db([(ones, zeros)] * 7) == pytest.approx(0.0)
