"""Exact allocation: one option per layer, at least total sensitivity, within budgets (HAWQ-V3, Yao et al. 2021).

An integer linear program in binary variables ``z[layer, option]``, solved by HiGHS through :func:`scipy.optimize.milp`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobo_mpq.binary_programme import FEASIBILITY, Budget, Link, solve
from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.pairwise import Ends, PairwiseSum, linear
from mobo_mpq.policy import Policy
from mobo_mpq.space import SearchSpace

TOLERANCE = 1e-9
"""Budgets hold up to this relative excess."""

MOST_COMBINATIONS = 3_000
"""Of the options of two layers, over all interactions: 26 layers of 3 options. Beyond it, a solution takes minutes."""

_MAX_REFUSED = 8


def allocate(
    sensitivity: ArrayLike,
    costs: Mapping[str, ArrayLike],
    budgets: Mapping[str, float],
    groups: Sequence[Sequence[int]] | None = None,
    interactions: Mapping[tuple[int, int], ArrayLike] | None = None,
) -> NDArray[np.intp]:  # layers
    """The options, one per layer, of least total sensitivity that keep every budget.

    Args:
        sensitivity: ``layers x options``; negative values are fine.
        costs: name -> ``layers x options``.
        budgets: name -> largest total cost, kept to 1e-9 relative.
        groups: lists of layer indices that must take the same option.
        interactions: two layers -> ``options of the first x options of the second``: what both together add to the sum
            of their sensitivities (CLADO, Deng et al., arXiv 2307.05657). Exact too; for up to 26 layers of 3
            options that all interact.

    Raises:
        InputError: when shapes disagree, a budget has no cost table, or an interaction is not one of two layers.
        InfeasibleBudget: names the budget, the cheapest possible value, and the one asked for.
    """
    loss = _table("sensitivity", sensitivity, None)
    tables = {name: _table(name, table, loss.shape) for name, table in costs.items()}
    for name, limit in budgets.items():
        if name not in tables:
            raise InputError(f"budget '{name}' has no cost table; there are tables for {', '.join(tables) or 'none'}")
        if math.isnan(limit):
            raise InputError(f"budget '{name}' is not a number; expected the largest total cost")
    links: list[Link] = [(_members(group, len(loss)), range(loss.shape[1])) for group in groups or ()]
    limits = {name: (tables[name], float(limit)) for name, limit in budgets.items()}
    if not interactions:
        return _best(loss, limits, links)
    combinations = len(interactions) * loss.shape[1] ** 2
    if combinations > MOST_COMBINATIONS:
        raise InputError(
            f"{len(interactions)} interactions of {loss.shape[1]} options have {combinations} combinations; expected "
            f"at most {MOST_COMBINATIONS}: leave out the weakest interactions, or options"
        )
    pairs = {ends: _interaction(ends, table, loss.shape) for ends, table in interactions.items()}
    plain = [(PairwiseSum(table), limit) for table, limit in limits.values()]
    chosen = least_pairwise(PairwiseSum(loss, pairs), plain, links)
    if chosen is None:
        check_budgets(limits, links)
    return _required(chosen)


def least_pairwise(
    objective: PairwiseSum, budgets: Sequence[tuple[PairwiseSum, float]], links: Sequence[Link] = ()
) -> NDArray[np.intp] | None:  # layers
    """The options, one per layer, of the least sum over layers and pairs that keep every budget; None without any."""
    chosen = _within_budgets(*linear(objective, budgets, links))
    options = objective.layers.shape[1]
    return None if chosen is None else np.asarray(chosen[: len(objective.layers)] // options, dtype=np.intp)


def cheapest(space: SearchSpace, table: NDArray[np.float64], budgets: Mapping[str, Budget] | None = None) -> Policy:
    """The legal policy of least total cost: exact, with ties and pairs that a target lacks.

    Args:
        space: the legal policies.
        table: ``layers x options``; NaN where a pair is not legal.
        budgets: name -> a table like it, and the largest total.

    Raises:
        InfeasibleBudget: names the first budget that no policy keeps, alone or beside those before it.
    """
    return _policy(space, _best(table, budgets or {}, _links_of(space)))


def least_loss(
    space: SearchSpace, loss: NDArray[np.float64], budgets: Sequence[Budget], refused: Sequence[Policy] = ()
) -> Policy | None:
    """The legal policy of least total loss within the budgets that is none of those refused; None when none is left.

    Args:
        space: the legal policies.
        loss: ``layers x options``; NaN where a pair is not legal.
        budgets: tables like it, and the largest totals.
        refused: policies of the space.
    """
    cut = [np.array([space.options.index(policy[name]) for name in space.names], dtype=np.intp) for policy in refused]
    chosen = _within_budgets(loss, budgets, _links_of(space), cut)
    return None if chosen is None else _policy(space, chosen)


def _links_of(space: SearchSpace) -> list[Link]:
    """Decisions that several layers share."""
    links: list[Link] = []
    for variable in space.decisions:
        members = [space.names.index(name) for name in variable.layers]
        if len(members) > 1:
            links.append((members, [getattr(bits, variable.role) for bits in space.options]))
    return links


def _policy(space: SearchSpace, chosen: NDArray[np.intp]) -> Policy:
    return Policy(tuple((name, space.options[i]) for name, i in zip(space.names, chosen, strict=True)))


def _best(objective: NDArray[np.float64], budgets: Mapping[str, Budget], links: Sequence[Link]) -> NDArray[np.intp]:
    """The best options; where there are none, the budget that is to blame is named."""
    chosen = _within_budgets(objective, list(budgets.values()), links)
    if chosen is None:
        check_budgets(budgets, links)
    return _required(chosen)


def check_budgets(budgets: Mapping[str, Budget], links: Sequence[Link]) -> None:
    """Refuse the first budget that nothing keeps: alone, and then beside the budgets before it."""
    for name, (table, limit) in budgets.items():
        least = _total(table, _required(_within_budgets(table, [], links)))
        if not _within(least, limit):
            raise InfeasibleBudget(name, least, limit)
    for i, (name, (table, limit)) in enumerate(list(budgets.items())[1:], start=1):
        before = list(budgets)[:i]
        least = _total(table, _required(_within_budgets(table, [budgets[other] for other in before], links)))
        if not _within(least, limit):
            raise InfeasibleBudget(name, least, limit, before)


def _within_budgets(
    objective: NDArray[np.float64],
    budgets: Sequence[Budget],
    links: Sequence[Link],
    refused: Sequence[NDArray[np.intp]] = (),
) -> NDArray[np.intp] | None:
    """The best options that keep the budgets to :data:`TOLERANCE`, or None.

    HiGHS lets a constraint be exceeded a little. What exceeds a budget is cut off, alone, and the rest is solved again:
    shrinking the budget would also lose what meets it exactly. It is the last resort, where many exceed it alike.
    """
    bounded = [(table, limit) for table, limit in budgets if limit < np.inf]
    refused = [*refused]
    for shrink in (*[0.0] * _MAX_REFUSED, 2 * FEASIBILITY):
        chosen = solve(objective, bounded, links, refused, shrink)
        if chosen is None or all(_within(_total(table, chosen), limit) for table, limit in bounded):
            return chosen
        refused.append(chosen)
    return None


def _required(chosen: NDArray[np.intp] | None) -> NDArray[np.intp]:
    if chosen is None:
        raise InputError("no option is legal for some layer or group; every layer needs at least one")
    return chosen


def _members(group: Sequence[int], layers: int) -> list[int]:
    for member in group:
        if not 0 <= member < layers:
            raise InputError(f"group {list(group)} names layer {member}; expected indices from 0 to {layers - 1}")
    return list(group)


def _interaction(ends: Ends, table: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """What two layers add together, checked."""
    layers, options = shape
    if len(set(ends)) != 2 or not all(0 <= end < layers for end in ends):
        raise InputError(
            f"interaction {tuple(ends)} is not one of two layers; expected two different indices from 0 to {layers - 1}"
        )
    return _table(f"interactions[{ends[0]}, {ends[1]}]", table, (options, options))


def _total(table: NDArray[np.float64], chosen: NDArray[np.intp]) -> float:
    return float(table[np.arange(len(chosen)), chosen].sum())


def _within(value: float, limit: float) -> bool:
    return value <= limit + TOLERANCE * abs(limit)


def _table(name: str, table: ArrayLike, shape: tuple[int, ...] | None) -> NDArray[np.float64]:
    array = np.asarray(table, dtype=np.float64)
    if array.ndim != 2 or (shape is not None and array.shape != shape):
        expected = f"{shape}" if shape else "layers x options"
        raise InputError(f"table '{name}' has shape {array.shape}; expected {expected}")
    if not np.isfinite(array).all():
        raise InputError(f"table '{name}' holds values that are not finite; expected a number everywhere")
    return array
