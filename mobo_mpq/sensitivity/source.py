"""What sensitivities of quantized tensors are measured on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypedDict

import torch

from mobo_mpq.graph import Network
from mobo_mpq.quant.base import Role, Scheme
from mobo_mpq.quant.transform import ACTIVATION, WEIGHT
from mobo_mpq.sensitivity.assembly import digests
from mobo_mpq.sensitivity.bench import Bench
from mobo_mpq.sensitivity.samples import check_samples, enough, first, inputs_of
from mobo_mpq.sensitivity.table import Provenance
from mobo_mpq.space import SearchSpace


class How(TypedDict, total=False):
    """Keyword arguments of every kind that quantizes.

    Attributes:
        weight: scheme of the weights.
        activation: scheme of the activations.
        samples: the first ones, on which something is compared or differentiated; when absent 128, or as many as hold
            1024 predictions, at least 16.
    """

    weight: Scheme
    activation: Scheme
    samples: int | None


@dataclass(frozen=True, eq=False)
class Source:
    """A network, its space, and data.

    Attributes:
        network: in float; left as it is.
        space: of its policies.
        batches: as loaders yield them, all of which calibrate.
        weight: scheme of the weights.
        activation: scheme of the activations.
        samples: how many of the first ones are looked at more closely.
    """

    network: Network
    space: SearchSpace
    batches: list[Any]
    weight: Scheme
    activation: Scheme
    samples: int

    @classmethod
    def of(
        cls,
        network: Network,
        space: SearchSpace,
        batches: Iterable[Any],
        *,
        weight: Scheme = WEIGHT,
        activation: Scheme = ACTIVATION,
        samples: int | None = None,
    ) -> Self:
        """With what :class:`How` leaves out."""
        listed = list(batches)
        return cls(network, space, listed, weight, activation, enough(listed) if samples is None else samples)

    @cached_property
    def compared(self) -> list[Any]:
        """The first samples, in batches of the same structure."""
        return first(self.batches, self.samples)

    def check(self, what: str) -> None:
        """Refuse to measure on nothing; see :func:`~mobo_mpq.sensitivity.samples.check_samples`."""
        check_samples(what, self.batches, self.samples)

    def provenance(self, method: tuple[str, int], **options: Any) -> Provenance:
        """Digests of all that a table depends on; ``options`` are those of the kind alone."""
        schemes = (self.weight, self.activation)
        return digests(method, self.network, self.space, self.batches, schemes, {"samples": self.samples, **options})

    @torch.no_grad()
    def bench(self, *, biases: bool = False) -> Bench:
        """Calibrated on all batches.

        Raises:
            PolicyError: when the space is of another network.
        """
        bench = Bench(
            self.network, self.space, {Role.WEIGHT: self.weight, Role.ACTIVATION: self.activation}, biases=biases
        )
        bench.calibrate(inputs_of(self.network, self.batches))
        return bench
