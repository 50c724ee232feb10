"""From the bits that training found to a policy that the device runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.allocation import cheapest
from mobo_mpq.choices import Variable
from mobo_mpq.errors import InputError
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace


def covering(space: SearchSpace, bits: Sequence[float]) -> Policy:
    """The policy of each decision's least choice that has at least these bits, raised further where pairs ask for it.

    Args:
        space: of the policy.
        bits: ``decisions``, in the order of ``space.decisions``; above the highest choice counts as that one.

    Returns:
        A legal policy; ties and pins are kept.
    """
    levels = [
        min(int(np.searchsorted(decision.choices, wanted - 1e-9)), len(decision.choices) - 1)
        for decision, wanted in zip(space.decisions, bits, strict=True)
        if len(decision.choices) > 1
    ]
    return space.to_policies(space.repair(np.array(levels, dtype=np.intp)))[0]


def covering_within(problem: Problem, losses: Sequence[Sequence[float]], limits: Mapping[str, float]) -> Policy:
    """The policy that loses least among those that keep limits on costs: exact, by the programme of ``allocate``.

    Args:
        problem: its space and its budgets hold.
        losses: ``decisions x choices``, in the order of ``space.decisions``: what each choice loses, as a learner
            sees it; they add up over decisions, and may be negative.
        limits: name of a cost -> largest value allowed, beside the budgets of the problem.

    Returns:
        A legal policy; ties and pins are kept.

    Raises:
        InputError: for a loss that is not finite, or a cost that the problem does not have.
        InfeasibleBudget: when no legal policy keeps the limits.
    """
    least = dict(problem.budgets)
    for name, limit in limits.items():
        least[name] = min(limit, least.get(name, limit))
    budgets = {name: (problem.cost(name).table, limit) for name, limit in least.items()}
    return cheapest(problem.space, _loss_table(problem.space, losses), budgets)


def _loss_table(space: SearchSpace, losses: Sequence[Sequence[float]]) -> NDArray[np.float64]:  # layers x options
    """The loss of each decision, at the first of its layers; NaN where a pair is not legal."""
    legal = np.array([[tuple(bits) in pairs for bits in space.options] for pairs in space.pairs])
    table = np.where(legal, 0.0, np.nan)
    for decision, loss in zip(space.decisions, losses, strict=True):
        _check(decision, loss)
        of = dict(zip(decision.choices, loss, strict=True))
        table[space.names.index(decision.layers[0])] += [
            of.get(getattr(bits, decision.role), np.nan) for bits in space.options
        ]
    return table


def _check(decision: Variable, losses: Sequence[float]) -> None:
    wrong = [bits for bits, loss in zip(decision.choices, losses, strict=True) if not np.isfinite(loss)]
    if wrong:
        raise InputError(
            f"the loss of {wrong[0]} bits for '{decision.name}' is not finite; expected a number for every choice: "
            "the learner's own numbers have diverged, lower its learning rates"
        )
