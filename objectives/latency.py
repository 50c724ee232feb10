"""Latency of one layer: what formulas are, and how a target's documents call them.

A formula is registered by the name that target documents call it by, so a new one is one class in one file.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import Pair
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import LayerBits

Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, gt=0)]


def _pair_key(key: str) -> str:
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", key):
        raise ValueError(f"key '{key}' is not WEIGHT/ACTIVATION bits, as in \"4/8\"")
    return key


PairKey = Annotated[str, AfterValidator(_pair_key)]
"""A pair of bits as documents write it: ``"4/8"``."""

WEIGHTED = frozenset({OpKind.CONV, OpKind.DEPTHWISE, OpKind.LINEAR})


class LatencyFormula(BaseModel, ABC):
    """Seconds of one layer; its fields are the numbers of a target document's ``[latency]`` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: ClassVar[frozenset[OpKind]] = WEIGHTED
    """Kinds of layers that the formula knows."""

    needs_clock: ClassVar[bool] = False
    """Whether a document has to have ``clock_hz``."""

    @property
    @abstractmethod
    def coverage(self) -> str:
        """The covered bit pairs, in words, for messages."""

    @abstractmethod
    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether the formula holds at these bits, for layers of a known kind."""

    def refusal(self, layer: LayerSpec, bits: LayerBits) -> str | None:
        """Why this layer of a known kind cannot be priced at these bits: what is covered instead; ``None`` if it can.

        For formulas that look at more than the kind; they refuse no pair of :meth:`covers` for every layer.
        """
        return None if self.covers(layer.kind, bits) else f"it covers {self.coverage}"

    @abstractmethod
    def seconds(self, layer: LayerSpec, bits: LayerBits, batch: int, clock_hz: float | None) -> float:
        """Seconds for ``batch`` inferences of one layer, at bits that are covered."""


class CycleFormula(LatencyFormula):
    """A formula that gives cycles, which a clock turns into seconds."""

    needs_clock: ClassVar[bool] = True

    @abstractmethod
    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences of one layer, at bits that are covered."""

    def seconds(self, layer: LayerSpec, bits: LayerBits, batch: int, clock_hz: float | None) -> float:
        """Seconds for ``batch`` inferences."""
        assert clock_hz is not None  # documents without one are refused
        return self.cycles(layer, bits, batch) / clock_hz


FORMULAS: dict[str, type[LatencyFormula]] = {}
"""Latency formulas by the name that documents use."""

F = TypeVar("F", bound=LatencyFormula)


def register_latency(name: str) -> Callable[[type[F]], type[F]]:
    """Class decorator: make a formula known to target documents as ``[latency] model = name``."""

    def add(formula: type[F]) -> type[F]:
        FORMULAS[name] = formula
        return formula

    return add


def nested_formula(
    outer: type[LatencyFormula], field: str, raw: Mapping[str, Any], context: Mapping[str, Any]
) -> LatencyFormula:
    """A formula inside the table of another one.

    Args:
        outer: the other one, which cannot stand inside itself.
        field: where it stands, for messages.
        raw: ``model`` and its numbers.
        context: of the validation: ``folder``, ``batch`` and ``clock_hz`` of the document.

    Raises:
        ValueError: when there is no such formula, its numbers are wrong, or it needs a clock and there is none.
    """
    name = str(raw.get("model"))
    known = sorted(other for other, formula in FORMULAS.items() if formula is not outer)
    if name not in known:
        raise ValueError(f"{field}.model is {raw.get('model')!r}; expected one of {', '.join(known)}")
    formula = FORMULAS[name]
    if formula.needs_clock and context.get("clock_hz") is None:
        raise ValueError(f"{field}.model '{name}' gives cycles, and the document has no clock_hz; write it")
    try:
        return formula.model_validate({key: value for key, value in raw.items() if key != "model"}, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (field, *first["loc"]))
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


@dataclass
class LatencyModel:
    """Seconds per batch of a target.

    Attributes:
        target: the device's name, for messages.
        formula: gives seconds.
        clock_hz: turns cycles into seconds, where the formula needs one.
        batch: inferences that one cost refers to.
        carriers: kind -> pairs that run as another, wider pair: they cost what that one costs, and are only smaller.
    """

    target: str
    formula: LatencyFormula
    clock_hz: float | None = None
    batch: int = 1
    carriers: Mapping[OpKind, Mapping[Pair, Pair]] = field(default_factory=dict)
    name: str = field(default="latency_s", init=False)
    unit: str = field(default="s", init=False)

    def carrier(self, layer: LayerSpec, bits: LayerBits) -> LayerBits:
        """The pair that the device computes with: the same, or the one that carries it."""
        return LayerBits(*self.carriers.get(layer.kind, {}).get((bits[0], bits[1]), bits))

    def check(self, layer: LayerSpec, bits: LayerBits) -> LayerBits:
        """Refuse what the formula does not cover, and return the pair that the device computes with.

        Raises:
            InputError: naming the target, the layer, and its kind or bits.
        """
        if layer.kind not in self.formula.kinds:
            known = ", ".join(sorted(self.formula.kinds))
            raise InputError(
                f"target '{self.target}' cannot price layer '{layer.name}' of kind '{layer.kind}'; it knows {known}: "
                "leave the layer in float, or choose another target ('mobo-mpq targets' lists them)"
            )
        carrier = self.carrier(layer, bits)
        refusal = self.formula.refusal(layer, carrier)
        if refusal is not None:
            raise InputError(
                f"target '{self.target}' has no cost for layer '{layer.name}' at {bits[0]} weight and {bits[1]} "
                f"activation bits; {refusal}: choose among those, or another target"
            )
        return carrier

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        """Seconds for one batch.

        Raises:
            InputError: for a kind of layer or bits that the formula does not cover.
        """
        return self.formula.seconds(layer, self.check(layer, bits), self.batch, self.clock_hz)


@dataclass(frozen=True)
class Geometry:
    """A weighted layer as ``groups`` matrix products, of (positions x taps in) by (taps in x out).

    A linear layer is a 1x1 convolution over its positions; a missing spatial axis counts as one of size 1.

    Attributes:
        groups: independent products; 1 unless the convolution is grouped.
        in_channels: per group.
        out_channels: per group.
        taps: elements of the kernel window.
        positions: of the output.
        inputs: elements of the whole input.
    """

    groups: int
    in_channels: int
    out_channels: int
    taps: int
    positions: int
    inputs: int

    @classmethod
    @lru_cache(maxsize=4096)
    def of(cls, layer: LayerSpec) -> Geometry:
        """Read off a layer that has a weight."""
        space = layer.output_shape[:-1] if layer.kind is OpKind.LINEAR else layer.output_shape[1:]
        return cls(
            groups=layer.groups,
            in_channels=layer.weight_shape[1],
            out_channels=layer.weight_shape[0] // layer.groups,
            taps=math.prod(layer.weight_shape[2:]),
            positions=math.prod(space),
            inputs=math.prod(layer.input_shape),
        )
