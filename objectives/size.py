"""Costs that need no device: bytes of the weights, and bit operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mobo_mpq.errors import UnknownName
from mobo_mpq.hardware import Storage
from mobo_mpq.layers import LayerSpec
from mobo_mpq.policy import LayerBits


@dataclass
class SizeModel:
    """Bytes of the weights: ``num_weights * bits / 8`` when they are packed without gaps, as they are by default.

    Layers that stay in float are the same for every policy, and are not counted; biases and scales only where the
    device's ``storage`` says how large they are. A weight
    that several layers read (one ``weight_group``, or two calls of one module) is stored once: the first of
    them, in the order of ``layers``, pays for all, and the others cost 0.

    Args:
        layers: the network's.
        storage: of the device: containers that bits are rounded up to, and bytes of each channel's scale and bias.
    """

    layers: Sequence[LayerSpec]
    storage: Storage = Storage()
    name: str = field(default="size_bytes", init=False)
    unit: str = field(default="byte", init=False)

    def __post_init__(self) -> None:
        payers: dict[str, str] = {}
        for layer in self.layers:
            payers.setdefault(layer.weight_tie, layer.name)
        self._free = {layer.name for layer in self.layers} - set(payers.values())

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """Bytes of one layer's weight; 0 where an earlier layer holds it."""
        if layer.name in self._free:
            return 0.0
        stored = next((width for width in self.storage.containers if width >= bits[0]), bits[0])
        channels = layer.weight_shape[0] if layer.weight_shape else 0
        return layer.num_weights * stored / 8 + channels * self.storage.bytes_per_channel


class BopsConvention(StrEnum):
    """How bit operations of a layer are counted, ``w`` and ``a`` being its weight and activation bits.

    Attributes:
        PRODUCT: ``MACs * w * a``, of HAWQ-V3 (Yao et al., ICML 2021) and QONNX; a float layer counts 32 x 32.
        UNIQ: ``MACs * (w * a + w + a + log2(terms))``, of UNIQ (Baskin et al., arXiv 1804.10969): multiplications, and
            additions into an accumulator that holds the sum of all ``terms`` products of one output, none pruned.
    """

    PRODUCT = "product"
    UNIQ = "uniq"


def bit_operations(layer: LayerSpec, bits: LayerBits, convention: BopsConvention) -> float:
    """Bit operations of one layer, for one inference."""
    weight, activation = bits
    if convention is BopsConvention.PRODUCT:
        return float(layer.macs * weight * activation)
    terms = layer.macs // math.prod(layer.output_shape)
    return layer.macs * (weight * activation + weight + activation + math.log2(terms))


@dataclass
class BopsModel:
    """Bit operations per inference.

    Args:
        convention: ``"product"`` or ``"uniq"``; see :class:`BopsConvention`.

    Raises:
        UnknownName: when there is no such convention.
    """

    convention: BopsConvention = BopsConvention.PRODUCT
    name: str = field(default="bops", init=False)
    unit: str = field(default="bit-op", init=False)

    def __post_init__(self) -> None:
        if self.convention not in list(BopsConvention):
            raise UnknownName("convention of bit operations", str(self.convention), BopsConvention)
        self.convention = BopsConvention(self.convention)

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """Bit operations of one layer, for one inference."""
        return bit_operations(layer, bits, self.convention)
