"""A device: what it can compute with, and at which cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import LayerBits


@runtime_checkable
class CostModel(Protocol):
    """Additive cost of a network: the total is the sum over layers. Pure and deterministic."""

    name: str  # "latency_s", "energy_j", "size_bytes", "bops"
    unit: str  # "s", "J", "byte", "bit-op"

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """Cost of one layer, for one batch of the target, in ``unit``."""
        ...


@dataclass
class Unpriced:
    """The cost of a device that has no public formula: what it can compute is known, what that costs is not.

    Attributes:
        target: the device's name.
        name: of the cost that is not known.
        unit: of that cost.
    """

    target: str
    name: str = "latency_s"
    unit: str = "s"

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """Refuse.

        Raises:
            InputError: always: the device has to be measured.
        """
        raise InputError(
            f"target '{self.target}' has no latency: nobody has published a formula for it, so that it only says which "
            f"bits the device computes with; measure its layers and import them with 'mobo-mpq profile import FILE "
            f"--target {self.target}', or search with --objectives size or bops"
        )


@dataclass(frozen=True)
class Storage:
    """How a device stores weights.

    Attributes:
        containers: widths in bits that a weight is stored in, increasing; it takes the first that holds it. Empty:
            packed without gaps.
        bytes_per_channel: of the scale and the bias of an output channel.
    """

    containers: tuple[int, ...] = ()
    bytes_per_channel: float = 0.0


Pair = tuple[int, int]


@dataclass(frozen=True)
class HardwareTarget:
    """What a device can do, and at which cost; loaded from a TOML document.

    Attributes:
        name: "mpic".
        bit_pairs: supported (weight, activation) bits per kind of layer.
        latency: seconds per batch; of :class:`Unpriced` for a device that has to be measured first.
        energy: joules per batch, where a source gives it.
        clock_hz: turns seconds into cycles, where the device has a clock.
        batch: images per batch that costs refer to.
        sources: field of the document -> citation.
        description: one sentence for people.
        schema: of the document.
        carriers: kind -> supported pairs that run as another, wider pair.
        storage: of the weights.
    """

    name: str
    bit_pairs: Mapping[OpKind, frozenset[Pair]]
    latency: CostModel
    energy: CostModel | None = None
    clock_hz: float | None = None
    batch: int = 1
    sources: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    schema: int = 1
    carriers: Mapping[OpKind, Mapping[Pair, Pair]] = field(default_factory=dict)
    storage: Storage = Storage()

    def pairs_of(self, layer: LayerSpec) -> frozenset[Pair]:
        """Pairs that this layer can have: supported for its kind, and priced for itself.

        Raises:
            InputError: the reason of the last refusal, when not one pair of its kind has a price.
        """
        supported = self.bit_pairs.get(layer.kind, frozenset())
        if isinstance(self.latency, Unpriced):
            return supported
        priced, refusal = set(), None
        for pair in sorted(supported):
            try:
                self.latency.layer_cost(layer, LayerBits(*pair))
            except InputError as error:
                refusal = error
            else:
                priced.add(pair)
        if refusal is not None and not priced:
            raise refusal
        return frozenset(priced)


def cost_table(
    model: CostModel, layers: Sequence[LayerSpec], options: Sequence[LayerBits]
) -> NDArray[np.float64]:  # layers x options
    """Price every layer at every option; what solvers consume and searches gather from."""
    return np.array([[model.layer_cost(layer, bits) for bits in options] for layer in layers], dtype=np.float64)
