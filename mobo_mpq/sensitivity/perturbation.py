"""Perturb one tensor at a time: how far the outputs move when its bits alone are lowered.

The float network is quantized and calibrated once; statistics are kept, so that every width of every tensor is fitted
from the same pass, and what a change cannot reach is not computed again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import torch

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.sensitivity.assembly import Setting, by_layer
from mobo_mpq.sensitivity.samples import inputs_of, joined
from mobo_mpq.sensitivity.source import How, Source
from mobo_mpq.sensitivity.sqnr import NoiseRatio
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.divergence import Divergence

METHOD = "perturbation"
VERSION = 2
"""Raised whenever the same inputs give other values, so that tables that were kept are measured again."""

DISTANCES: dict[str, type[Divergence]] = {METHOD: Divergence, "sqnr": NoiseRatio}
"""How far outputs are from the float network's, by the name of the kind that measures so."""

TOGETHER = 32
"""Samples over which the means of outputs are corrected: means of a few would be met by luck."""


def provenance(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    biases: bool = False,
    distance: str = METHOD,
    **how: Unpack[How],
) -> Provenance:
    """Digests of what :func:`perturb` would measure, without measuring; arguments as there."""
    return Source.of(network, space, batches, **how).provenance((distance, VERSION), biases=biases)


def perturb(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    biases: bool = False,
    distance: str = METHOD,
    **how: Unpack[How],
) -> SensitivityTable:
    """Measure how far the outputs move when each variable of a space, alone, takes each of its choices.

    For a classifier the distance is the mean Kullback-Leibler divergence from the float network in nats, else a
    relative squared error (:class:`~mobo_mpq.training.divergence.Divergence`); a sensitivity is what it grows by over
    the network of the highest bits, at least 0. A variable's sensitivity is split evenly among its layers, and a
    layer's entry is the sum of its weight's share and its input's; so a policy's sum counts every variable once. Bits
    that a layer cannot take have the value of its next higher choice. A divergence that is not finite counts as the
    largest finite one. The ranges of activations are those of the network of the highest bits throughout.

    Args:
        network: in float; left as it is.
        space: of its policies; one pass over the samples for each variable and each choice but the highest.
        batches: as loaders yield them, ``(inputs, target)`` or mappings: targets tell where the classes lie. All of
            them calibrate.
        biases: whether the means of every layer's outputs are corrected, as recipe ``ptq`` corrects them: here on the
            samples that are compared, in groups of 32 or more.
        distance: ``perturbation`` for the divergence, ``sqnr`` for noise over signal
            (:class:`~mobo_mpq.sensitivity.sqnr.NoiseRatio`), whatever the outputs are.
        **how: schemes, and the number of samples; see :class:`~mobo_mpq.sensitivity.source.How`.

    Raises:
        InputError: when there is no batch, no sample, or no output that is finite.
        PolicyError: when the space is of another network.
    """
    start = time.process_time()
    source = Source.of(network, space, batches, **how)
    source.check("perturb")
    known = source.provenance((distance, VERSION), biases=biases)
    bench = source.bench(biases=biases)
    compared = joined(source.compared, TOGETHER) if biases else source.compared
    with torch.no_grad():
        divergence = DISTANCES[distance](network, compared)
        measured = bench.measure(divergence, inputs_of(network, compared))
    return SensitivityTable(
        values=by_layer(space, growth(measured)),
        method=distance,
        unit=divergence.unit,
        provenance=known,
        evaluations=len(measured) + 2 + biases,  # the float network, the calibration, and the means in float
        cpu_s=time.process_time() - start,
    )


def growth(measured: Mapping[Setting | None, float]) -> dict[Setting, float]:
    """What the divergence of each setting is above that of the highest bits.

    Raises:
        InputError: when that is not finite, or none of the others is.
    """
    least = measured[None]
    grown = {key: max(value - least, 0.0) for key, value in measured.items() if key is not None}
    finite = [value for value in grown.values() if math.isfinite(value)]
    if not math.isfinite(least) or (grown and not finite):
        variable = next(iter(grown))[0] if grown else None
        where = f"with '{variable.layers[0]}' at lower bits" if variable and math.isfinite(least) else "at all"
        raise InputError(
            f"the outputs of the quantized network cannot be compared with the float network's {where}: they hold NaN "
            "or infinity; check the model and its input, or search with --no-sensitivity"
        )
    return {key: min(value, max(finite)) for key, value in grown.items()}
