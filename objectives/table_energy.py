"""Energy that was measured beside the latency, in the same table."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec
from mobo_mpq.objectives.energy import EnergyFormula, register_energy
from mobo_mpq.objectives.formulas.table import Table
from mobo_mpq.objectives.latency import LatencyModel
from mobo_mpq.policy import LayerBits


@register_energy("table")
class TableEnergy(EnergyFormula):
    """The ``energy_uj`` of the row that gives the latency."""

    stands_on: ClassVar[type[BaseModel]] = Table

    def joules(self, latency: LatencyModel, layer: LayerSpec, bits: LayerBits) -> float:
        """Joules for one batch.

        Raises:
            InputError: where no row gives the latency, or the table has no energies.
        """
        table = latency.formula
        assert isinstance(table, Table)  # documents with another pair of formulas are refused
        row = table.row(layer, bits)
        if row is None or row.energy_j is None:
            raise InputError(
                f"target '{latency.target}' has no measured energy for layer '{layer.name}' at {bits[0]} weight and "
                f"{bits[1]} activation bits; add that row, with its energy_uj, to '{table.file}', or remove [energy]"
            )
        return row.energy_j
