"""Spaces of real networks in which every policy has been evaluated: a search is a series of look-ups.

``make_tables.py`` writes the tables, ``tables/NAME.json`` and ``tables/NAME.csv.gz``.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.choices import Variable
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec
from mobo_mpq.objective import CostObjective, Measurement, ObjectiveInfo
from mobo_mpq.objectives.costs import cost_model
from mobo_mpq.pareto import hypervolume
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True, eq=False)
class Table:
    """One exhaustive table.

    Attributes:
        name: of the files.
        problem: with sensitivities, where the table has them.
        measurements: levels, one digit per variable -> quality and divergence.
        evaluation_cpu_s: mean CPU time of one evaluation.
        sensitivity_cpu_s: CPU time of measuring the sensitivities; 0 where the table has none.
        float_quality: of the unquantized network.
    """

    name: str
    problem: Problem
    measurements: Mapping[str, Measurement]
    evaluation_cpu_s: float
    sensitivity_cpu_s: float
    float_quality: float

    @property
    def sensitivity_evaluations(self) -> int:
        """What the sensitivities cost, in evaluations, rounded up."""
        return math.ceil(self.sensitivity_cpu_s / self.evaluation_cpu_s)

    def without_sensitivity(self) -> Table:
        """The same table for those that have not measured them."""
        return replace(self, problem=replace(self.problem, sensitivity=None), sensitivity_cpu_s=0.0)

    def priced(self, target: HardwareTarget, words: Sequence[str] = ("latency",)) -> Table:
        """The same policies and qualities, traded against the costs of another device.

        Args:
            target: prices every layer at every pair of the space.
            words: of the command line: latency, energy, size, bops.

        Raises:
            InputError: when the device cannot price one of them.
        """
        problem, layers = self.problem, self.problem.layers
        models = [cost_model(word, target, layers) for word in words]
        costs = [CostObjective.from_model(model, layers, problem.space) for model in models]
        return replace(self, problem=replace(problem, objectives=(problem.quality, *costs)))

    def evaluate(self, policy: Policy) -> Measurement:
        """What the network measured under this policy.

        Raises:
            PolicyError: when the policy is not one of the space.
        """
        return self.measurements[_key(self.problem.space.to_levels([policy])[0].tolist())]

    def hypervolume(self, policies: Sequence[Policy]) -> float:
        """Of what was measured under the policies."""
        levels = self.problem.space.to_levels(policies)
        quality = [self.measurements[_key(row)].value for row in levels.tolist()]
        return self._hypervolume(levels, np.array(quality))

    @cached_property
    def best_hypervolume(self) -> float:
        """Of the whole table: no search exceeds it."""
        levels = np.array([[int(digit) for digit in key] for key in self.measurements], dtype=np.intp)
        return self._hypervolume(levels, np.array([measured.value for measured in self.measurements.values()]))

    def _hypervolume(self, levels: NDArray[np.intp], quality: NDArray[np.float64]) -> float:
        columns = {self.problem.quality.name: quality}
        columns |= {cost.info.name: cost.of_levels(levels) for cost in self.problem.costs}
        points = np.stack([info.sign * columns[info.name] for info in self.problem.infos], axis=1)
        return hypervolume(points, self.problem.reference)


def table_names(folder: Path = FOLDER) -> tuple[str, ...]:
    """Tables that are complete, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.json") if path.with_suffix(".csv.gz").exists()))


def load_table(name: str, folder: Path = FOLDER) -> Table:
    """Read a table.

    Raises:
        UnknownName: when there is none of that name.
        InputError: when the table does not hold every policy of its space once.
    """
    if name not in table_names(folder):
        raise UnknownName("table", name, table_names(folder), "Run 'python benchmarks/make_tables.py' to make them.")
    document: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    with gzip.open(folder / f"{name}.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    measurements = {row["levels"]: Measurement(float(row["quality"]), None, float(row["divergence"])) for row in rows}
    problem = _problem(document)
    expected = problem.space.cardinality
    if len(rows) != expected or measurements.keys() != {_key(row) for row in problem.space.grid().tolist()}:
        raise InputError(
            f"table '{name}' has {len(rows)} rows for {len(measurements)} policies; expected the {expected} of its "
            "space, each once: remove its files and run 'python benchmarks/make_tables.py'"
        )
    spent = document.get("sensitivity", {}).get("cpu_s", 0.0)
    return Table(name, problem, measurements, document["evaluation_cpu_s"], spent, document["float_quality"])


def _problem(document: Mapping[str, Any]) -> Problem:
    space = SearchSpace(
        tuple(document["names"]),
        tuple(frozenset((weight, activation) for weight, activation in pairs) for pairs in document["pairs"]),
        tuple(Variable(v["name"], v["role"], tuple(v["choices"]), tuple(v["layers"])) for v in document["decisions"]),
    )
    cost = np.array(document["cost_table"], dtype=np.float64)
    cost[cost < 0] = np.nan  # pairs that are not legal: JSON has no NaN
    quality = ObjectiveInfo(**document["quality"])
    layers = tuple(LayerSpec(**layer) for layer in document["layers"])
    sensitivity = document.get("sensitivity")
    return Problem(
        layers,
        space,
        (quality, CostObjective(ObjectiveInfo(**document["cost"]), space, cost)),
        sensitivity=None if sensitivity is None else np.array(sensitivity["values"], dtype=np.float64),
        deterministic=True,  # a table answers twice with the same number, whatever the recipe
    )


def _key(levels: Sequence[int]) -> str:
    return "".join(map(str, levels))
