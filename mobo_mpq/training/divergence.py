"""How far a quantized network's outputs are from the float network's: the low-noise companion of a metric.

An accuracy counts flips among a few hundred samples; the divergence of the predictions, measured in the same pass over
the same samples, moves smoothly with every bit. Strategies model it, and map it to the metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobo_mpq.digests import add_values
from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network, call
from mobo_mpq.training.data import accepted_by, device_of, logits_of, split_batch, to_device
from mobo_mpq.training.losses import class_axis

CACHE_BYTES = 2**28
"""Outputs of the float network that are kept; beyond it the float network runs again."""


class Tally:
    """A running mean of divergences, weighted by the number of predictions."""

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0
        self.broken = False

    @property
    def mean(self) -> float | None:
        """``None`` when nothing was recorded, or something that is not finite or cannot be compared."""
        mean = self.total / self.weight if self.weight and not self.broken else float("nan")
        return mean if abs(mean) < float("inf") else None


class Divergence:
    """Compares outputs with those of the float network on the same inputs; where they cannot be, there is no mean.

    For a classifier it is the mean Kullback-Leibler divergence of the predictions from the float network's, in nats;
    for any other network the squared error relative to the variance of the float network's outputs.

    Args:
        reference: the float network.
        batches: of the data that will be measured; the first one tells where the classes lie.
    """

    def __init__(self, reference: Network, batches: Iterable[Any]) -> None:
        self.reference = reference
        self._names = set(reference.example[1])
        self._outputs: dict[bytes, Tensor] = {}
        self._bytes = 0
        inputs, target = split_batch(next(iter(batches)))
        with torch.no_grad():
            output = call(reference, accepted_by(to_device(inputs, device_of(reference)), self._names))
        self.axis: int | None = None
        with suppress(InputError):  # no tensor of predictions: nothing will be compared
            self.axis = class_axis(logits_of(output), target)

    @contextmanager
    def recorded(self, network: nn.Module) -> Iterator[Tally]:
        """Within the block every call of ``network`` adds to the tally."""
        tally = Tally()

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            try:
                with torch.no_grad():
                    self._add(tally, args, kwargs, logits_of(output))
            except (InputError, RuntimeError):  # no tensor of predictions: a metric of the user's may do without
                tally.broken = True

        handle = network.register_forward_hook(record, with_kwargs=True)
        try:
            yield tally
        finally:
            handle.remove()

    def _add(self, tally: Tally, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        expected = self.expected(args, kwargs).to(output.device)
        if self.axis is None:
            centred = expected - expected.mean()
            tally.total += float((output - expected).double().square().sum())
            tally.weight += float(centred.double().square().sum())
            return
        log_p, log_q = (F.log_softmax(logits.double(), dim=self.axis) for logits in (expected, output))
        divergences = (log_p.exp() * (log_p - log_q)).sum(self.axis)
        tally.total += float(divergences.sum())
        tally.weight += divergences.numel()

    @property
    def unit(self) -> str:
        """Of the mean."""
        return "relative squared error" if self.axis is None else "nat"

    def expected(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The float network's output: it does not change, so what fits into memory is computed once."""
        kwargs = dict(accepted_by(kwargs, self._names))
        digest = hashlib.blake2b(digest_size=16)
        add_values(digest, (*args, *kwargs.values()))
        key = digest.digest()
        if key not in self._outputs:
            with torch.no_grad():
                output = logits_of(self.reference(*args, **kwargs)).detach()
            if self._bytes + output.nbytes > CACHE_BYTES:
                return output
            self._outputs[key] = output
            self._bytes += output.nbytes
        return self._outputs[key]
