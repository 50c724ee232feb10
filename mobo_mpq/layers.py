"""What a layer is, to everything that counts, prices or chooses bits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class OpKind(StrEnum):
    """Kinds of operators that cost models tell apart."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    LINEAR = "linear"
    MATMUL = "matmul"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One quantizable operator, as seen on one inference (batch size 1).

    Attributes:
        name: fully qualified module name, ``layer1.0.conv1``; a second call of one module has the suffix ``@1``.
        kind: what cost models tell apart.
        weight_shape: ``(out, in / groups, *kernel)``; ``()`` when the operator has no weight.
        input_shape: without the batch, ``(channels, *space)`` or ``(*positions, features)``.
        output_shape: likewise.
        groups: of a convolution.
        stride: of a convolution, along its first spatial axis.
        activation_group: layers of one group share activation bits; ``""`` means its own.
        weight_group: layers of one group read the same weight, so they share its bits; ``""`` means its own.
        input_tensor: the tensor that is read; layers that read one tensor share its quantizer.
        reader: a layer whose activation bits the output is stored with: one that reads it, or what becomes of it;
            ``""`` where none is known.
        reused: whether the input is read again after the layer, so that it has to stay.
        held: other tensors that have to stay while the layer runs, such as the shortcut around it: of each, a layer as
            ``reader``, and its elements.
    """

    name: str
    kind: OpKind
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    groups: int = 1
    stride: int = 1
    activation_group: str = ""
    weight_group: str = ""
    input_tensor: str = ""
    reader: str = ""
    reused: bool = False
    held: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", OpKind(self.kind))
        for field in ("weight_shape", "input_shape", "output_shape"):
            object.__setattr__(self, field, tuple(int(size) for size in getattr(self, field)))
        object.__setattr__(self, "held", tuple((str(reader), int(elements)) for reader, elements in self.held))

    @property
    def macs(self) -> int:
        """Multiply-accumulates per inference, bias excluded."""
        if not self.weight_shape:  # a product of two activations: (..., m, k) x (..., k, n)
            return math.prod(self.output_shape) * self.input_shape[-1]
        return math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    @property
    def num_weights(self) -> int:
        """Elements of the weight, bias excluded; 0 for an operator without one."""
        return math.prod(self.weight_shape) if self.weight_shape else 0

    @property
    def activation_tie(self) -> str:
        """The key of the activation decision: the group, or the layer alone."""
        return self.activation_group or self.name

    @property
    def weight_tie(self) -> str:
        """The key of the weight decision: the group, or the layer alone."""
        return self.weight_group or self.name


def readers(layers: Sequence[LayerSpec]) -> tuple[str, ...]:
    """Of each layer, one whose activation bits its output is stored with; ``""`` where it stays in float.

    Of layers made by hand, each is read by the next.
    """
    following = (*(layer.name for layer in layers[1:]), "")
    return tuple(
        layer.reader or ("" if layer.input_tensor else after) for layer, after in zip(layers, following, strict=True)
    )


_OF_MEMORY = ("reader", "reused", "held")


def architecture_digest(layers: Sequence[LayerSpec]) -> str:
    """SHA-256 over names, shapes and ties: two models that agree take the same policies."""
    described = [{key: value for key, value in asdict(layer).items() if key not in _OF_MEMORY} for layer in layers]
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
