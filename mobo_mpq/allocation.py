"""Exact allocation: one option per layer, at least total sensitivity, within budgets (HAWQ-V3, Yao et al. 2021).

An integer linear program in binary variables ``z[layer, option]``, solved by HiGHS through :func:`scipy.optimize.milp`.
"""

from __future__ import annotations

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

Link = tuple[Sequence[int], Sequence[Hashable]]
"""Layers, and one label per option: the layers must take options of equal label."""


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
    for name in budgets:
        if name not in tables:
            raise InputError(f"budget '{name}' has no cost table; there are tables for {', '.join(tables) or 'none'}")
    links: list[Link] = [(list(group), range(loss.shape[1])) for group in groups or ()]
    for name, limit in budgets.items():
        chosen = _solve(tables[name], [], links)
        least = _total(tables[name], _required(chosen))
        if not _within(least, limit):
            raise InfeasibleBudget(name, least, limit)
    return _within_budgets(loss, [(name, tables[name], float(limit)) for name, limit in budgets.items()], links)


def cheapest(space: SearchSpace, table: NDArray[np.float64]) -> Policy:
    """The legal policy of least total cost: exact, with ties and pairs that a target lacks.

    Args:
        space: the legal policies.
        table: ``layers x options``; NaN where a pair is not legal.
    """
    links: list[Link] = []
    for variable in space.decisions:
        members = [space.names.index(name) for name in variable.layers]
        if len(members) > 1:
            links.append((members, [getattr(bits, variable.role) for bits in space.options]))
    chosen = _required(_solve(table, [], links))
    return Policy(tuple((name, space.options[i]) for name, i in zip(space.names, chosen, strict=True)))


def _within_budgets(
    loss: NDArray[np.float64], budgets: list[tuple[str, NDArray[np.float64], float]], links: list[Link]
) -> NDArray[np.intp]:
    """Solve, check, and tighten: HiGHS allows itself an excess that we do not."""
    slack = 0.0
    for _ in range(4):
        limits = [(table, limit - slack * max(abs(limit), float(np.abs(table).max()))) for _, table, limit in budgets]
        chosen = _solve(loss, limits, links)
        if chosen is None:
            break
        if all(_within(_total(table, chosen), limit) for _, table, limit in budgets):
            return chosen
        slack = max(slack * 10, 1e-9)
    names = ", ".join(name for name, _, _ in budgets)
    raise (
        InfeasibleBudget(*_tightest(budgets, links))
        if len(budgets) == 1
        else InputError(f"the budgets {names} are possible one by one but not together; raise one of them")
    )


def _tightest(budgets: list[tuple[str, NDArray[np.float64], float]], links: list[Link]) -> tuple[str, float, float]:
    name, table, limit = budgets[0]
    return name, _total(table, _required(_solve(table, [], links))), limit


def _solve(
    objective: NDArray[np.float64],
    budgets: Sequence[tuple[NDArray[np.float64], float]],
    links: Sequence[Link],
) -> NDArray[np.intp] | None:
    """The best option of each layer, or None when there is no solution."""
    layers, options = objective.shape
    legal = np.isfinite(objective)
    rows = [csr_array(np.kron(np.eye(layers), np.ones(options)))]
    lower, upper = [np.ones(layers)], [np.ones(layers)]
    for table, limit in budgets:
        scale = max(abs(limit), float(np.nanmax(np.abs(table))), np.finfo(float).tiny)  # rows of order one
        rows.append(csr_array(np.where(np.isfinite(table), table, 0.0).reshape(1, -1) / scale))
        lower.append(np.array([-np.inf]))
        upper.append(np.array([limit / scale]))
    for row in _link_rows(links, layers, options):
        rows.append(csr_array(row.reshape(1, -1)))
        lower.append(np.zeros(1))
        upper.append(np.zeros(1))
    values = np.where(legal, objective, 0.0)
    spread = max(float(np.abs(values).max()), np.finfo(float).tiny)
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
