"""Everything that a strategy may know before the first trial."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mobo_mpq import objective
from mobo_mpq.allocation import TOLERANCE, cheapest
from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective, Direction, Measurement, Objective, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.space import SearchSpace

_UNITS = {"s": "s", "j": "J", "bytes": "byte", "bops": "bit-op"}


class BrokenBudget(NamedTuple):
    """A cost, its value for some policy, and the limit that it exceeds."""

    name: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.name} of {self.value:.6g} is over the budget of {self.limit:.6g}"


@dataclass(frozen=True, eq=False)
class Problem:
    """Layers, legal policies, objectives and budgets.

    Attributes:
        layers: in the order of the network.
        space: the legal policies.
        objectives: measured ones, given by their :class:`ObjectiveInfo`, and exact costs: one of each or more, in any
            order. The first measured one is the quality.
        budgets: name of a cost -> largest value allowed.
        constraints: costs that are no objectives, but that a budget names.
        sensitivity: ``layers x options``, expected quality loss, where it has been measured; of any unit.
        deterministic: whether evaluating a policy again would give the same value, so that there is no noise to infer.
        float_quality: the quality of the model before it is quantized, where it is known.

    Raises:
        InputError: when there is no quality, no cost, a name that repeats, or a budget on an unknown cost.
        InfeasibleBudget: when no policy keeps the budgets.
    """

    layers: tuple[LayerSpec, ...]
    space: SearchSpace
    objectives: tuple[Objective, ...]
    budgets: Mapping[str, float] = field(default_factory=dict)
    constraints: tuple[CostObjective, ...] = ()
    sensitivity: NDArray[np.float64] | None = None
    deterministic: bool = False
    float_quality: float | None = None

    def __post_init__(self) -> None:
        if not self.measured or not self.costs:
            raise InputError(
                f"a problem trades at least one measured quality against at least one cost; "
                f"got {len(self.measured)} measured and {len(self.costs)} costs"
            )
        names = [info.name for info in self.infos]
        if len(set(names)) != len(names):
            raise InputError(f"objectives are called {', '.join(names)}; expected each name once")
        for name, limit in self.budgets.items():
            if math.isnan(limit):
                raise InputError(f"budget '{name}' is not a number; expected the largest value allowed")
        if self.budgets:
            self.cheapest(next(iter(self.budgets)))

    @classmethod
    def from_tables(
        cls,
        names: Sequence[str],
        *,
        weight_bits: Sequence[int],
        activation_bits: Sequence[int],
        costs: Mapping[str, ArrayLike],
        references: Mapping[str, float],
        quality: ObjectiveInfo | Sequence[ObjectiveInfo],
        sensitivity: ArrayLike | None = None,
        budgets: Mapping[str, float] | None = None,
    ) -> Self:
        """A problem without a network.

        Args:
            names: of the layers.
            weight_bits: every layer's choices.
            activation_bits: every layer's choices.
            costs: name -> ``layers x options``, options in the order of ``product(weight_bits, activation_bits)``.
            references: name of a cost -> its worst value of interest.
            quality: the measured objective, or several of them.
            sensitivity: ``layers x options``, expected quality loss.
            budgets: name of a cost -> largest value allowed.

        Raises:
            InputError: when a table has another shape, or a reference is missing.
        """
        space = SearchSpace.product(names, weight_bits, activation_bits)
        given = list(itertools.product(weight_bits, activation_bits))
        order = [
            given.index((bits.weight, bits.activation)) for bits in space.options
        ]  # the space sorts bits, the caller need not
        tables = {name: _table(name, table, space)[:, order] for name, table in costs.items()}
        for name in tables:
            if name not in references:
                raise InputError(f"cost '{name}' has no reference; give its worst value of interest in references")
        objectives: list[Objective] = [quality] if isinstance(quality, ObjectiveInfo) else [*quality]
        for name, table in tables.items():
            unit = _UNITS.get(name.rsplit("_", 1)[-1].lower(), "")
            objectives.append(
                CostObjective(ObjectiveInfo(name, unit, Direction.MINIMIZE, references[name]), space, table)
            )
        layers = tuple(LayerSpec(name, OpKind.LINEAR, (), (1,), (1,)) for name in names)
        measured = None if sensitivity is None else _table("sensitivity", sensitivity, space)[:, order]
        return cls(layers, space, tuple(objectives), dict(budgets or {}), (), measured)

    # --- objectives -------------------------------------------------------------------------------------------------

    @property
    def infos(self) -> tuple[ObjectiveInfo, ...]:
        """Description of every objective, in order: m of them."""
        return tuple(o if isinstance(o, ObjectiveInfo) else o.info for o in self.objectives)

    @cached_property
    def measured(self) -> tuple[ObjectiveInfo, ...]:
        """The objectives that only an evaluation tells, in order."""
        return tuple(one for one in self.objectives if isinstance(one, ObjectiveInfo))

    @property
    def quality(self) -> ObjectiveInfo:
        """The first measured objective; most problems have no other."""
        return self.measured[0]

    @property
    def costs(self) -> tuple[CostObjective, ...]:
        """The objectives that are known exactly."""
        return tuple(one for one in self.objectives if isinstance(one, CostObjective))

    @cached_property
    def reference(self) -> NDArray[np.float64]:  # m
        """The worst point of interest, all objectives maximised."""
        return objective.reference(self.infos)

    def maximised(self, values: Mapping[str, Measurement]) -> NDArray[np.float64]:  # m
        """A trial's values with the signs that make every objective one to maximise."""
        return objective.maximised(self.infos, values)

    def cost(self, name: str) -> CostObjective:
        """A cost, objective or constraint, by name.

        Raises:
            InputError: when there is none of that name.
        """
        known = {cost.info.name: cost for cost in (*self.costs, *self.constraints)}
        if name not in known:
            raise InputError(f"no cost '{name}' in this problem; it has {', '.join(known)}")
        return known[name]

    def cost_values(self, policy: Policy) -> dict[str, Measurement]:
        """The exact costs of a policy, by name."""
        return {cost.info.name: Measurement(cost(policy), 0.0) for cost in self.costs}

    # --- budgets ----------------------------------------------------------------------------------------------------

    def broken_budget(self, policy: Policy) -> BrokenBudget | None:
        """The first budget that the policy breaks, if it breaks one."""
        for name, limit in self.budgets.items():
            value = self.cost(name)(policy)
            if value > limit * (1 + TOLERANCE):
                return BrokenBudget(name, value, limit)
        return None

    def affordable(self, levels: NDArray[np.intp]) -> NDArray[np.bool_]:  # (..., d) -> (...)
        """Whether policies, given by levels, keep every budget."""
        keeps = np.ones(levels.shape[:-1], dtype=np.bool_)
        for name, limit in self.budgets.items():
            keeps &= self.cost(name).of_levels(levels) <= limit * (1 + TOLERANCE)
        return keeps

    def excess(self, levels: NDArray[np.intp]) -> NDArray[np.float64]:  # (..., d) -> (...)
        """How far policies, given by levels, are over their budgets: relative to each, summed; 0 where all are kept."""
        total = np.zeros(levels.shape[:-1])
        for name, limit in self.budgets.items():
            over = self.cost(name).of_levels(levels) - limit
            total += np.maximum(over, 0.0) / max(abs(limit), float(np.finfo(np.float64).tiny))
        return total

    def cheapest(self, name: str) -> Policy:
        """The legal policy of least cost among those that keep every budget.

        Raises:
            InfeasibleBudget: when there is none.
        """
        budgets = {budget: (self.cost(budget).table, limit) for budget, limit in self.budgets.items()}
        return cheapest(self.space, self.cost(name).table, budgets)


def _table(name: str, table: ArrayLike, space: SearchSpace) -> NDArray[np.float64]:
    array = np.asarray(table, dtype=np.float64)
    expected = (len(space.names), len(space.options))
    if array.shape != expected:
        raise InputError(f"table '{name}' has shape {array.shape}; expected {expected}, layers x options")
    if not np.isfinite(array).all():
        raise InputError(
            f"table '{name}' holds values that are not finite; expected a number for every layer and option"
        )
    return array
