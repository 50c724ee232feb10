"""Bits in closed form against the conditions of an optimum, against exact allocation, and against invariances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mobo_mpq as mm
from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.water_filling import allocate_bits, relaxed_bits

CHOICES = (2, 3, 4, 6, 8)


def draw(seed: int, tensors: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.lognormal(0.0, 3.0, tensors), rng.lognormal(4.0, 1.5, tensors), rng


def loss_of(sensitivity: np.ndarray, bits: np.ndarray) -> float:
    return float(sensitivity @ 4.0 ** -bits.astype(np.float64))


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000), tensors=st.integers(1, 12), share=st.floats(0.0, 1.0))
def test_the_conditions_of_the_optimum(seed: int, tensors: int, share: float) -> None:
    """Karush, Kuhn and Tucker: one price for all bits between the bounds; at a bound, no more than it pays."""
    loss, cost, rng = draw(seed, tensors)
    low, high = rng.uniform(1.0, 3.0, tensors), rng.uniform(4.0, 9.0, tensors)
    budget = float(cost @ (low + share * (high - low)))
    bits = relaxed_bits(loss, cost, budget, low, high)
    assert cost @ bits == pytest.approx(budget, rel=1e-9)  # every bit lessens the loss, so all is spent
    assert (bits >= low).all()
    assert (bits <= high).all()
    gain = np.log2(loss * math.log(4.0) * 4.0**-bits / cost)  # of one more unit of cost
    inside = (bits > low + 1e-9) & (bits < high - 1e-9)
    if inside.any():
        price = gain[inside].mean()
        assert gain[inside] == pytest.approx(price, abs=1e-9)
        assert (gain[bits <= low + 1e-9] <= price + 1e-6).all()
        assert (gain[bits >= high - 1e-9] >= price - 1e-6).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), tensors=st.integers(1, 10), share=st.floats(0.0, 1.0))
def test_whole_bits_are_between_the_relaxation_and_what_is_exact(seed: int, tensors: int, share: float) -> None:
    loss, cost, rng = draw(seed, tensors)
    choices = [sorted(rng.choice(CHOICES, size=rng.integers(1, 5), replace=False).tolist()) for _ in range(tensors)]
    low, high = (np.array([own[end] for own in choices], dtype=np.float64) for end in (0, -1))
    budget = float(cost @ (low + share * (high - low)))
    bits = allocate_bits(loss, cost, budget, choices)
    assert cost @ bits <= budget * (1 + 1e-9)
    assert all(own in among for own, among in zip(bits, choices, strict=True))
    legal = [[b if b in own else own[0] for b in CHOICES] for own in choices]  # what is no choice is another one again
    table = np.array([[s * 4.0**-b for b in own] for s, own in zip(loss, legal, strict=True)])
    priced = np.array([[c * b for b in own] for c, own in zip(cost, legal, strict=True)])
    chosen = mm.allocate(table, {"size": priced}, {"size": budget * (1 + 1e-12)})
    exact = np.array([own[i] for own, i in zip(legal, chosen, strict=True)])
    relaxed = loss_of(loss, relaxed_bits(loss, cost, budget, low, high))
    assert relaxed * (1 - 1e-9) <= loss_of(loss, exact) <= loss_of(loss, bits) * (1 + 1e-9)
    room = [own[own.index(b) + 1 :] for own, b in zip(choices, bits, strict=True)]
    left = budget - cost @ bits
    assert all(not more or c * (more[0] - b) > left * (1 - 1e-9) for c, more, b in zip(cost, room, bits, strict=True))


def test_it_is_close_to_exact_allocation() -> None:
    """Over 100 instances of 20 tensors: within 1 % in the median, and within 10 % in nine of ten."""
    ratios, bits = [], np.array(CHOICES)
    for seed in range(100):
        loss, cost, _ = draw(seed, 20)
        budget = float(cost.sum() * 4.5)
        table, priced = loss[:, None] * 4.0**-bits, cost[:, None] * bits
        exact = bits[mm.allocate(table, {"size": priced}, {"size": budget})]
        ratios.append(loss_of(loss, allocate_bits(loss, cost, budget, [CHOICES] * 20)) / loss_of(loss, exact))
    assert min(ratios) >= 1 - 1e-9
    assert np.median(ratios) <= 1.01
    assert np.quantile(ratios, 0.9) <= 1.1


def test_equal_tensors_have_equal_bits() -> None:
    assert relaxed_bits([3.0] * 5, [7.0] * 5, 7 * 5 * 4.3, 2, 8) == pytest.approx([4.3] * 5, rel=1e-12)
    assert (allocate_bits([3.0] * 5, [7.0] * 5, 7 * 5 * 4, [CHOICES] * 5) == 4).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_tensors_does_not_matter(seed: int) -> None:
    loss, cost, rng = draw(seed, 9)
    order, budget = rng.permutation(9), float(cost.sum() * 4.2)
    there = relaxed_bits(loss, cost, budget, 2, 8)
    assert relaxed_bits(loss[order], cost[order], budget, 2, 8) == pytest.approx(there[order], rel=1e-9)
    whole = allocate_bits(loss, cost, budget, [CHOICES] * 9)
    assert (allocate_bits(loss[order], cost[order], budget, [CHOICES] * 9) == whole[order]).all()


def test_four_times_the_loss_is_one_more_bit() -> None:
    assert relaxed_bits([1.0, 4.0], [1.0, 1.0], 9.0, 0, 16) == pytest.approx([4.0, 5.0])
    assert relaxed_bits([1.0, 4.0], [1.0, 4.0], 25.0, 0, 16) == pytest.approx([5.0, 5.0])
    assert relaxed_bits([1.0, 4.0**9], [1.0, 1.0], 9.0, 2, 6) == pytest.approx([3.0, 6.0])


def test_what_loses_nothing_and_what_costs_nothing() -> None:
    bits = relaxed_bits([0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 2.0, 0.0], 12.0, 2, 8)
    assert bits == pytest.approx([2.0, 8.0, 5.0, 2.0])
    assert allocate_bits([0.0, 1.0, 1.0], [1.0, 0.0, 2.0], 12.0, [(2, 4, 8)] * 3).tolist() == [4, 8, 4]
    assert relaxed_bits([1.0, 1.0], [1.0, 1.0], math.inf, 2, 8).tolist() == [8.0, 8.0]
    assert allocate_bits([], [], 1.0, []).tolist() == []


def test_an_impossible_budget_is_named() -> None:
    with pytest.raises(InfeasibleBudget, match="^budget 'bits' of 5 is impossible: the cheapest legal policy costs 6;"):
        allocate_bits([1.0, 1.0], [1.0, 2.0], 5.0, [(2, 4), (2, 4)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], [1.0], 9.0, [(2, 4)]), r"sensitivity has shape \(1, 1\); expected one number for each tensor"),
        (([1.0], [1.0, 2.0], 9.0, [(2, 4)]), r"costs has shape \(2,\); expected one number for each tensor"),
        (([1.0, -1.0], [1.0, 2.0], 9.0, [(2, 4)] * 2), "sensitivity holds -1.0; expected at least 0, finite"),
        (([1.0], [math.nan], 9.0, [(2, 4)]), "costs holds nan; expected at least 0, finite"),
        (([1.0], [1.0], math.nan, [(2, 4)]), r"budget is nan, low \[2\] and high \[4\]; expected a number, and low"),
        (([1.0], [1.0], 9.0, [(4, 2)]), r"choices are \[\[4, 2\]\]; expected increasing bits for each of 1 tensors"),
        (([1.0], [1.0], 9.0, [(2, 4)] * 2), "expected increasing bits for each of 1 tensors"),
    ],
)
def test_bad_input_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate_bits(*arguments)
