"""A device: what it can compute with, and at which cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class HardwareTarget:
    """What a device can do, and at which cost; loaded from a TOML document.

    Attributes:
        name: "mpic".
        bit_pairs: supported (weight, activation) bits per kind of layer.
        latency: seconds per batch.
        energy: joules per batch, where a source gives it.
        clock_hz: turns seconds into cycles, where the device has a clock.
        batch: images per batch that costs refer to.
        sources: field of the document -> citation.
        description: one sentence for people.
    """

    name: str
    bit_pairs: Mapping[OpKind, frozenset[tuple[int, int]]]
    latency: CostModel
    energy: CostModel | None = None
    clock_hz: float | None = None
    batch: int = 1
    sources: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    schema: int = 1


def cost_table(
    model: CostModel, layers: Sequence[LayerSpec], options: Sequence[LayerBits]
) -> NDArray[np.float64]:  # layers x options
    """Price every layer at every option; what solvers consume and searches gather from."""
    return np.array([[model.layer_cost(layer, bits) for bits in options] for layer in layers], dtype=np.float64)
