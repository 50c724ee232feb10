"""The table of sensitivities, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.errors import InputError

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Provenance:
    """SHA-256 digests of all that a table depends on: equal ones mean equal values.

    Attributes:
        model: of the float network: its weights and its graph.
        data: of the samples.
        options: of the space, the schemes, the method and the number of samples.
    """

    model: str
    data: str
    options: str


@dataclass(frozen=True, eq=False)
class SensitivityTable:
    """What each option of each layer is expected to cost in quality, everything else at its highest bits.

    Attributes:
        values: ``layers x options``, options in the order of ``space.options``; never NaN, 0 at the highest bits. The
            sum over the layers of a policy is its predicted loss: a tensor that several layers share counts once.
        method: that measured it, "perturbation".
        unit: of the values, "nat".
        provenance: digests of model, data and options.
        evaluations: passes over the samples that it took.
        cpu_s: CPU time that it took.

    Raises:
        InputError: when the values are no finite matrix.
    """

    values: NDArray[np.float64]
    method: str
    unit: str
    provenance: Provenance
    evaluations: int
    cpu_s: float

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise InputError(
                f"a table of sensitivities has shape {values.shape} and {np.isfinite(values).sum()} finite values; "
                "expected layers x options, all finite: measure it again"
            )
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON document; :meth:`from_dict` is the inverse."""
        return {
            "schema": SCHEMA,
            "method": self.method,
            "unit": self.unit,
            "values": self.values.tolist(),
            "provenance": asdict(self.provenance),
            "evaluations": self.evaluations,
            "cpu_s": self.cpu_s,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The table that a document describes; further keys are left to others.

        Raises:
            InputError: when the document is of another schema, or no table.
        """
        schema = document.get("schema")
        if schema != SCHEMA:
            raise InputError(
                f"the table of sensitivities is of schema {schema!r}; this version reads schema {SCHEMA}: "
                "measure it again, or install the version that wrote it"
            )
        try:
            return cls(
                values=np.array(document["values"], dtype=np.float64),
                method=str(document["method"]),
                unit=str(document["unit"]),
                provenance=Provenance(**document["provenance"]),
                evaluations=int(document["evaluations"]),
                cpu_s=float(document["cpu_s"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the table of sensitivities cannot be read ({type(error).__name__}: {error}); measure it again"
            ) from None
