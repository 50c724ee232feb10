"""Operators of a graph: those that are quantizable layers, and those that stay in float and why."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from mobo_mpq.dataflow import Ties, aten, moved, op, origin, site, value
from mobo_mpq.dataflow import arguments as schema_arguments
from mobo_mpq.layers import LayerSpec, OpKind

logger = logging.getLogger(__name__)

BATCH = 2
"""Size of the batch that graphs are captured with."""

_CONVOLUTIONS = {aten.conv1d, aten.conv2d}
_PRODUCTS = {aten.linear: 1, aten.addmm: 2, aten.mm: 1, aten.matmul: 1}  # index of the weight
_TRANSPOSES = {aten.t, aten.transpose, aten.permute, aten.numpy_T}
_COPIES = {aten.alias, aten.detach, aten.clone, aten.contiguous, aten.lift_fresh}
_ATTENTION = {aten.scaled_dot_product_attention}
_ACTIVATION_PRODUCTS = {aten.matmul, aten.bmm, aten.mm, aten.baddbmm, aten.addmm, aten.linear, aten.einsum}
_OTHER_CONVOLUTIONS = {aten.conv3d, aten.convolution, aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
_RECURRENT = {aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu}
_REASONS = {
    aten.embedding: "a look-up holds a table and multiplies nothing",
    aten.embedding_bag: "a look-up holds a table and multiplies nothing",
    aten.layer_norm: "normalisation is computed in float",
    aten.native_layer_norm: "normalisation is computed in float",
    aten.group_norm: "normalisation is computed in float",
    aten.native_group_norm: "normalisation is computed in float",
    aten.rms_norm: "normalisation is computed in float",
    aten._native_batch_norm_legit_no_training: "a batch norm without a layer of its own to fold into",
}


@dataclass(frozen=True, slots=True)
class Unquantized:
    """An operator with weights or multiply-accumulates that stays in float.

    Attributes:
        name: qualified name of the module that owns or calls it; of the parameter where no module does.
        op: the ATen operator, ``layer_norm``.
        reason: why it is not quantized.
        macs: per inference, where they can be counted.
        parameters: elements of the parameters that it reads.
    """

    name: str
    op: str
    reason: str
    macs: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Operator:
    """A layer in its graph.

    Attributes:
        spec: the layer.
        node: name of its node.
        weight: qualified name of the parameter that holds the weight.
        axis: axis of that parameter that runs over the outputs.
        tensor: name of the node whose result the layer reads, and on which the quantizer of its input sits.
    """

    spec: LayerSpec
    node: str
    weight: str
    axis: int
    tensor: str


@dataclass(frozen=True)
class Trace:
    """What a network consists of.

    Attributes:
        layers: quantizable operators, in the order in which they run.
        unquantized: operators with weights or multiply-accumulates that stay in float.
        parameters: elements of all parameters of the model.
        operators: where the layers are in the graph.
        ties: names of the nodes that are quantized with the activation bits of a tie, by :attr:`LayerSpec.activation_tie`.
    """

    layers: tuple[LayerSpec, ...]
    unquantized: tuple[Unquantized, ...]
    parameters: int = 0
    operators: tuple[Operator, ...] = field(default=(), repr=False)
    ties: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the quantizable layers, per inference."""
        return sum(layer.macs for layer in self.layers)


def read_operators(graph: Graph, parameters: int = 0) -> Trace:
    """Find the layers of a graph captured by :func:`mobo_mpq.graph.capture`, and what stays in float."""
    batch = _batch_symbol(graph)
    ties = Ties(graph)
    found = [(node, _read_layer(node, batch)) for node in graph.nodes]
    operators = [(node, layer) for node, layer in found if layer is not None]
    named = _group(_number(operators), ties, graph)
    groups: dict[str, tuple[str, ...]] = {}
    nodes = {node.name: node for node in graph.nodes}
    for operator in named:
        members = ties.members(nodes[operator.tensor])
        groups[operator.spec.activation_tie] = tuple(member.name for member in members)
    unquantized = _read_unquantized(graph, {node for node, _ in operators}, batch)
    return Trace(tuple(o.spec for o in named), unquantized, parameters, tuple(named), MappingProxyType(groups))


def log_unquantized(unquantized: tuple[Unquantized, ...]) -> None:
    """Say in one line what is left in float."""
    if not unquantized:
        return
    by_op: dict[str, list[str]] = defaultdict(list)
    for entry in unquantized:
        by_op[entry.op].append(entry.name)
    parts = []
    for name, names in by_op.items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        parts.append(f"{name} ({shown})")
    logger.warning("left in float: %s", "; ".join(parts))


