"""Perturb one tensor at a time: how far the outputs move when its bits alone are lowered.

The float network is quantized and calibrated once; statistics are kept, so that every width of every tensor is fitted
from the same pass, and what a change cannot reach is not computed again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.quant.base import Role, Scheme
from mobo_mpq.quant.transform import ACTIVATION, WEIGHT
from mobo_mpq.sensitivity.assembly import Setting, by_layer, digests
from mobo_mpq.sensitivity.bench import Bench
from mobo_mpq.sensitivity.samples import check_samples, enough, first, inputs_of, joined
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
    weight: Scheme = WEIGHT,
    activation: Scheme = ACTIVATION,
    samples: int | None = None,
    biases: bool = False,
    distance: str = METHOD,
) -> Provenance:
    """Digests of what :func:`perturb` would measure, without measuring; arguments as there."""
    batches = list(batches)
    options = {"samples": enough(batches) if samples is None else samples, "biases": biases}
    return digests((distance, VERSION), network, space, batches, (weight, activation), options)


def perturb(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    weight: Scheme = WEIGHT,
    activation: Scheme = ACTIVATION,
    samples: int | None = None,
    biases: bool = False,
    distance: str = METHOD,
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
        weight: scheme of the weights.
        activation: scheme of the activations.
        samples: the first of them, on which outputs are compared; when absent 128, or as many as hold 1024 predictions,
            at least 16.
        biases: whether the means of every layer's outputs are corrected, as recipe ``ptq`` corrects them: here on the
            samples that are compared, in groups of 32 or more.
        distance: ``perturbation`` for the divergence, ``sqnr`` for noise over signal
            (:class:`~mobo_mpq.sensitivity.sqnr.NoiseRatio`), whatever the outputs are.

    Raises:
        InputError: when there is no batch, no sample, or no output that is finite.
        PolicyError: when the space is of another network.
    """
    start = time.process_time()
    batches = list(batches)
    samples = enough(batches) if samples is None else samples
    check_samples("perturb", batches, samples)
    known = provenance(
        network, space, batches, weight=weight, activation=activation, samples=samples, biases=biases, distance=distance
    )
    with torch.no_grad():
        bench = Bench(network, space, {Role.WEIGHT: weight, Role.ACTIVATION: activation}, biases=biases)
        measured, unit = _measured(bench, network, batches, samples, DISTANCES[distance])
    return SensitivityTable(
        values=by_layer(space, _growth(measured)),
        method=distance,
        unit=unit,
        provenance=known,
        evaluations=len(measured) + 2 + biases,  # the float network, the calibration, and the means in float
        cpu_s=time.process_time() - start,
    )


def _measured(
    bench: Bench, network: Network, batches: Sequence[Any], samples: int, distance: type[Divergence]
) -> tuple[dict[Setting | None, float], str]:
    """Distances of all settings, and their unit."""
    compared = first(batches, samples)
    compared = joined(compared, TOGETHER) if bench.biases else compared
    divergence = distance(network, compared)
    bench.calibrate(inputs_of(network, batches))
    return bench.measure(divergence, inputs_of(network, compared)), divergence.unit


def _growth(measured: Mapping[Setting | None, float]) -> dict[Setting, float]:
    """What the divergence of each setting is above that of the highest bits."""
    least = measured[None]
    growth = {key: max(value - least, 0.0) for key, value in measured.items() if key is not None}
    finite = [value for value in growth.values() if math.isfinite(value)]
    if not math.isfinite(least) or (growth and not finite):
        variable = next(iter(growth))[0] if growth else None
        where = f"with '{variable.layers[0]}' at lower bits" if variable and math.isfinite(least) else "at all"
        raise InputError(
            f"the outputs of the quantized network cannot be compared with the float network's {where}: they hold NaN "
            "or infinity; check the model and its input, or search with --no-sensitivity"
        )
    return {key: min(value, max(finite)) for key, value in growth.items()}
