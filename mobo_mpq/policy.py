"""A policy: how many bits each layer's weight and input get."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

from mobo_mpq.errors import PolicyError
from mobo_mpq.layers import LayerSpec

SCHEMA = 1


class LayerBits(NamedTuple):
    """Bits of one layer: those of its weight, and those of its input."""

    weight: int
    activation: int


@dataclass(frozen=True)
class Policy(Mapping[str, LayerBits]):
    """Immutable, hashable map from layer name to bit-widths, in the order of the network.

    >>> policy = Policy.of({"conv1": (8, 8), "fc": (4, 8)})
    >>> policy["fc"].weight
    4
    """

    layers: tuple[tuple[str, LayerBits], ...]

    @classmethod
    def of(cls, bits: Mapping[str, tuple[int, int]]) -> Self:
        """From a mapping of names to (weight bits, activation bits)."""
        return cls(tuple((name, LayerBits(int(pair[0]), int(pair[1]))) for name, pair in bits.items()))

    @classmethod
    def uniform(cls, layers: Iterable[LayerSpec], weight: int, activation: int) -> Self:
        """The same bits everywhere."""
        return cls(tuple((layer.name, LayerBits(weight, activation)) for layer in layers))

    @cached_property
    def _by_name(self) -> dict[str, LayerBits]:
        return dict(self.layers)

    def __getitem__(self, name: str) -> LayerBits:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.layers)

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[tuple[str, LayerBits], ...]]]:
        return type(self), (self.layers,)  # without the hash: another process has another one

    def __eq__(self, other: object) -> bool:
        return self.layers == other.layers if isinstance(other, Policy) else NotImplemented

    def with_bits(self, name: str, *, weight: int | None = None, activation: int | None = None) -> Policy:
        """A copy in which one layer differs.

        Raises:
            PolicyError: when no layer is called ``name``.
        """
        if name not in self:
            raise PolicyError(f"no layer '{name}' in this policy; its layers are {', '.join(self)}")
        old = self[name]
        new = LayerBits(old.weight if weight is None else weight, old.activation if activation is None else activation)
        return Policy(tuple((key, new if key == name else bits) for key, bits in self.layers))

    def to_dict(self) -> dict[str, dict[str, int]]:
        """``{name: {"weight": w, "activation": a}}``, as files hold it."""
        return {name: bits._asdict() for name, bits in self.layers}

    @classmethod
    def from_dict(cls, layers: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            PolicyError: when an entry is not a pair of positive whole numbers.
        """
        bits: dict[str, tuple[int, int]] = {}
        for name, entry in layers.items():
            try:
                pair = (entry["weight"], entry["activation"])
            except (KeyError, TypeError):
                pair = (None, None)
            if not all(isinstance(b, int) and not isinstance(b, bool) and b > 0 for b in pair):
                raise PolicyError(
                    f"layer '{name}' of the policy holds {entry!r}; expected "
                    '{"weight": BITS, "activation": BITS} with whole numbers above 0'
                )
            bits[name] = pair
        return cls.of(bits)

    def to_json(self) -> str:
        """A JSON document that :meth:`from_json` reads back."""
        return json.dumps({"schema": SCHEMA, "layers": self.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a policy document; further keys, such as the target, are left to others.

        Raises:
            PolicyError: when the text is not such a document, or of another schema.
        """
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise PolicyError(f"the policy is not JSON ({error}); expected a file written by 'export'") from None
        if not isinstance(document, dict) or not isinstance(document.get("layers"), dict):
            raise PolicyError("the policy has no \"layers\"; expected a file written by 'mobo-mpq export'")
        if document.get("schema") != SCHEMA:
            raise PolicyError(
                f"the policy is of schema {document.get('schema')!r}; this version reads schema {SCHEMA}: "
                "export it again, or install the version that wrote it"
            )
        return cls.from_dict(document["layers"])

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()
