"""Bits in closed form: where the loss falls by a quarter with each bit, and each bit costs the same.

The relaxation that QBitOpt solves while it trains: Peters, Fournarakis, Nagel, van Baalen and Blankevoort, "QBitOpt:
Fast and Accurate Bitwidth Reallocation during Training", ICCV Workshops 2023, arXiv 2307.04535. Reconstructed: the
paper's own solver and rounding are not known to us.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobo_mpq.allocation import TOLERANCE
from mobo_mpq.errors import InfeasibleBudget, InputError

BUDGET = "bits"
"""Name of the one budget, in messages."""

_ROUNDING = 1e-9
"""Bits: more than what rounding makes of a whole number."""


def allocate_bits(
    sensitivity: ArrayLike, costs: ArrayLike, budget: float, choices: Sequence[Sequence[int]]
) -> NDArray[np.intp]:  # tensors
    """Bits of tensors such that ``sum(sensitivity * 4**-bits)`` is small, and ``sum(costs * bits)`` within the budget.

    The optimum of real numbers (:func:`relaxed_bits`), rounded down to choices; what that leaves of the budget goes,
    step by step, where a step lessens the loss the most for what it costs. Not exact, but in time ``n log n``:
    :func:`mobo_mpq.allocate` is exact.

    Args:
        sensitivity: ``n`` of at least 0: the loss at 0 bits, such as squared gradients times squared ranges.
        costs: ``n`` of at least 0: of one bit, such as the number of weights.
        budget: the largest total cost, kept to 1e-9 relative.
        choices: of each tensor, increasing.

    Raises:
        InputError: for a shape, a value or choices that are not as above.
        InfeasibleBudget: when the lowest choices cost more.
    """
    tensors = np.size(sensitivity)
    if len(choices) != tensors or not all(len(own) and list(own) == sorted(set(own)) for own in choices):
        raise InputError(
            f"choices are {[list(own) for own in choices]}; expected increasing bits for each of {tensors} tensors"
        )
    low, high = [own[0] for own in choices], [own[-1] for own in choices]
    relaxed = relaxed_bits(sensitivity, costs, budget, low, high)
    loss, cost = np.asarray(sensitivity, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    # what is whole but for the last digits is rounded down too, and raised again below, so that no budget is broken
    level = [
        max(int(np.searchsorted(own, bits - _ROUNDING)) - 1, 0) for own, bits in zip(choices, relaxed, strict=True)
    ]
    left = (
        budget + TOLERANCE * abs(budget) - math.fsum(c * own[i] for c, own, i in zip(cost, choices, level, strict=True))
    )

    def step(tensor: int) -> tuple[float, int]:
        """What the next bits of a tensor save for what they cost, negated: the best comes first."""
        now, then = choices[tensor][level[tensor]], choices[tensor][level[tensor] + 1]
        saved = loss[tensor] * (4.0**-now - 4.0**-then)
        price = cost[tensor] * (then - now)
        return -saved / price if price else -math.inf, tensor

    steps = [step(i) for i in range(len(choices)) if level[i] + 1 < len(choices[i])]
    heapq.heapify(steps)
    while steps:
        _, tensor = heapq.heappop(steps)
        own, at = choices[tensor], level[tensor]
        price = float(cost[tensor]) * (own[at + 1] - own[at])
        if price > left:
            continue  # nor will it ever fit
        left -= price
        level[tensor] += 1
        if level[tensor] + 1 < len(own):
            heapq.heappush(steps, step(tensor))
    return np.array([own[i] for own, i in zip(choices, level, strict=True)], dtype=np.intp)


def relaxed_bits(
    sensitivity: ArrayLike, costs: ArrayLike, budget: float, low: ArrayLike, high: ArrayLike
) -> NDArray[np.float64]:  # tensors
    """The real numbers of bits that minimise ``sum(sensitivity * 4**-bits)`` within ``sum(costs * bits) <= budget``.

    ``bits = log2(sensitivity / (level * costs)) / 2`` between the bounds, at the level that uses the budget up: as
    water that is poured over uneven ground. What costs nothing has its highest bits, what loses nothing its lowest.

    Args:
        sensitivity: ``n`` of at least 0.
        costs: ``n`` of at least 0, of one bit.
        budget: the largest total cost.
        low: the least bits: one number, or ``n``.
        high: the most bits: one number, or ``n``.

    Raises:
        InputError: for a shape or a value that is not as above.
        InfeasibleBudget: when the lowest bits cost more.
    """
    loss, cost = _vector("sensitivity", sensitivity, None), _vector("costs", costs, np.shape(sensitivity))
    least, most = (np.broadcast_to(np.asarray(bound, dtype=np.float64), loss.shape) for bound in (low, high))
    if math.isnan(budget) or not (least <= most).all():
        raise InputError(
            f"budget is {budget}, low {np.asarray(low).tolist()} and high {np.asarray(high).tolist()}; expected a "
            "number, and low at most high"
        )
    if cost @ least > budget + TOLERANCE * abs(budget):
        raise InfeasibleBudget(BUDGET, float(cost @ least), float(budget))
    bits = np.where((cost == 0.0) & (loss > 0.0), most, least)
    free = (cost > 0.0) & (loss > 0.0)
    if free.any():
        spare = float(budget) - float(cost[~free] @ bits[~free])
        bits[free] = _fill(loss[free], cost[free], spare, least[free], most[free])
    return bits


def _fill(
    loss: NDArray[np.float64], cost: NDArray[np.float64], budget: float, low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """By the level's logarithm, costs fall in straight lines between the levels where some bits meet a bound."""
    ground = np.log2(loss) - np.log2(cost)
    corners = np.unique(np.concatenate([ground - 2 * high, ground - 2 * low]))
    spent = np.array([cost @ np.clip((ground - corner) / 2, low, high) for corner in corners])
    level = np.interp(-budget, -spent, corners)  # increasing; beyond the ends, all bits are at a bound
    return np.asarray(np.clip((ground - level) / 2, low, high), dtype=np.float64)


def _vector(name: str, values: ArrayLike, shape: tuple[int, ...] | None) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or (shape is not None and array.shape != shape):
        raise InputError(f"{name} has shape {array.shape}; expected one number for each tensor")
    if not np.isfinite(array).all() or (array < 0.0).any():
        raise InputError(f"{name} holds {array[~(np.isfinite(array) & (array >= 0))][0]}; expected at least 0, finite")
    return array
