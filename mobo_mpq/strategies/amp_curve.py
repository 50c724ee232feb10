"""AMP's list: groups of quantizers, what each of their candidates costs, and the policies that lowering them makes.

Pandey et al., "A Practical Mixed Precision Algorithm for Post-Training Quantization", arXiv 2302.05397, section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mobo_mpq.arrays import Levels
from mobo_mpq.errors import InputError
from mobo_mpq.problem import Problem


class Group(NamedTuple):
    """Quantizers that are set together: of activations, and of the weights of the layers that read them.

    Attributes:
        layers: indices, increasing.
        variables: indices of the free variables of these layers, increasing.
    """

    layers: tuple[int, ...]
    variables: tuple[int, ...]


class Entry(NamedTuple):
    """A candidate of a group, and what phase 1 found.

    Attributes:
        group: whose candidate it is.
        levels: of the group's variables, in their order.
        loss: of the quality, expected where this group alone leaves the highest bits.
        bits: weight plus activation bits, the mean over the group's layers.
        saved: bit operations that it saves.
    """

    group: Group
    levels: tuple[int, ...]
    loss: float
    bits: float
    saved: float


def groups(problem: Problem) -> list[Group]:
    """Layers whose activations are tied, with their weights; groups that share a weight are one."""
    space = problem.space
    index = {name: i for i, name in enumerate(space.names)}
    found: list[set[int]] = []
    for decision in space.decisions:
        members = {index[name] for name in decision.layers}
        for other in [group for group in found if group & members]:
            found.remove(other)
            members |= other
        found.append(members)
    result = []
    for members in sorted(found, key=min):
        names = {space.names[i] for i in members}
        free = (i for i, variable in enumerate(space.variables) if names.issuperset(variable.layers))
        result.append(Group(tuple(sorted(members)), tuple(free)))
    return [group for group in result if group.variables]


def phase_1(problem: Problem) -> list[Entry]:
    """Every candidate of every group but the highest bits, in the order in which they are taken.

    Those that lose least come first; of equal ones those of more bits, then those that save more bit operations, then
    those of earlier layers.

    Raises:
        InputError: when the problem has no sensitivities.
    """
    if problem.sensitivity is None:
        raise InputError(
            "strategy 'amp' needs sensitivities and this problem has none; leave out --no-sensitivity, or give "
            "Problem.from_tables a sensitivity table"
        )
    entries = [entry for group in groups(problem) for entry in _entries(problem, group)]
    return sorted(entries, key=lambda entry: (entry.loss, -entry.bits, -entry.saved, entry.group.layers[0]))


def phase_2(problem: Problem, entries: list[Entry]) -> Levels:  # -> points x d
    """The highest bits, then what they become as entries are applied one after the other.

    A later entry of a group takes the place of an earlier one. Points that break a budget are left out.
    """
    levels = np.array(problem.space.sizes - 1, dtype=np.intp)
    points = [levels.copy()]
    for entry in entries:
        levels[list(entry.group.variables)] = entry.levels
        points.append(levels.copy())
    every = np.array(points, dtype=np.intp).reshape(len(points), len(levels))
    return every[problem.affordable(every)]


def _entries(problem: Problem, group: Group) -> Iterator[Entry]:
    """Where a layer cannot take the weight bits of a candidate, it has its next higher ones."""
    space = problem.space
    assert problem.sensitivity is not None, "checked before"
    layers, columns = np.array(group.layers), list(group.variables)
    variables = [space.variables[i] for i in group.variables]
    highest = np.array(space.sizes - 1, dtype=np.intp)
    base_loss, base_work, _ = _cost(problem, highest, layers)
    taken = {tuple(highest[columns].tolist())}
    for weight, activation in itertools.product(space.weight_bits[::-1], space.activation_bits[::-1]):
        wanted = {"weight": weight, "activation": activation}
        chosen = tuple(
            min(int(np.searchsorted(variable.choices, wanted[variable.role])), len(variable.choices) - 1)
            for variable in variables
        )
        levels = highest.copy()
        levels[columns] = chosen
        if chosen in taken or not space.is_legal(levels[None])[0]:
            continue
        taken.add(chosen)
        loss, work, bits = _cost(problem, levels, layers)
        yield Entry(group, chosen, loss - base_loss, bits, base_work - work)


def _cost(problem: Problem, levels: Levels, layers: Levels) -> tuple[float, float, float]:
    """Sensitivity, bit operations, and mean sum of bits of some layers."""
    space = problem.space
    options = space.option_indices(levels, layers)
    pairs = np.array([tuple(space.options[option]) for option in options])
    macs = np.array([problem.layers[layer].macs for layer in layers], dtype=np.float64)
    assert problem.sensitivity is not None, "checked before"
    loss = problem.sensitivity[layers, options].sum()
    return float(loss), float((macs * pairs.prod(axis=1)).sum()), float(pairs.sum(axis=1).mean())
