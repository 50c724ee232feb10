"""Energy of one layer; it stands on the latency of the same target."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.formulas.bit_composable import BitComposable
from mobo_mpq.objectives.latency import Count, LatencyModel, Positive
from mobo_mpq.policy import LayerBits


class EnergyFormula(BaseModel, ABC):
    """Joules of one layer; its fields are the numbers of a target document's ``[energy]`` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stands_on: ClassVar[type[BaseModel]] = BaseModel
    """The latency formula that the target must have; any, unless a formula says otherwise."""

    @abstractmethod
    def joules(self, latency: LatencyModel, layer: LayerSpec, bits: LayerBits) -> float:
        """Joules for one batch of a layer that ``latency`` covers, at bits that the device computes with."""


ENERGIES: dict[str, type[EnergyFormula]] = {}
"""Energy formulas by the name that documents use."""

E = TypeVar("E", bound=EnergyFormula)


def register_energy(name: str) -> Callable[[type[E]], type[E]]:
    """Class decorator: make a formula known to target documents as ``[energy] model = name``."""

    def add(formula: type[E]) -> type[E]:
        ENERGIES[name] = formula
        return formula

    return add


@dataclass
class EnergyModel:
    """Joules per batch of a target.

    Attributes:
        formula: gives joules.
        latency: of the same target; it also says which layers and bits are covered.
    """

    formula: EnergyFormula
    latency: LatencyModel
    name: str = field(default="energy_j", init=False)
    unit: str = field(default="J", init=False)

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """Joules for one batch.

        Raises:
            InputError: for a kind of layer or bits that the target does not cover.
        """
        return self.formula.joules(self.latency, layer, self.latency.check(layer, bits))


@register_energy("active_power")
class ActivePower(EnergyFormula):
    """A device that draws the same power whatever it computes: ``power_w * latency``.

    Attributes:
        power_w: while it computes.
    """

    power_w: Positive

    def joules(self, latency: LatencyModel, layer: LayerSpec, bits: LayerBits) -> float:
        """Joules for one batch."""
        return latency.layer_cost(layer, bits) * self.power_w


@register_energy("bit_composable")
class BitComposableEnergy(EnergyFormula):
    """Fusion units while they compute, and DRAM traffic; every unit of the array is clocked, idle ones too.

    Attributes:
        unit_cycle_j: one fusion unit, for one cycle.
        dram_bit_j: one bit to or from DRAM.
    """

    stands_on: ClassVar[type[BaseModel]] = BitComposable

    unit_cycle_j: Positive
    dram_bit_j: Positive

    def joules(self, latency: LatencyModel, layer: LayerSpec, bits: LayerBits) -> float:
        """Joules for one batch."""
        array = latency.formula
        assert isinstance(array, BitComposable)  # documents with another pair of formulas are refused
        units = array.rows * array.columns
        compute = array.compute_cycles(layer, bits, latency.batch) * units * self.unit_cycle_j
        return compute + array.dram_bits(layer, bits, latency.batch) * self.dram_bit_j


@register_energy("mac_and_traffic")
class MacAndTraffic(EnergyFormula):
    """Multiplications and additions by their bits, and the traffic of weights and activations.

    The energies that Horowitz (ISSCC 2014) gives for 45 nm, scaled with bits as QKeras does (Coelho et al., 2021): a
    multiplication takes ``multiply_j_per_bit_product * w * a + multiply_j_per_bit * (w + a) / 2``, an addition
    ``add_j_per_bit * accumulator_bits``. QKeras has equal bits alone; the two terms for unequal ones are derived. Bits
    are priced as integers, those of float tensors too. Weights are read once per batch. An input is written once and
    read once, both at the cost of the layer that reads it, since it has that layer's bits.

    Attributes:
        multiply_j_per_bit_product: of a multiplication.
        multiply_j_per_bit: of a multiplication.
        add_j_per_bit: of an addition.
        accumulator_bits: of the sums.
        activation_bit_j: one bit to or from the memory of activations.
        weight_bit_j: one bit from the memory of weights.
    """

    multiply_j_per_bit_product: Positive
    multiply_j_per_bit: Positive
    add_j_per_bit: Positive
    accumulator_bits: Count
    activation_bit_j: Positive
    weight_bit_j: Positive

    def joules(self, latency: LatencyModel, layer: LayerSpec, bits: LayerBits) -> float:
        """Joules for one batch."""
        weight, activation = bits
        multiply = self.multiply_j_per_bit_product * weight * activation
        multiply += self.multiply_j_per_bit * (weight + activation) / 2
        computing = layer.macs * (multiply + self.add_j_per_bit * self.accumulator_bits)
        input_bits = math.prod(layer.input_shape) * activation
        if layer.kind is OpKind.MATMUL:  # the second operand is an activation, too
            input_bits += math.prod(layer.output_shape[:-2]) * layer.input_shape[-1] * layer.output_shape[-1] * weight
        moved = 2 * input_bits * self.activation_bit_j
        return latency.batch * (computing + moved) + layer.num_weights * weight * self.weight_bit_j
