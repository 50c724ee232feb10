"""Perturb two tensors at a time: what both together cost beyond what each costs alone.

Deng, Orshansky, "CLADO: Mixed-Precision Quantization with Cross-Layer Dependencies", arXiv 2307.05657: on a quadratic
loss, these are the entries of the Hessian between two layers.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from mobo_mpq.choices import Variable
from mobo_mpq.graph import Network
from mobo_mpq.sensitivity.bench import Change
from mobo_mpq.sensitivity.perturbation import TOGETHER, growth
from mobo_mpq.sensitivity.samples import inputs_of, joined
from mobo_mpq.sensitivity.source import How, Source
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.divergence import Divergence


@dataclass(frozen=True, eq=False)
class PairTable:
    """Losses of single layers and of pairs, as :func:`mobo_mpq.allocate` takes them.

    A policy's predicted loss is the sum of its layers' entries and of its pairs'. A tensor that several layers share
    counts in the first of them.

    Attributes:
        values: ``layers x options``; 0 at the highest bits.
        interactions: two layers, the earlier one first -> ``options x options``.
        unit: of both, "nat".
        evaluations: passes over the samples that it took.
        cpu_s: CPU time that it took.
    """

    values: NDArray[np.float64]
    interactions: Mapping[tuple[int, int], NDArray[np.float64]]
    unit: str
    evaluations: int
    cpu_s: float

    def predicted(self, options: NDArray[np.intp]) -> float:
        """The loss of a policy, given by one option for each layer."""
        single = self.values[np.arange(len(self.values)), options].sum()
        return float(single + sum(table[options[i], options[j]] for (i, j), table in self.interactions.items()))


def perturb_pairs(
    network: Network, space: SearchSpace, batches: Iterable[Any], *, biases: bool = False, **how: Unpack[How]
) -> PairTable:
    """Measure what each variable costs at each of its lower choices, alone and with each choice of each other one.

    ``L(u, v) - L(u) - L(v) + L(0)``, with the divergence of :func:`~mobo_mpq.sensitivity.perturb` as the loss ``L`` and
    the highest bits as 0. Differences may be negative. A divergence that is not finite counts as the largest finite
    one. For 50 variables of 3 choices these are 5000 passes, fifty times as many as ``perturb`` takes.

    Args:
        network: in float; left as it is.
        space: of its policies.
        batches: as loaders yield them.
        biases: as :func:`~mobo_mpq.sensitivity.perturb` has it.
        **how: schemes, and the number of samples; see :class:`~mobo_mpq.sensitivity.source.How`.

    Raises:
        InputError: when there is no batch, no sample, or no output that is finite.
        PolicyError: when the space is of another network.
    """
    start = time.process_time()
    source = Source.of(network, space, batches, **how)
    source.check("perturb_pairs")
    bench = source.bench(biases=biases)
    compared = joined(source.compared, TOGETHER) if biases else source.compared
    single = [(variable, bits) for variable in space.variables for bits in variable.choices[:-1]]
    changes: list[Change] = [(setting,) for setting in single]
    changes += [pair for pair in itertools.combinations(single, 2) if pair[0][0] is not pair[1][0]]
    with torch.no_grad():
        divergence = Divergence(network, compared)
        measured = bench.measure_changes(divergence, inputs_of(network, compared), changes)
    growth({change[0] if change else None: value for change, value in measured.items() if len(change) < 2})
    most = max(value for value in measured.values() if math.isfinite(value))
    losses = {change: min(value, most) - measured[()] for change, value in measured.items()}
    values, interactions = _by_layer(space, losses)
    evaluations = len(measured) + 2 + biases  # the float network, the calibration, and the means in float
    return PairTable(values, interactions, divergence.unit, evaluations, time.process_time() - start)


def _by_layer(
    space: SearchSpace, losses: Mapping[Change, float]
) -> tuple[NDArray[np.float64], dict[tuple[int, int], NDArray[np.float64]]]:
    """A variable belongs to the first of its layers; two of one layer are part of that layer's own losses."""
    values = np.zeros((len(space.names), len(space.options)))
    interactions: dict[tuple[int, int], NDArray[np.float64]] = {}
    home = {variable: space.names.index(variable.layers[0]) for variable in space.variables}
    for variable in space.variables:
        known = np.array([losses.get(((variable, bits),), 0.0) for bits in variable.choices])
        values[home[variable]] += known[_levels(space, variable)]
    for first, second in itertools.combinations(space.variables, 2):
        table = np.zeros((len(first.choices), len(second.choices)))
        for (i, one), (j, other) in itertools.product(enumerate(first.choices[:-1]), enumerate(second.choices[:-1])):
            alone = losses[((first, one),)] + losses[((second, other),)]
            table[i, j] = losses[(first, one), (second, other)] - alone
        table = table[np.ix_(_levels(space, first), _levels(space, second))]
        at = home[first], home[second]
        if at[0] == at[1]:
            values[at[0]] += np.diagonal(table)
        else:
            ends, both = ((at[0], at[1]), table) if at[0] < at[1] else ((at[1], at[0]), table.T)
            interactions[ends] = interactions[ends] + both if ends in interactions else both
    return values, interactions


def _levels(space: SearchSpace, variable: Variable) -> NDArray[np.intp]:  # options
    """Bits that are no choice count as the next one above."""
    bits = [getattr(option, variable.role) for option in space.options]
    return np.searchsorted(variable.choices, bits).clip(max=len(variable.choices) - 1)
