"""What is traded: a noisy quality, and costs that are known exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import CostModel
from mobo_mpq.layers import LayerSpec
from mobo_mpq.policy import Policy
from mobo_mpq.space import SearchSpace

_BLOCK = 1024
"""Policies that are priced together: what they need stays in the processor's cache."""


class Direction(StrEnum):
    """Which way is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


@dataclass(frozen=True, slots=True)
class ObjectiveInfo:
    """Name, unit and direction of an objective, and the worst value still of interest: the hypervolume's corner."""

    name: str
    unit: str
    direction: Direction
    reference: float

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "direction", Direction(self.direction))
        except ValueError:
            raise InputError(
                f"objective '{self.name}' has direction {self.direction!r}; expected 'minimize' or 'maximize'"
            ) from None
        if not math.isfinite(self.reference):
            raise InputError(f"objective '{self.name}' has reference {self.reference}; expected a finite number")

    @property
    def sign(self) -> float:
        """+1 when more is better, else -1: ``sign * value`` is maximised."""
        return 1.0 if self.direction is Direction.MAXIMIZE else -1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured.

    Attributes:
        value: of an objective.
        stderr: its standard error: ``None`` when not known, 0.0 when exact.
        divergence: of the network's outputs from the float network's on the same samples, 0 or more: a companion of a
            quality that has far less noise; ``None`` where it was not measured.
    """

    value: float
    stderr: float | None = None
    divergence: float | None = None


@dataclass(frozen=True, eq=False)
class CostObjective:
    """A cost that is known in closed form: never modelled, computed before any training.

    Attributes:
        info: name, unit, direction and reference.
        space: the space whose options index the table.
        table: ``layers x options``, options in the order of ``space.options``; NaN where a pair is not legal.
    """

    info: ObjectiveInfo
    space: SearchSpace
    table: NDArray[np.float64]

    @classmethod
    def from_model(cls, model: CostModel, layers: Sequence[LayerSpec], space: SearchSpace) -> Self:
        """Price every legal pair of every layer; the reference is the cost of the highest bits."""
        table = np.full((len(layers), len(space.options)), np.nan)
        for row, layer in enumerate(layers):
            for column, bits in enumerate(space.options):
                if tuple(bits) in space.pairs[row]:
                    table[row, column] = model.layer_cost(layer, bits)
        info = ObjectiveInfo(model.name, model.unit, Direction.MINIMIZE, 0.0)
        reference = float(cls(info, space, table)(space.highest()))
        return cls(ObjectiveInfo(model.name, model.unit, Direction.MINIMIZE, reference), space, table)

    def __call__(self, policy: Policy) -> float:
        """Cost of one policy, in ``info.unit``."""
        return float(self.of_levels(self.space.to_levels([policy]))[0])

    def of_levels(self, levels: NDArray[np.intp]) -> NDArray[np.float64]:  # (..., d) -> (...)
        """Costs of policies given by the level of each variable."""
        rows = levels.reshape(math.prod(levels.shape[:-1]), levels.shape[-1])  # -1 would not do where d is 0
        costs = np.empty(len(rows))
        layers = np.arange(len(self.table))
        for start in range(0, len(rows), _BLOCK):
            options = self.space.option_indices(rows[start : start + _BLOCK])  # (block, layers)
            costs[start : start + _BLOCK] = self.table[layers, options].sum(axis=-1)
        return costs.reshape(levels.shape[:-1])


def maximised(infos: Sequence[ObjectiveInfo], values: Mapping[str, Measurement]) -> NDArray[np.float64]:  # m
    """Values by name, with the signs that make every objective one to maximise."""
    return np.array([info.sign * values[info.name].value for info in infos])


def reference(infos: Sequence[ObjectiveInfo]) -> NDArray[np.float64]:  # m
    """The worst point of interest, all objectives maximised."""
    return np.array([info.sign * info.reference for info in infos])


Objective = ObjectiveInfo | CostObjective
"""A measured objective is known by its description alone; a cost knows its values too."""
