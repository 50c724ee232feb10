"""Energy of one layer; it stands on the latency of the same target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from mobo_mpq.layers import LayerSpec
from mobo_mpq.objectives.formulas.bit_composable import BitComposable
from mobo_mpq.objectives.latency import LatencyModel, Positive
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