def shape(node: Node) -> tuple[int, ...]:
    """Sizes of a node's result for the captured batch."""
    return tuple(_size(s) for s in value(node).shape)


def weight_of(node: Node) -> tuple[Node, bool] | None:
    """The parameter behind a weight operand, and whether it is transposed; None when the weight is computed."""
    transposed = False
    while node.op != "get_attr":
        called = op(node)
        if called in _TRANSPOSES and value(node).ndim == 2:
            transposed ^= shape(node) != shape(node.args[0]) or _swaps(node)  # type: ignore[arg-type]
        elif called not in _COPIES:
            return None
        node = node.args[0]  # type: ignore[assignment]
    return (node, transposed) if value(node).dtype.is_floating_point else None


def _swaps(node: Node) -> bool:
    """Whether a two-dimensional transpose or permutation really exchanges the axes."""
    if op(node) is aten.permute:
        return [axis % 2 for axis in node.args[1]] == [1, 0]  # type: ignore[union-attr,operator,misc]
    if op(node) is aten.transpose:
        return (node.args[1] - node.args[2]) % 2 == 1  # type: ignore[operator]
    return True


def _size(size: Any) -> int:
    return int(size) if isinstance(size, int) else int(size.node.hint)


def _batch_symbol(graph: Graph) -> Any:
    """The symbol of the batch: the first axis of the first input tensor; None when that is a number."""
    for node in graph.nodes:
        if node.op == "placeholder" and isinstance(value(node), Tensor) and value(node).ndim:
            size = value(node).shape[0]
            return None if isinstance(size, int) else size.node.expr
    return None


def _per_sample(node: Node, batch: Any) -> tuple[int, ...]:
    """A result's shape without the batch: its axis goes, and an axis that holds batch and positions is divided by it."""
    sizes = list(shape(node))
    for axis, size in enumerate(value(node).shape):
        expression = None if isinstance(size, int) else size.node.expr
        if expression is None or batch is None or batch not in expression.free_symbols:
            continue
        if expression == batch:
            del sizes[axis]
        else:
            sizes[axis] //= BATCH
        return tuple(sizes)
    return tuple(sizes)


