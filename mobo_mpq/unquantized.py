"""Operators with weights or multiply-accumulates that stay in float, and why."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from mobo_mpq.dataflow import arguments, aten, module_path, moved, op, operand, origin
from mobo_mpq.shapes import BATCH, per_sample, shape

logger = logging.getLogger(__name__)

_NORMALISATION = "normalisation is computed in float"
_LOOK_UP = "a look-up holds a table and multiplies nothing"
_REASONS = {
    aten.embedding: _LOOK_UP,
    aten.embedding_bag: _LOOK_UP,
    aten.layer_norm: _NORMALISATION,
    aten.native_layer_norm: _NORMALISATION,
    aten.group_norm: _NORMALISATION,
    aten.native_group_norm: _NORMALISATION,
    aten.rms_norm: _NORMALISATION,
    aten._native_batch_norm_legit_no_training: "a batch norm without a layer of its own to fold into",
}
_PLAIN_CONVOLUTIONS = {aten.conv1d, aten.conv2d}
_OTHER_CONVOLUTIONS = {
    aten.conv3d,
    aten.convolution,
    aten.conv_transpose1d,
    aten.conv_transpose2d,
    aten.conv_transpose3d,
}
_PRODUCTS = {aten.linear, aten.matmul, aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.einsum}
_RECURRENT = {aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu}


@dataclass(frozen=True, slots=True)
class Unquantized:
    """An operator with weights or multiply-accumulates that stays in float.

    Attributes:
        name: qualified name of the module that owns or calls it; of the parameter where no module does.
        op: the ATen operator, ``layer_norm``.
        reason: why it is not quantized.
        macs: per inference; 0 where they cannot be counted.
        parameters: elements of the parameters that it reads.
    """

    name: str
    op: str
    reason: str
    macs: int = 0
    parameters: int = 0

    def __str__(self) -> str:
        counted = [f"{n} {what}" for n, what in ((self.macs, "MACs"), (self.parameters, "parameters")) if n]
        return f"{self.name} ({self.op}): {self.reason}{'; ' if counted else ''}{', '.join(counted)}"


def read_unquantized(
    graph: Graph, layers: Set[Node], parameters: Set[str], quantized: Set[str], batch: Any
) -> tuple[Unquantized, ...]:
    """Every operator that holds parameters or multiplies, and is no layer.

    Args:
        graph: as captured.
        layers: nodes of the quantizable layers.
        parameters: qualified names of the network's parameters.
        quantized: those that are the weight of a layer.
        batch: symbol of the batch.
    """
    entries, calls = [], Counter[tuple[str, str]]()
    for node in graph.nodes:
        called = op(node)
        if node in layers or called is None or moved(node) is not None:
            continue
        read = [origin(source) for source in node.all_input_nodes]
        held = [source for source in read if str(source.target) in parameters - quantized]
        macs, reason = _judge(node, called, bool(held), batch)
        if reason:
            name, label = _owner(node, held), called.__name__.removeprefix("_")
            suffix = f"@{calls[name, label]}" if calls[name, label] else ""
            calls[name, label] += 1
            elements = sum(math.prod(shape(source)) for source in held)
            entries.append(Unquantized(name + suffix, label, reason, macs, elements))
    return tuple(entries)


def log_unquantized(unquantized: Sequence[Unquantized]) -> None:
    """Say in one line what is left in float."""
    by_op: dict[str, list[str]] = defaultdict(list)
    for entry in unquantized:
        by_op[entry.op].append(entry.name)
    parts = []
    for label, names in by_op.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        parts.append(f"{label} ({', '.join(names[:4])}{more})")
    if parts:
        logger.warning("left in float: %s", "; ".join(parts))


def _owner(node: Node, held: Sequence[Node]) -> str:
    """The module that owns the parameters; a parameter of another name than weight; the caller."""
    names = [str(source.target) for source in held]
    if len(names) == 1 and not names[0].endswith(".weight"):
        return names[0]
    owners = {name.rpartition(".")[0] for name in names}
    return owners.pop() if len(owners) == 1 else module_path(node)


def _judge(node: Node, called: Any, held: bool, batch: Any) -> tuple[int, str]:
    """Multiply-accumulates and reason; an empty reason for an operator that is not worth naming."""
    if called is aten.scaled_dot_product_attention:
        query, key, values = (shape(operand(node, i)) for i in range(3))
        macs = math.prod(query[:-1]) * key[-2] * (query[-1] + values[-1]) // BATCH
        return macs, "attention multiplies activations with each other"
    if called in _RECURRENT:
        return 0, "recurrent layers are not supported"
    if called in _OTHER_CONVOLUTIONS:
        return _convolution_macs(node, batch), f"no cost model covers {called.__name__}"
    if called in _PLAIN_CONVOLUTIONS:
        return _convolution_macs(node, batch), "its weight is computed, not stored"
    if called in _PRODUCTS:
        stored = any(origin(source).op == "get_attr" for source in node.all_input_nodes)
        reason = "its weight is computed, not stored, or not on the right" if stored else "a product of two activations"
        return _product_macs(node, called, batch), reason
    return 0, _REASONS.get(called, "its parameters are not the weight of a convolution or a product") if held else ""


def _convolution_macs(node: Node, batch: Any) -> int:
    given = arguments(node)
    transposed = "transpose" in op(node).__name__ or bool(given.get("transposed"))
    return math.prod(per_sample(given["input"] if transposed else node, batch)) * math.prod(shape(given["weight"])[1:])


def _product_macs(node: Node, called: Any, batch: Any) -> int:
    if called is aten.einsum:
        return 0
    inner = shape(operand(node, 1 if called in {aten.addmm, aten.baddbmm} else 0))[-1]
    return math.prod(per_sample(node, batch)) * inner
