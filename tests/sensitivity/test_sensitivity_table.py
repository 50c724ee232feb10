from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mobo_mpq.errors import InputError
from mobo_mpq.sensitivity import Provenance, SensitivityTable


def table(values: Any) -> SensitivityTable:
    return SensitivityTable(values, "perturbation", "nat", Provenance("m", "d", "o"), evaluations=9, cpu_s=0.25)


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(0, 1e6)))
@settings(deadline=None)
def test_json_and_back(values: Any) -> None:
    made = table(values)
    again = SensitivityTable.from_dict(json.loads(json.dumps(made.to_dict())))
    assert np.array_equal(again.values, values)
    assert again.to_dict() == made.to_dict()
    assert (again.provenance, again.evaluations, again.cpu_s) == (made.provenance, 9, 0.25)


def test_values_are_a_copy_that_nobody_changes() -> None:
    values = np.ones((2, 3))
    made = table(values)
    values[0, 0] = 5.0
    assert made.values[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        made.values[0, 0] = 2.0


@pytest.mark.parametrize("values", [[[np.nan]], [[np.inf, 0.0]], [1.0, 2.0]])
def test_values_have_to_be_a_finite_matrix(values: Any) -> None:
    with pytest.raises(InputError, match=r"has shape .* expected layers x options, all finite: measure it again"):
        table(values)


@pytest.mark.parametrize("schema", [None, 2, "1"])
def test_another_schema(schema: Any) -> None:
    document = {**table([[1.0]]).to_dict(), "schema": schema}
    with pytest.raises(InputError, match=rf"is of schema {schema!r}; this version reads schema 1: measure it again"):
        SensitivityTable.from_dict(document)


@pytest.mark.parametrize(
    "change", [{"values": "x"}, {"values": [[1.0], [2.0, 3.0]]}, {"cpu_s": None}, {"provenance": {"model": "m"}}]
)
def test_a_document_that_is_no_table(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be read .* measure it again"):
        SensitivityTable.from_dict({**table([[1.0]]).to_dict(), **change})
    document = table([[1.0]]).to_dict()
    del document["method"]
    with pytest.raises(InputError, match="KeyError: 'method'"):
        SensitivityTable.from_dict(document)