def _module_path(node: Node) -> str:
    """Qualified name of the innermost module that called an operator."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return "" if path.startswith("_empty_nn_module_stack") else path.partition("@")[0]


def _name(node: Node, parameter: str) -> str:
    """The owner of the weight; the caller when the weight is borrowed from another module, as by a tied head."""
    path = _module_path(node)
    borrowed = path and not parameter.startswith(f"{path}.")
    return path if borrowed else parameter.removesuffix(".weight")


def _read_layer(node: Node, batch: Any) -> Operator | None:
    called = op(node)
    if called in _CONVOLUTIONS:
        return _read_convolution(node, batch)
    if called not in _PRODUCTS:
        return None
    index = _PRODUCTS[called]
    source, weight = node.args[index - 1], node.args[index]
    found = weight_of(weight) if isinstance(weight, Node) and isinstance(source, Node) else None
    if found is None or value(found[0]).ndim != 2 or not isinstance(source, Node):
        return None
    parameter, transposed = found
    axis = int(transposed) if called is aten.linear else int(not transposed)
    sizes = shape(parameter)
    spec = LayerSpec(
        _name(node, str(parameter.target)),
        OpKind.LINEAR,
        sizes if axis == 0 else sizes[::-1],
        _per_sample(source, batch),
        _per_sample(node, batch),
    )
    return Operator(spec, node.name, str(parameter.target), axis, site(source).name)


def _read_convolution(node: Node, batch: Any) -> Operator | None:
    given = schema_arguments(node)
    found = weight_of(given["weight"])
    if found is None or found[1] or value(given["input"]).ndim != value(found[0]).ndim:
        return None
    weight, groups = shape(found[0]), int(given["groups"])
    spec = LayerSpec(
        _name(node, str(found[0].target)),
        OpKind.DEPTHWISE if groups > 1 and weight[1] == 1 else OpKind.CONV,
        weight,
        _per_sample(given["input"], batch),
        _per_sample(node, batch),
        groups=groups,
        stride=int(given["stride"][0]),
    )
    return Operator(spec, node.name, str(found[0].target), 0, site(given["input"]).name)


def _number(operators: list[tuple[Node, Operator]]) -> list[Operator]:
    """Give later calls of one module the suffix ``@1``, and layers of one weight a common group."""
    calls: Counter[str] = Counter()
    readers = Counter(operator.weight for _, operator in operators)
    first: dict[str, str] = {}
    numbered = []
    for _, operator in operators:
        name = operator.spec.name
        calls[name] += 1
        unique = name if calls[name] == 1 else f"{name}@{calls[name] - 1}"
        group = first.setdefault(operator.weight, unique) if readers[operator.weight] > 1 else ""
        spec = replace(operator.spec, name=unique, weight_group=group, input_tensor=operator.tensor)
        numbered.append(replace(operator, spec=spec))
    return numbered


def _group(operators: list[Operator], ties: Ties, graph: Graph) -> list[Operator]:
    """Name the groups of layers whose inputs are tied after their first layer."""
    nodes = {node.name: node for node in graph.nodes}
    classes = [ties.find(nodes[operator.tensor]) for operator in operators]
    sizes = Counter(classes)
    first: dict[Node, str] = {}
    grouped = []
    for operator, tie in zip(operators, classes, strict=True):
        name = first.setdefault(tie, operator.spec.name) if sizes[tie] > 1 else ""
        grouped.append(replace(operator, spec=replace(operator.spec, activation_group=name)))
    return grouped


def _read_unquantized(graph: Graph, layers: set[Node], batch: Any) -> tuple[Unquantized, ...]:
    shared = {id(found[0]) for node in layers for arg in node.args if isinstance(arg, Node) and (found := weight_of(arg))}
    entries, calls = [], Counter[tuple[str, str]]()
    for node in graph.nodes:
        called = op(node)
        if node in layers or called is None or moved(node) is not None or called in _COPIES:
            continue
        read = [origin(source) for source in node.all_input_nodes]
        held = [source for source in read if _is_weight(source) and id(source) not in shared]
        macs, reason = _why(node, called, bool(held), batch)
        if not reason:
            continue
        name = _owner(node, held)
        label = getattr(called, "__name__", str(called)).removeprefix("aten.").removeprefix("_")
        calls[name, label] += 1
        unique = name if calls[name, label] == 1 else f"{name}@{calls[name, label] - 1}"
        entries.append(Unquantized(unique, label, reason, macs, sum(math.prod(shape(h)) for h in held)))
    return tuple(entries)


def _is_weight(node: Node) -> bool:
    return node.op == "get_attr" and isinstance(value(node), torch.nn.Parameter | Tensor) and value(node).requires_grad


def _owner(node: Node, held: list[Node]) -> str:
    names = [str(source.target) for source in held]
    owners = {name.rpartition(".")[0] for name in names}
    if len(names) == 1 and not names[0].endswith(".weight"):
        return names[0]
    return owners.pop() if len(owners) == 1 else _module_path(node)


def _why(node: Node, called: Any, held: bool, batch: Any) -> tuple[int, str]:
    """Multiply-accumulates and the reason of an operator left in float; an empty reason for one not worth naming."""
    if called in _ATTENTION:
        query, key, values = (shape(source) for source in node.args[:3])  # type: ignore[arg-type]
        macs = math.prod(query[:-1]) * key[-2] * (query[-1] + values[-1])
        return macs // BATCH, "attention multiplies activations with each other"
    if called in _RECURRENT:
        return 0, "recurrent layers are not supported"
    if called in _OTHER_CONVOLUTIONS:
        return _convolution_macs(node, batch), f"{called.__name__} has no cost model"
    if called in _CONVOLUTIONS or called in _ACTIVATION_PRODUCTS:
        return _product_macs(node, called, batch), _product_reason(node, called)
    if called in _REASONS:
        return 0, _REASONS[called] if held else ""
    return 0, "its parameters do not enter a convolution or a matrix product" if held else ""


def _convolution_macs(node: Node, batch: Any) -> int:
    given = schema_arguments(node)
    transposed = "transpose" in op(node).__name__ or bool(given.get("transposed"))
    positions = _per_sample(given["input"] if transposed else node, batch)
    return math.prod(positions) * math.prod(shape(given["weight"])[1:])


def _product_macs(node: Node, called: Any, batch: Any) -> int:
    if called is aten.einsum:
        return 0
    if called in _CONVOLUTIONS:
        return _convolution_macs(node, batch)
    first = node.args[1] if called in {aten.addmm, aten.baddbmm} else node.args[0]
    sizes = [shape(node), shape(first)]  # type: ignore[arg-type]
    return math.prod(sizes[0]) * sizes[1][-1] // (BATCH if _per_sample(node, batch) != sizes[0] else 1)


def _product_reason(node: Node, called: Any) -> str:
    if called in _CONVOLUTIONS or called is aten.linear:
        return "its weight is computed, not stored"
    held = [source for source in node.all_input_nodes if origin(source).op == "get_attr"]
    return "its weight is not the right-hand operand of a plain product" if held else "a product of two activations"
