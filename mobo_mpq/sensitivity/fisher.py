"""First derivatives: squared gradients of single samples, times the squared error of quantization.

Zandonati et al., "FIT: A Metric for Model Sensitivity", ICLR 2023, arXiv 2210.08502.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Unpack

from mobo_mpq.graph import Network
from mobo_mpq.sensitivity.assembly import by_layer
from mobo_mpq.sensitivity.derivatives import Derivatives, behaviour
from mobo_mpq.sensitivity.samples import one_by_one
from mobo_mpq.sensitivity.source import How, Source
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.losses import Loss, default_loss

METHOD, VERSION = "fisher", 1


def provenance(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    loss: Loss = default_loss,
    **how: Unpack[How],
) -> Provenance:
    """Digests of what :func:`fisher` would measure, without measuring; arguments as there."""
    return _provenance(Source.of(network, space, batches, **how), loss)


def fisher(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    loss: Loss = default_loss,
    **how: Unpack[How],
) -> SensitivityTable:
    """``E[||g||^2] / n * ||Q_b(W) - W||^2`` for the ``n`` elements of each tensor, above that of its highest bits.

    ``g`` is the gradient of the loss of one sample with respect to the tensor, a weight or the input of a layer; the
    mean is over samples: the trace of the empirical Fisher information. Everything else is as in
    :func:`~mobo_mpq.sensitivity.hessian.hessian`, arguments included; the samples run one by one.

    Raises:
        InputError: when there is no sample, no loss that can be differentiated, or something is not finite.
        PolicyError: when the space is of another network.
    """
    start = time.process_time()
    source = Source.of(network, space, batches, **how)
    source.check("fisher")
    known = _provenance(source, loss)
    derivatives = Derivatives(source.bench(), loss)
    return SensitivityTable(
        values=by_layer(space, derivatives.settings(squared_gradients(derivatives, source.compared))),
        method=METHOD,
        unit="squared loss",
        provenance=known,
        evaluations=2,  # the calibration, and the gradients
        cpu_s=time.process_time() - start,
    )


def _provenance(source: Source, loss: Loss) -> Provenance:
    return source.provenance((METHOD, VERSION), loss=behaviour(source.network, loss, source.compared))


def squared_gradients(derivatives: Derivatives, batches: Iterable[Any]) -> dict[str, float]:
    """Mean over samples of the squared norm of the gradient of each sample's loss.

    Returns:
        Name of a slot -> trace of its empirical Fisher information.
    """
    totals = dict.fromkeys(derivatives.names, 0.0)
    count = 0
    for batch in batches:
        for sample in one_by_one(batch):
            _, gradients = derivatives.gradients(sample)
            for name, gradient in zip(derivatives.names, gradients, strict=True):
                totals[name] += float(gradient.double().square().sum())
            count += 1
    return {name: total / count for name, total in totals.items()}
