"""What a sweep of budgets spans: as the user asks, within what policies cost and what the study allows."""

from __future__ import annotations

import math

from mobo_mpq.allocation import TOLERANCE
from mobo_mpq.errors import InputError
from mobo_mpq.objective import CostObjective
from mobo_mpq.problem import Problem

_DIGITS = 1e4  # of the shares in messages, rounded so that they are accepted


def budget_range(
    problem: Problem, cost: CostObjective, ends: tuple[float | None, float | None], most: float, owner: str
) -> tuple[float, float]:
    """Least and greatest budget on a cost, in its unit; never above the study's own.

    Args:
        problem: its budgets hold for every policy.
        cost: that is budgeted.
        ends: options ``lowest`` and ``highest``, as shares of the cost of the highest bits; None where the user gave
            none: the cheapest policy, and ``most``.
        most: the greatest budget that is asked for by default, in the unit of the cost.
        owner: whose options they are, for messages: "strategy 'ddq'".

    Raises:
        InputError: for an end below the cheapest policy, or a lowest one above the highest.
    """
    name, whole = cost.info.name, cost(problem.space.highest())
    least, beside = cost(problem.cheapest(name)), set(problem.budgets) - {name}
    for option, share in zip(("lowest", "highest"), ends, strict=True):
        if share is not None and share * whole * (1 + TOLERANCE) < least:
            within = f" within the budget on {' and '.join(sorted(beside))}" if beside else ""
            expected = math.ceil(least / whole / (1 + TOLERANCE) * _DIGITS) / _DIGITS
            raise InputError(
                f"option '{option}' of {owner} is {share}; expected at least {expected:g}, what the cheapest legal "
                f"policy{within} takes of the {name} of the highest bits; or allow fewer bits"
            )
    lowest, highest = ends
    low = least if lowest is None else lowest * whole
    high = max(least, min(most if highest is None else highest * whole, problem.budgets.get(name, math.inf)))
    if low > high * (1 + TOLERANCE):
        expected = math.floor(high / whole * (1 + TOLERANCE) * _DIGITS) / _DIGITS
        raise InputError(
            f"option 'lowest' of {owner} is {lowest}; expected at most {expected:g}, where budgets on {name} end; "
            "lower it, or raise 'highest' or the study's budget"
        )
    return low, max(low, high)
