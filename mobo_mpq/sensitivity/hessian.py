"""Second derivatives: the trace of the loss's Hessian for each tensor, times the squared error of its quantization.

Dong et al., "HAWQ-V2", NeurIPS 2020, arXiv 1911.03852; Yao et al., "HAWQ-V3", ICML 2021, arXiv 2011.10680. Traces by
Hutchinson's estimator.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Unpack

import torch
from torch import Tensor

from mobo_mpq.graph import Network
from mobo_mpq.seeding import derive
from mobo_mpq.sensitivity.assembly import by_layer
from mobo_mpq.sensitivity.derivatives import Derivatives, behaviour, product
from mobo_mpq.sensitivity.samples import size_of
from mobo_mpq.sensitivity.source import How, Source
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.losses import Loss, default_loss

METHOD, VERSION = "hessian", 1
DRAWS = 32
"""Vectors per batch. docs/methods/sensitivities.md shows what more of them would change."""

_SHORTEST = 1e-3  # of the longest gradient


def provenance(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    loss: Loss = default_loss,
    draws: int = DRAWS,
    **how: Unpack[How],
) -> Provenance:
    """Digests of what :func:`hessian` would measure, without measuring; arguments as there."""
    return _provenance(Source.of(network, space, batches, **how), loss, draws)


def hessian(
    network: Network,
    space: SearchSpace,
    batches: Iterable[Any],
    *,
    loss: Loss = default_loss,
    draws: int = DRAWS,
    **how: Unpack[How],
) -> SensitivityTable:
    """``Omega(b) = Tr(H) / n * ||Q_b(W) - W||^2`` of tensors of ``n`` elements, above that of their highest bits.

    ``H`` is the tensor's own block of the Hessian of the loss of the float network; for an input of a layer, the mean
    over the samples of each sample's own block, and the error is the mean over the calibration data. A negative trace
    counts as 0. Sums over tied tensors, and shares of layers, are as in
    :func:`~mobo_mpq.sensitivity.perturbation.perturb`.

    Args:
        network: in float; left as it is.
        space: of its policies.
        batches: as loaders yield them, with targets; all of them calibrate.
        loss: of the network's output and the target, a mean over samples.
        draws: random vectors for each batch.
        **how: schemes, and the number of samples; see :class:`~mobo_mpq.sensitivity.source.How`.

    Raises:
        InputError: when there is no sample, no loss that can be differentiated twice, or something is not finite.
        PolicyError: when the space is of another network.
    """
    start = time.process_time()
    source = Source.of(network, space, batches, **how)
    source.check("hessian")
    known = _provenance(source, loss, draws)
    derivatives = Derivatives(source.bench(), loss)
    traces = hutchinson(derivatives, source.compared, draws)
    return SensitivityTable(
        values=by_layer(space, derivatives.settings({name: max(trace, 0.0) for name, trace in traces.items()})),
        method=METHOD,
        unit="loss",
        provenance=known,
        evaluations=2 + draws,  # the calibration, a gradient, and a product with the Hessian for each draw
        cpu_s=time.process_time() - start,
    )


def _provenance(source: Source, loss: Loss, draws: int) -> Provenance:
    return source.provenance((METHOD, VERSION), draws=draws, loss=behaviour(source.network, loss, source.compared))


def hutchinson(derivatives: Derivatives, batches: Iterable[Any], draws: int, seed: int = 0) -> dict[str, float]:
    """Trace of each tensor's own block of the Hessian: the mean of ``z^T H z`` over random signs ``z``.

    One vector runs over all tensors at once: what other blocks add to a tensor's product has mean 0, since signs are
    independent. Each tensor's part of it is as long as its gradient is short, so that tensors which matter much do not
    drown the others.

    Args:
        derivatives: of the network.
        batches: as loaders yield them.
        draws: for each batch.
        seed: of the signs.

    Returns:
        Name of a slot -> its trace.
    """
    totals = dict.fromkeys(derivatives.names, 0.0)
    count = 0
    for index, batch in enumerate(batches):
        size = size_of(batch)
        shifts, gradients = derivatives.gradients(batch, twice=True)
        generator = torch.Generator().manual_seed(derive(seed, "hutchinson", index))
        lengths = _lengths(gradients)
        for _ in range(draws):
            signs = [_signs(shift, generator) for shift in shifts]
            curved = product(gradients, shifts, [sign * length for sign, length in zip(signs, lengths, strict=True)])
            for name, sign, length, along in zip(derivatives.names, signs, lengths, curved, strict=True):
                totals[name] += size * float((sign * along).sum(dtype=torch.float64)) / (draws * length)
        count += size
    return {name: total / count for name, total in totals.items()}


def _lengths(gradients: list[Tensor]) -> list[float]:
    norms = [float(gradient.detach().double().norm()) for gradient in gradients]
    least = _SHORTEST * max(norms, default=0.0)
    return [1.0 / max(norm, least) if least > 0 else 1.0 for norm in norms]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)  # on the CPU, whatever the device
    return drawn.mul_(2).sub_(1).to(like)
