"""Choose one option of each layer: a linear programme in binary variables, solved exactly by HiGHS.

Large ones are cut down first. The relaxation's prices bound from below what a solution with a given option can cost; a
good solution among the options that look best bounds the optimum from above; what is beyond doubt is dropped. That is
reduced-cost fixing; Balas and Zemel (Operations Research, 1980) call the rest the core.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, vstack

from mobo_mpq.quiet import native_output_dropped

Link = tuple[Sequence[int], Sequence[Hashable]]
"""Layers, and one label per option: the layers must take options of equal label."""

Budget = tuple[NDArray[np.float64], float]
"""``layers x options``, and the largest total."""

FEASIBILITY = 1e-6
"""By how much HiGHS lets a bound be exceeded, of numbers that are scaled to 1e4."""

_SCALE = 1e4  # HiGHS stops within 1e-6 of the optimum and of each bound, absolute: so numbers had better be large
_LARGE = 400  # options of all layers from which on the programme is cut down
_FIRST, _WIDER = 3, 2  # options for each layer, on average, in the first core, and by how much each next one grows
_DOUBT = 1e-2  # of numbers that are scaled to 1e4


@dataclass(frozen=True)
class _Rows:
    """A programme in the form of a solver: one variable for each layer and option, in this order."""

    values: NDArray[np.float64]
    legal: NDArray[np.bool_]
    equal: csr_array
    equals: NDArray[np.float64]
    below: csr_array
    limits: NDArray[np.float64]
    shape: tuple[int, int]


def solve(
    objective: NDArray[np.float64],
    budgets: Sequence[Budget],
    links: Sequence[Link],
    refused: Sequence[NDArray[np.intp]] = (),
    shrink: float = 0.0,
) -> NDArray[np.intp] | None:  # layers
    """The best option of each layer, or None when there is no solution.

    Args:
        objective: ``layers x options``, minimised; not finite where an option is not legal.
        budgets: finite limits; they may be exceeded by the solver's tolerance.
        links: between layers.
        refused: options of all layers, no solutions.
        shrink: of every budget, where limits are scaled to 1e4.
    """
    rows = _rows(objective, budgets, links, refused, shrink)
    if rows.legal.sum() < _LARGE:
        return _milp(rows, rows.legal)
    bound = _excess(rows)
    if bound is None:
        return None
    least, excess = bound
    ranked = np.sort(excess)
    kept = _FIRST * rows.shape[0]
    while kept < rows.legal.sum():
        core = rows.legal & (excess <= ranked[kept])
        chosen = _milp(rows, core)
        kept *= _WIDER
        if chosen is None:
            continue
        found = float(rows.values.reshape(rows.shape)[np.arange(len(chosen)), chosen].sum())
        in_doubt = rows.legal & (least + excess <= found + _DOUBT)
        if not (in_doubt & ~core).any():
            return chosen
        if in_doubt.sum() <= kept:
            return _milp(rows, in_doubt)
    return _milp(rows, rows.legal)


def _rows(
    objective: NDArray[np.float64],
    budgets: Sequence[Budget],
    links: Sequence[Link],
    refused: Sequence[NDArray[np.intp]],
    shrink: float,
) -> _Rows:
    layers, options = objective.shape
    legal = np.isfinite(objective)
    one_each = csr_array(
        (np.ones(layers * options), (np.repeat(np.arange(layers), options), np.arange(layers * options)))
    )
    linked = _link_rows(links, layers, options)
    equal = vstack([one_each, *linked], format="csr")
    below, limits = [csr_array((0, layers * options))], []
    for table, limit in budgets:
        scale = max(abs(limit), float(np.nanmax(np.abs(table))), np.finfo(float).tiny) / _SCALE
        below.append(csr_array(np.where(np.isfinite(table), table, 0.0).reshape(1, -1) / scale))
        limits.append(limit / scale - shrink)
    for chosen in refused:
        row = np.zeros((layers, options))
        row[np.arange(layers), chosen] = 1.0
        below.append(csr_array(row.reshape(1, -1)))
        limits.append(layers - 1.0)
    # What a layer's options have in common changes nothing; taken out, small differences survive the scaling.
    values = np.where(legal, objective - np.nanmin(np.where(legal, objective, np.nan), axis=1, keepdims=True), 0.0)
    spread = max(float(np.abs(values).max()), np.finfo(float).tiny) / _SCALE
    return _Rows(
        values=(values / spread).ravel(),
        legal=legal.ravel(),
        equal=equal,
        equals=np.concatenate([np.ones(layers), np.zeros(len(linked))]),
        below=vstack(below, format="csr"),
        limits=np.array(limits),
        shape=(layers, options),
    )


def _milp(rows: _Rows, allowed: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    """Solve with some of the options."""
    with native_output_dropped():  # HiGHS reports on solutions that it has to mend, even when told to be silent
        result = milp(
            rows.values[allowed],
            integrality=np.ones(int(allowed.sum()), dtype=np.intp),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(rows.equal[:, allowed], rows.equals, rows.equals),
                LinearConstraint(rows.below[:, allowed], np.full(len(rows.limits), -np.inf), rows.limits),
            ],
            options={"mip_rel_gap": 0.0, "presolve": False},  # which costs more than it saves on few variables
        )
    if result.x is None:
        return None
    whole = np.zeros(allowed.shape)
    whole[allowed] = result.x
    return np.asarray(whole.reshape(rows.shape).argmax(axis=1), dtype=np.intp)


def _excess(rows: _Rows) -> tuple[float, NDArray[np.float64]] | None:
    """A lower bound, and what each option adds to it at least: from the relaxation's prices, whatever their accuracy.

    None when the relaxation has no solution.
    """
    solve_relaxed: Any = linprog  # its stubs know no sparse matrices
    result = solve_relaxed(
        rows.values,
        A_ub=rows.below,
        b_ub=rows.limits,
        A_eq=rows.equal,
        b_eq=rows.equals,
        bounds=np.stack([np.zeros(len(rows.legal)), rows.legal.astype(float)], axis=1),
        method="highs",
    )
    if result.x is None:
        return None
    prices = np.minimum(result.ineqlin.marginals, 0.0)
    free = result.eqlin.marginals.copy()
    free[: rows.shape[0]] = 0.0  # one option of each layer: minimised over, not priced
    reduced = rows.values - rows.below.T @ prices - rows.equal.T @ free
    reduced = np.where(rows.legal, reduced, np.inf).reshape(rows.shape)
    lowest = reduced.min(axis=1, keepdims=True)
    return float(lowest.sum() + rows.limits @ prices), (reduced - lowest).ravel()


def _link_rows(links: Sequence[Link], layers: int, options: int) -> list[csr_array]:
    """Equalities: the first layer of a link takes a label exactly when each other one does."""
    rows = []
    for members, labels in links:
        for other in members[1:]:
            for label in dict.fromkeys(labels):
                row = np.zeros((layers, options))
                same = np.array([one == label for one in labels])
                row[members[0], same] += 1.0
                row[other, same] -= 1.0
                rows.append(csr_array(row.reshape(1, -1)))
    return rows
