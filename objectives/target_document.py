"""What a target document holds: versioned TOML in which every number has a source.

::

    schema = 1
    name = "my-board"
    description = "one sentence"
    clock_hz = 480e6

    [[bit_pairs]]                       # what a search may choose
    kinds = ["conv", "depthwise", "linear"]
    weight = [2, 4, 8]
    activation = [8]

    [[bit_pairs]]                       # these run as 8/8, and are only smaller
    kinds = ["conv"]
    weight = [3]
    activation = [8]
    carrier = [8, 8]

    [latency]
    model = "mac_rate"                  # a registered formula; its numbers follow
    macs_per_cycle = { "2/8" = 2.5, "4/8" = 2.3, "8/8" = 2.1 }

    [size]                              # may be left out: weights are packed then, and nothing else counts
    containers = [4, 8]
    bytes_per_channel = 8

    [sources]                           # field, or the table that holds it -> where its numbers come from
    clock_hz = "measured: ..."
    bit_pairs = "published: ..."
    "latency.macs_per_cycle" = "measured: ..."
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mobo_mpq.layers import OpKind
from mobo_mpq.objectives.latency import Count, Positive

SCHEMA = 1

Text = Annotated[str, Field(min_length=1)]


class BitPairs(BaseModel):
    """Every combination of these weight and activation bits, for these kinds of layers.

    Attributes:
        kinds: of layers.
        weight: bits.
        activation: bits.
        carrier: the wider (weight, activation) pair that the device computes these with, where it has no kernel of
            their own: they cost what that one costs.
    """

    model_config = ConfigDict(extra="forbid")

    kinds: list[OpKind] = Field(min_length=1)
    weight: list[Count] = Field(min_length=1)
    activation: list[Count] = Field(min_length=1)
    carrier: tuple[Count, Count] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.carrier and (max(self.weight) > self.carrier[0] or max(self.activation) > self.carrier[1]):
            raise ValueError(
                f"carrier {self.carrier[0]}/{self.carrier[1]} is narrower than what it carries; expected at least "
                f"{max(self.weight)}/{max(self.activation)}"
            )
        return self

    @property
    def pairs(self) -> frozenset[tuple[int, int]]:
        """All combinations."""
        return frozenset(product(self.weight, self.activation))


class Size(BaseModel):
    """How weights are stored: see :class:`~mobo_mpq.hardware.Storage`."""

    model_config = ConfigDict(extra="forbid")

    containers: list[Count] = []
    bytes_per_channel: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0


class TargetDocument(BaseModel):
    """The document, but for the numbers of its formulas, which the formulas check themselves.

    Without ``[latency]`` it is a set of constraints: what a device computes with, for a table that its user measures.
    """

    model_config = ConfigDict(extra="forbid")

    schema_: Any = Field(alias="schema")
    name: Text
    description: Text
    clock_hz: Positive | None = None
    batch: Count = 1
    bit_pairs: list[BitPairs] = Field(min_length=1)
    latency: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None
    size: Size = Size()
    sources: dict[str, Text]


def numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all numbers in a document; the items of a list share the path of the list.

    A file that a field names holds numbers, so it counts as one.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from numbers(item, (*path, key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from numbers(item, path)
    elif isinstance(value, int | float) or path[-1:] == ("file",):
        yield path
