"""Exact allocation: one option per layer, at least total sensitivity, within budgets (HAWQ-V3, Yao et al. 2021).

An integer linear program in binary variables ``z[layer, option]``, solved by HiGHS through :func:`scipy.optimize.milp`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.policy import Policy
from mobo_mpq.space import SearchSpace

TOLERANCE = 1e-9
"""Budgets hold up to this relative excess."""

_SCALE = 1e4  # HiGHS stops within 1e-6 of the optimum and of each bound, absolute: so numbers had better be large
_FEASIBILITY = 1e-6
_MAX_REFUSED = 8

Link = tuple[Sequence[int], Sequence[Hashable]]
"""Layers, and one label per option: the layers must take options of equal label."""

Budget = tuple[NDArray[np.float64], float]
"""``layers x options``, and the largest total."""


def allocate(
    sensitivity: ArrayLike,
    costs: Mapping[str, ArrayLike],
    budgets: Mapping[str, float],
    groups: Sequence[Sequence[int]] | None = None,
) -> NDArray[np.intp]:  # layers
    """The options, one per layer, of least total sensitivity that keep every budget.

    Args:
        sensitivity: ``layers x options``; negative values are fine.
        costs: name -> ``layers x options``.
        budgets: name -> largest total cost, kept to 1e-9 relative.
        groups: lists of layer indices that must take the same option.

    Raises:
        InputError: when shapes disagree, or a budget has no cost table.
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
    check_budgets(limits, links)
    return _required(_within_budgets(loss, list(limits.values()), links))


def cheapest(space: SearchSpace, table: NDArray[np.float64], budgets: Mapping[str, Budget] | None = None) -> Policy:
    """The legal policy of least total cost: exact, with ties and pairs that a target lacks.

    Args:
        space: the legal policies.
        table: ``layers x options``; NaN where a pair is not legal.
        budgets: name -> a table like it, and the largest total.

    Raises:
        InfeasibleBudget: names the first budget that no policy keeps, alone or beside those before it.
    """
    links: list[Link] = []
    for variable in space.decisions:
        members = [space.names.index(name) for name in variable.layers]
        if len(members) > 1:
            links.append((members, [getattr(bits, variable.role) for bits in space.options]))
    if budgets:
        check_budgets(budgets, links)
    chosen = _required(_within_budgets(table, list((budgets or {}).values()), links))
    return Policy(tuple((name, space.options[i]) for name, i in zip(space.names, chosen, strict=True)))


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
    objective: NDArray[np.float64], budgets: Sequence[Budget], links: Sequence[Link]
) -> NDArray[np.intp] | None:
    """The best options that keep the budgets to :data:`TOLERANCE`, or None.

    HiGHS lets a constraint be exceeded a little. What exceeds a budget is cut off, alone, and the rest is solved again:
    shrinking the budget would also lose what meets it exactly. It is the last resort, where many exceed it alike.
    """
    bounded = [(table, limit) for table, limit in budgets if limit < np.inf]
    refused: list[NDArray[np.intp]] = []
    for shrink in (*[0.0] * _MAX_REFUSED, 2 * _FEASIBILITY):
        chosen = _solve(objective, bounded, links, refused, shrink)
        if chosen is None or all(_within(_total(table, chosen), limit) for table, limit in bounded):
            return chosen
        refused.append(chosen)
    return None


def _solve(
    objective: NDArray[np.float64],
    budgets: Sequence[tuple[NDArray[np.float64], float]],
    links: Sequence[Link],
    refused: Sequence[NDArray[np.intp]],
    shrink: float,
) -> NDArray[np.intp] | None:
    """The best option of each layer, other than those refused, or None when there is no solution."""
    layers, options = objective.shape
    legal = np.isfinite(objective)
    rows = [csr_array(np.kron(np.eye(layers), np.ones(options)))]
    lower, upper = [np.ones(layers)], [np.ones(layers)]
    for table, limit in budgets:
        scale = max(abs(limit), float(np.nanmax(np.abs(table))), np.finfo(float).tiny) / _SCALE
        rows.append(csr_array(np.where(np.isfinite(table), table, 0.0).reshape(1, -1) / scale))
        lower.append(np.array([-np.inf]))
        upper.append(np.array([limit / scale - shrink]))
    for row in _link_rows(links, layers, options):
        rows.append(csr_array(row.reshape(1, -1)))
        lower.append(np.zeros(1))
        upper.append(np.zeros(1))
    for options_of_layers in refused:
        row = np.zeros((layers, options))
        row[np.arange(layers), options_of_layers] = 1.0
        rows.append(csr_array(row.reshape(1, -1)))
        lower.append(np.array([-np.inf]))
        upper.append(np.array([layers - 1.0]))
    # What a layer's options have in common changes nothing; taken out, small differences survive the scaling.
    values = np.where(legal, objective - np.nanmin(np.where(legal, objective, np.nan), axis=1, keepdims=True), 0.0)
    spread = max(float(np.abs(values).max()), np.finfo(float).tiny) / _SCALE
    constraints = [LinearConstraint(row, low, high) for row, low, high in zip(rows, lower, upper, strict=True)]
    result = milp(
        (values / spread).ravel(),
        integrality=np.ones(layers * options),
        bounds=Bounds(0, legal.astype(float).ravel()),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None
    return np.asarray(result.x.reshape(layers, options).argmax(axis=1), dtype=np.intp)


def _link_rows(links: Sequence[Link], layers: int, options: int) -> list[NDArray[np.float64]]:
    """Equalities: the first layer of a link takes a label exactly when each other one does."""
    rows = []
    for members, labels in links:
        for other in members[1:]:
            for label in dict.fromkeys(labels):
                row = np.zeros((layers, options))
                same = np.array([one == label for one in labels])
                row[members[0], same] = 1.0
                row[other, same] = -1.0
                rows.append(row)
    return rows


def _required(chosen: NDArray[np.intp] | None) -> NDArray[np.intp]:
    if chosen is None:
        raise InputError("no option is legal for some layer or group; every layer needs at least one")
    return chosen


def _members(group: Sequence[int], layers: int) -> list[int]:
    for member in group:
        if not 0 <= member < layers:
            raise InputError(f"group {list(group)} names layer {member}; expected indices from 0 to {layers - 1}")
    return list(group)


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
