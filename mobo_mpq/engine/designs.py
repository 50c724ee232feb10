"""Policies to begin with, before anything has been learned."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Levels
from mobo_mpq.engine.features import padded, variable_losses
from mobo_mpq.engine.sweep import Sweep, sweep_weights
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem

SWEPT = 600
"""Weights between loss and costs for which the front of the sensitivities is computed."""


def uniform_policies(problem: Problem, n: int) -> list[Policy]:
    """Up to ``n`` uniform policies below the highest bits: equal ranks first, then high weights with low activations.

    Evenly spread over the choices where there are more.
    """
    space = problem.space
    weights, activations = space.weight_bits[::-1], space.activation_bits[::-1]
    longest = max(len(weights), len(activations))
    equal = [(weights[min(i, len(weights) - 1)], activations[min(i, len(activations) - 1)]) for i in range(1, longest)]
    mixed = [pair for pair in itertools.product(weights, activations) if pair not in equal]
    distinct = {space.uniform(*pair): None for pair in equal}
    if len(distinct) > n:
        index = np.linspace(0, len(distinct) - 1, n).round().astype(int)
        return [list(distinct)[i] for i in dict.fromkeys(index.tolist())]
    distinct.update({space.uniform(*pair): None for pair in mixed})
    distinct.pop(space.highest(), None)
    return list(distinct)[:n]


def sensitivity_front(problem: Problem, rng: np.random.Generator) -> Levels:  # k x d
    """Policies on the front of summed sensitivities against the costs, the most expensive first.

    The convex part of the front, as a sweep over the weights between loss and costs finds it; budgets are kept, even
    where nothing is left then. The sensitivities need no unit.

    Args:
        problem: with sensitivities.
        rng: of the directions, where there are several costs.
    """
    losses = padded(variable_losses(problem))
    span = float(losses.max(axis=1, initial=0.0).sum()) or 1.0  # where all are 0, only the costs decide
    front = np.unique(Sweep(problem)(losses, sweep_weights(problem, SWEPT, span, rng)), axis=0)
    front = front[problem.affordable(front)]
    return front[np.argsort(-problem.costs[0].of_levels(front), kind="stable")]


def spread(front: Levels, costs: NDArray[np.float64], n: int) -> Levels:  # k x d, k -> up to n x d
    """Members at evenly spaced costs."""
    if not len(front):
        return front
    targets = np.linspace(costs.max(), costs.min(), n)
    return front[list(dict.fromkeys(int(np.abs(costs - target).argmin()) for target in targets))]


def van_der_corput(number: int) -> float:
    """Radical inverse in base 2: 1/2, 1/4, 3/4, 1/8, ..."""
    result, scale = 0.0, 0.5
    while number:
        result += scale * (number & 1)
        number >>= 1
        scale /= 2
    return result
