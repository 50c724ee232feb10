"""Which tensors of a graph are one tensor to a quantizer, and which must share their bits.

A quantizer sits on a tensor. Reshaping, cutting or pooling by maximum gives no new values, so that everything read
through such operators is one *site*. An addition needs operands on one grid, and its result stays there: their sites
are tied.
"""

from __future__ import annotations

import operator
from collections.abc import Set
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

aten = torch.ops.aten

_MOVES = {
    aten.view, aten.reshape, aten._unsafe_view, aten.flatten, aten.unflatten, aten.transpose, aten.t, aten.permute,
    aten.contiguous, aten.clone, aten.alias, aten.detach, aten.lift_fresh, aten.dropout, aten.feature_dropout,
    aten.expand, aten.expand_as, aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.chunk,
    aten.tensor_split, aten.unbind, aten.unsqueeze, aten.squeeze, aten.movedim, aten.swapaxes, aten.narrow, aten.flip,
    aten.roll, aten.repeat, aten.tile, aten.index_select, aten.view_as, aten.reshape_as, aten.pixel_shuffle,
    aten.pixel_unshuffle, aten.channel_shuffle, aten.max_pool1d, aten.max_pool2d, aten.max_pool3d,
    aten.max_pool2d_with_indices, aten.adaptive_max_pool2d,
}  # fmt: skip
_PADS = {aten.pad, aten.constant_pad_nd}
_CASTS = {aten.to, aten._to_copy, aten.type_as}
_CUTS = {aten.split, aten.split_with_sizes, aten.chunk, aten.tensor_split, aten.unbind, aten.max_pool2d_with_indices,
         aten.adaptive_max_pool2d}  # fmt: skip
RECTIFIERS = {aten.relu, aten.relu6, aten.hardtanh}
"""Activations that only clamp: input and output fit one grid."""


def op(node: Node) -> Any:
    """The operator that a node calls, without its overload; None for inputs, parameters and outputs."""
    if node.op != "call_function":
        return None
    return getattr(node.target, "overloadpacket", node.target)


def module_path(node: Node) -> str:
    """Qualified name of the innermost module that called an operator."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return "" if path.startswith("_empty_nn_module_stack") else path.partition("@")[0]


def operand(node: Node, index: int) -> Any:
    """One positional argument: a node, or a constant."""
    return node.args[index]


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of an ATen call by the names of its schema, defaults included."""
    schema = getattr(node.target, "_schema")  # noqa: B009
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given.update(zip((a.name for a in schema.arguments), node.args, strict=False))
    given.update(node.kwargs)
    return given


def value(node: Node) -> Any:
    """The fake tensor that stands for a node's result, None where there is none."""
    return node.meta.get("val")


def is_float(node: Node) -> bool:
    """Whether a node's result is one floating-point tensor."""
    result = value(node)
    return isinstance(result, Tensor) and result.dtype.is_floating_point


def moved(node: Node) -> Node | None:
    """The node whose values a node merely moves, None when it makes new ones."""
    called = op(node)
    if called is operator.getitem:
        source = operand(node, 0)
        return moved(source) if op(source) in _CUTS else None
    if called in _MOVES:
        return _node(operand(node, 0))
    if called in _PADS:
        pad = arguments(node)
        zero = pad.get("mode", "constant") == "constant" and not pad.get("value")
        return _node(operand(node, 0)) if zero else None
    if called in _CASTS:
        return _node(operand(node, 0)) if value(operand(node, 0)).dtype == value(node).dtype else None
    return None


def _node(argument: Any) -> Node | None:
    return argument if isinstance(argument, Node) else None


def origin(node: Node) -> Node:
    """Walk back through every operator that only moves values."""
    while (source := moved(node)) is not None:
        node = source
    return node


def site(node: Node) -> Node:
    """The node on whose result the quantizer of this tensor sits: its origin, or the rectifier fused to that."""
    node = origin(node)
    while len(node.users) == 1 and op(reader := next(iter(node.users))) in RECTIFIERS:
        node = reader
    return node


class Ties:
    """Sites that share bits: a union-find over a graph's residual additions and rectifiers."""

    def __init__(self, graph: Graph) -> None:
        self._parent: dict[Node, Node] = {}
        self._added: set[Node] = set()
        data = data_nodes(graph)
        for node in graph.nodes:
            if op(node) in RECTIFIERS:
                self.unite(site(operand(node, 0)), site(node))
            elif is_residual(node, data):
                meeting = [site(operand(node, 0)), site(operand(node, 1)), site(node)]
                self._added.update(meeting)
                self.unite(meeting[0], meeting[2])
                self.unite(meeting[1], meeting[2])

    def find(self, node: Node) -> Node:
        """The representative of a site's class."""
        while (parent := self._parent.get(node, node)) is not node:
            node = parent
        return node

    def unite(self, first: Node, second: Node) -> None:
        """Make two classes one."""
        self._parent.setdefault(first, first)
        self._parent.setdefault(second, second)
        self._parent[self.find(second)] = self.find(first)

    def members(self, node: Node, read: Set[Node]) -> tuple[Node, ...]:
        """Sites of a class that are quantized: those that layers ``read``, and those that additions meet."""
        root = self.find(node)
        tied = [other for other in self._parent if self.find(other) is root] or [node]
        return tuple(other for other in tied if other in read or other in self._added)


def is_residual(node: Node, data: Set[Node]) -> bool:
    """Whether a node adds two activations of one shape; masks, biases and position embeddings are none."""
    if op(node) is not aten.add or node.kwargs.get("alpha", 1) != 1 or len(node.args) != 2:
        return False
    operands = [term for term in node.args if isinstance(term, Node)]
    if len(operands) != 2 or not all(term in data and is_float(term) for term in operands):
        return False
    return str(tuple(value(operands[0]).shape)) == str(tuple(value(operands[1]).shape))


def data_nodes(graph: Graph) -> set[Node]:
    """Nodes that depend on what the user feeds: floating-point inputs, and embeddings of integer ones."""
    data: set[Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            if is_float(node):
                data.add(node)
        elif op(node) is aten.embedding:
            if origin(operand(node, 1)).op == "placeholder":
                data.add(node)
        elif any(source in data for source in node.all_input_nodes):
            data.add(node)
    return data
