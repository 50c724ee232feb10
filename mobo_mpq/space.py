"""The legal policies: choices per layer, ties, pins, and the pairs that the target supports.

A policy is a choice of one *level* for each free *variable*. A variable is the bits of one tensor, or of several tied
ones: the weight of a layer, or the activations that several layers read or that meet in an addition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.arrays import Levels
from mobo_mpq.choices import ROLES, Pairs, Role, Variable, check_supported, decide, layer_pairs, merge, why_illegal
from mobo_mpq.counting import count
from mobo_mpq.errors import InputError, PolicyError, UnknownName
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec
from mobo_mpq.policy import LayerBits, Policy

_LARGEST_GRID = 2**20
_MOST_BITS = 64
_BLOCK = 512
"""Policies that are looked at together: what they need stays in the processor's cache."""


_joined = itertools.chain.from_iterable


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """All legal policies of one network on one target.

    Attributes:
        names: the layers, in the order of the network.
        pairs: legal (weight, activation) bits of each layer.
        decisions: every decision, those with a single choice (pins) included.
    """

    names: tuple[str, ...]
    pairs: tuple[Pairs, ...]
    decisions: tuple[Variable, ...]

    def __post_init__(self) -> None:
        if not self.is_legal(self._highest_levels[None])[0]:
            raise InputError(
                "the highest bits everywhere are not a legal policy of this space: a target has to support the pair of "
                "its highest weight bits and its highest activation bits; pin the layers where it does not"
            )

    @classmethod
    def from_layers(
        cls,
        layers: Sequence[LayerSpec],
        target: HardwareTarget,
        *,
        weight_bits: Iterable[int] | None = None,
        activation_bits: Iterable[int] | None = None,
        pin: Mapping[str, tuple[int, int]] | None = None,
        tie: Iterable[Sequence[str]] = (),
    ) -> Self:
        """The legal policies of a traced network on a target.

        Args:
            layers: of the network; their groups become ties.
            target: its supported pairs limit every layer.
            weight_bits: restricts the weights further; ``None`` takes all that the target supports from 2 bits up.
            activation_bits: likewise for the inputs.
            pin: layer name -> (weight, activation) bits that are not searched.
            tie: groups of layer names that take the same bits, beyond those that the network itself ties.

        Raises:
            InputError: bits that the target does not support, or a pin or tie that leaves a layer no choice.
            UnknownName: a pin or a tie names a layer that does not exist.
        """
        if not layers:
            raise InputError("the network has no quantizable layer; expected at least one convolution or linear layer")
        names = tuple(layer.name for layer in layers)
        pins, ties = dict(pin or {}), [tuple(group) for group in tie]
        for name in itertools.chain(pins, *ties):
            if name not in names:
                raise UnknownName("layer", name, names, "Run 'mobo-mpq search --dry-run' to list them.")
        weights = None if weight_bits is None else frozenset(weight_bits)
        activations = None if activation_bits is None else frozenset(activation_bits)
        check_supported(target, layers, weights, "weight")
        check_supported(target, layers, activations, "activation")
        pairs = [layer_pairs(layer, target, weights, activations, pins.get(layer.name)) for layer in layers]
        keys: dict[Role, list[str]] = {
            "weight": merge([layer.weight_tie for layer in layers], names, ties),
            "activation": merge([layer.activation_tie for layer in layers], names, ties),
        }
        return cls(names, *decide(names, pairs, keys))

    @classmethod
    def product(cls, names: Sequence[str], weight_bits: Sequence[int], activation_bits: Sequence[int]) -> Self:
        """Every layer takes every pair, independently of all others.

        Raises:
            InputError: when a list is empty, or names repeat.
        """
        if not names or not weight_bits or not activation_bits:
            raise InputError("a space needs at least one layer, one number of weight bits and one of activation bits")
        if len(set(names)) != len(names):
            raise InputError("layer names repeat; expected each name once")
        pairs = [frozenset(itertools.product(weight_bits, activation_bits))] * len(names)
        return cls(tuple(names), *decide(tuple(names), pairs, {"weight": list(names), "activation": list(names)}))

    # --- the shape of the space -------------------------------------------------------------------------------------

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """The free decisions: d of them."""
        return tuple(variable for variable in self.decisions if len(variable.choices) > 1)

    @cached_property
    def sizes(self) -> Levels:  # d
        """Number of choices of each variable."""
        return np.array([len(variable.choices) for variable in self.variables], dtype=np.intp)

    @cached_property
    def weight_bits(self) -> tuple[int, ...]:
        """All weight bits that occur, increasing."""
        return tuple(sorted({weight for pairs in self.pairs for weight, _ in pairs}))

    @cached_property
    def activation_bits(self) -> tuple[int, ...]:
        """All activation bits that occur, increasing."""
        return tuple(sorted({activation for pairs in self.pairs for _, activation in pairs}))

    @cached_property
    def options(self) -> tuple[LayerBits, ...]:
        """The columns of every cost table: ``product(weight_bits, activation_bits)``."""
        return tuple(LayerBits(*pair) for pair in itertools.product(self.weight_bits, self.activation_bits))

    @cached_property
    def cardinality(self) -> int:
        """Number of legal policies, exactly."""
        return count(self.names, self.pairs, self.decisions, self._decision_of)

    # --- policies and their levels ----------------------------------------------------------------------------------

    def to_levels(self, policies: Sequence[Policy]) -> Levels:  # n -> n x d
        """Level of each variable.

        Raises:
            PolicyError: when a policy is not one of this space.
        """
        levels = np.empty((len(policies), len(self._free)), dtype=np.intp)
        for start in range(0, len(policies), _BLOCK):
            levels[start : start + _BLOCK] = self._levels_of(policies[start : start + _BLOCK])
        return levels

    def _levels_of(self, policies: Sequence[Policy]) -> Levels:  # n -> n x d
        flat = list(_joined(_joined([policy.layers for policy in policies])))  # name, pair, name, pair, ...
        if flat[::2] != list(self.names) * len(policies):
            self._refuse_names(next(policy for policy in policies if tuple(policy) != self.names))
        bits = np.fromiter(_joined(flat[1::2]), dtype=np.intp, count=len(flat))  # two for each name and pair
        bits = np.clip(bits, 0, _MOST_BITS).reshape(len(policies), -1)  # weight and activation of each layer in turn
        width = _MOST_BITS + 1
        pairs = (np.arange(len(self.names)) * width + bits[:, ::2]) * width + bits[:, 1::2]
        fits = self._legal_pairs.take(pairs).all(axis=-1)
        follower, leader = self._tied_columns
        fits &= (bits[:, follower] == bits[:, leader]).all(axis=-1)
        if not fits.all():
            raise PolicyError(why_illegal(policies[int(np.argmin(fits))], self.names, self.pairs, self.decisions))
        levels: Levels = self._level_index.take(self._free * width + bits[:, self._columns[self._free]])
        return levels

    def _refuse_names(self, policy: Policy) -> NoReturn:
        missing = [name for name in self.names if name not in policy]
        extra = [name for name in policy if name not in self.names]
        odd = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}'" if extra else "lists them in another order"
        raise PolicyError(f"the policy is of another model: it {odd}; expected the layers {', '.join(self.names)}")

    def to_policies(self, levels: Levels) -> list[Policy]:  # n x d -> n
        """The inverse of :meth:`to_levels`."""
        chosen = self.option_indices(np.atleast_2d(levels)).tolist()
        return [Policy(tuple(zip(self.names, map(self.options.__getitem__, row), strict=True))) for row in chosen]

    def encode(self, policies: Sequence[Policy]) -> NDArray[np.float64]:  # n -> n x d
        """Levels scaled to [0, 1]: 0 the lowest choice of a variable, 1 the highest."""
        return np.asarray(self.to_levels(policies) / np.maximum(self.sizes - 1, 1), dtype=np.float64)

    def decode(self, x: NDArray[np.float64]) -> list[Policy]:  # n x d -> n
        """The nearest level of each variable, then the smallest rise that makes the policy legal."""
        levels = np.rint(np.clip(x, 0.0, 1.0) * (self.sizes - 1)).astype(np.intp)
        return self.to_policies(self.repair_all(np.atleast_2d(levels)))

    def option_indices(self, levels: Levels, layers: Levels | None = None) -> Levels:  # (..., d) -> (..., layers)
        """Column of each layer in a cost table; of some layers alone, where their indices are given."""
        every = self._expand(levels)
        of_weight, of_activation = self._decision_of["weight"], self._decision_of["activation"]
        if layers is not None:
            of_weight, of_activation = of_weight[layers], of_activation[layers]
        weight = self._bit_index[of_weight, every[..., of_weight]]
        activation = self._bit_index[of_activation, every[..., of_activation]]
        index: Levels = weight * len(self.activation_bits) + activation
        return index

    def is_legal(self, levels: Levels) -> NDArray[np.bool_]:  # n x d -> n
        """Whether the target supports every layer's pair."""
        legal: NDArray[np.bool_] = self._legal_options[np.arange(len(self.names)), self.option_indices(levels)]
        return np.asarray(legal.all(axis=-1))

    def __contains__(self, policy: object) -> bool:
        if not isinstance(policy, Policy):
            return False
        try:
            self.to_levels([policy])
        except PolicyError:
            return False
        return True

    # --- walking the space ------------------------------------------------------------------------------------------

    def highest(self) -> Policy:
        """The highest bits everywhere."""
        return self.to_policies(self._highest_levels)[0]

    def lowest(self) -> Policy:
        """The lowest bits everywhere that are legal together."""
        return self.to_policies(self.repair(np.zeros(len(self.variables), dtype=np.intp)))[0]

    def uniform(self, weight: int, activation: int) -> Policy:
        """Every free variable at the choice nearest to the bits asked for, from above where there is one."""
        wanted = {"weight": weight, "activation": activation}
        levels = [
            min(int(np.searchsorted(variable.choices, wanted[variable.role])), len(variable.choices) - 1)
            for variable in self.variables
        ]
        return self.to_policies(self.repair(np.array(levels, dtype=np.intp)))[0]

    def sample(self, n: int, rng: np.random.Generator) -> list[Policy]:
        """``n`` independent policies: every variable uniform, then raised to the next legal pair where needed."""
        return self.to_policies(self.repair_all(rng.integers(0, self.sizes, size=(n, len(self.sizes)))))

    def neighbours(self, policy: Policy) -> Iterator[Policy]:
        """All legal policies that differ in one variable (and in what legality drags along)."""
        for levels in self.neighbour_levels(self.to_levels([policy])[0]):
            yield self.to_policies(levels)[0]

    def neighbour_levels(self, levels: Levels) -> Levels:  # d -> n x d
        """:meth:`neighbours` of one policy, as levels."""
        index = np.repeat(np.arange(len(self.sizes)), self.sizes)
        level = np.concatenate([np.arange(size) for size in self.sizes]) if len(self.sizes) else index
        moved = np.repeat(levels[None], len(index), axis=0)
        moved[np.arange(len(index)), index] = level
        if self._is_product:
            return moved[level != levels[index]]
        for row in np.flatnonzero(~self.is_legal(moved)):
            moved[row] = self.repair(moved[row], up=bool(level[row] > levels[index[row]]))
        distinct = dict.fromkeys(row.tobytes() for row in moved)
        distinct.pop(levels.tobytes(), None)
        flat = np.frombuffer(b"".join(distinct), dtype=np.intp)
        return np.array(flat.reshape(len(distinct), len(self.sizes)))

    def grid(self) -> Levels:  # -> n x d
        """Levels of every legal policy, the lowest first.

        Raises:
            InputError: when the variables have more than a million combinations.
        """
        combinations = math.prod(self.sizes.tolist())
        if combinations > _LARGEST_GRID:
            raise InputError(
                f"the space has {combinations} combinations; expected at most {_LARGEST_GRID}: sample it instead"
            )
        every = np.indices(tuple(self.sizes), dtype=np.intp).reshape(len(self.sizes), combinations).T
        return np.ascontiguousarray(every[self.is_legal(every)])

    def repair_all(self, levels: Levels) -> Levels:  # n x d -> n x d
        """:meth:`repair`, for many policies."""
        repaired = levels.astype(np.intp)
        for row in np.flatnonzero(~self.is_legal(repaired)):
            repaired[row] = self.repair(repaired[row])
        return repaired

    def repair(self, levels: Levels, *, up: bool = True) -> Levels:  # d -> d
        """The nearest legal levels reached by raising (or lowering) bits alone; falls back on raising."""
        if self._is_product:
            return levels
        every = self._expand(levels)
        while (illegal := self._first_illegal(every)) is not None:
            name_bits = self._bits(every, illegal)
            beyond = [
                pair
                for pair in self.pairs[illegal]
                if all((p >= b) if up else (p <= b) for p, b in zip(pair, name_bits, strict=True))
            ]
            if not beyond:
                return self.repair(levels, up=True) if not up else self._highest_levels.copy()
            nearest = min(beyond, key=lambda pair: (abs(pair[0] - name_bits[0]) + abs(pair[1] - name_bits[1]), pair))
            for role, bits in zip(ROLES, nearest, strict=True):
                decision = int(self._decision_of[role][illegal])
                every[decision] = self.decisions[decision].choices.index(bits)
        return every[self._free]

    # --- index tables -----------------------------------------------------------------------------------------------

    @cached_property
    def _free(self) -> Levels:
        return np.array([i for i, v in enumerate(self.decisions) if len(v.choices) > 1], dtype=np.intp)

    @cached_property
    def _decision_of(self) -> dict[str, Levels]:
        """For each role: the index of each layer's decision."""
        index: dict[str, dict[str, int]] = {"weight": {}, "activation": {}}
        for i, variable in enumerate(self.decisions):
            index[variable.role].update(dict.fromkeys(variable.layers, i))
        return {role: np.array([of[name] for name in self.names], dtype=np.intp) for role, of in index.items()}

    @cached_property
    def _bit_index(self) -> Levels:  # decisions x levels
        """Position of each choice among all weight (or activation) bits."""
        width = max(len(variable.choices) for variable in self.decisions)
        table = np.zeros((len(self.decisions), width), dtype=np.intp)
        for row, variable in enumerate(self.decisions):
            grid = self.weight_bits if variable.role == "weight" else self.activation_bits
            table[row, : len(variable.choices)] = [grid.index(bits) for bits in variable.choices]
        return table

    @cached_property
    def _level_index(self) -> Levels:  # decisions x bits
        """Level of each number of bits; -1 where it is no choice."""
        table = np.full((len(self.decisions), _MOST_BITS + 1), -1, dtype=np.intp)
        for row, variable in enumerate(self.decisions):
            table[row, list(variable.choices)] = range(len(variable.choices))
        return table

    @cached_property
    def _columns(self) -> Levels:  # decisions
        """Where each decision shows first, among the weight and activation bits of each layer in turn."""
        place = {name: index for index, name in enumerate(self.names)}
        return np.array([2 * place[v.layers[0]] + ROLES.index(v.role) for v in self.decisions], dtype=np.intp)

    @cached_property
    def _tied_columns(self) -> tuple[Levels, Levels]:
        """Columns that repeat the decision of an earlier one, and that one."""
        every = np.stack([self._columns[self._decision_of[role]] for role in ROLES], axis=-1).ravel()
        follower = np.flatnonzero(every != np.arange(len(every)))
        return follower, every[follower]

    @cached_property
    def _legal_pairs(self) -> NDArray[np.bool_]:  # layers x weight bits x activation bits
        table = np.zeros((len(self.names), _MOST_BITS + 1, _MOST_BITS + 1), dtype=np.bool_)
        for row, pairs in enumerate(self.pairs):
            table[(row, *np.array(sorted(pairs)).T)] = True
        return table

    @cached_property
    def _legal_options(self) -> NDArray[np.bool_]:  # layers x options
        return np.array([[tuple(bits) in pairs for bits in self.options] for pairs in self.pairs])

    @cached_property
    def _highest_levels(self) -> Levels:
        return np.array(self.sizes - 1, dtype=np.intp)

    @cached_property
    def _is_product(self) -> bool:
        """Whether every combination of levels is legal."""
        choices = self.decisions
        weight, activation = self._decision_of["weight"], self._decision_of["activation"]
        return all(
            set(itertools.product(choices[w].choices, choices[a].choices)) <= pairs
            for w, a, pairs in zip(weight, activation, self.pairs, strict=True)
        )

    def _expand(self, levels: Levels) -> Levels:  # (..., d) -> (..., decisions)
        every = np.zeros((*levels.shape[:-1], len(self.decisions)), dtype=np.intp)
        every[..., self._free] = levels
        return every

    def _bits(self, every: Levels, layer: int) -> LayerBits:
        weight, activation = (
            int(self._decision_of["weight"][layer]),
            int(self._decision_of["activation"][layer]),
        )
        return LayerBits(
            self.decisions[weight].choices[every[weight]],
            self.decisions[activation].choices[every[activation]],
        )

    def _first_illegal(self, every: Levels) -> int | None:
        return next((i for i in range(len(self.names)) if tuple(self._bits(every, i)) not in self.pairs[i]), None)
