"""Operators of a graph that are quantizable layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch.fx import Graph, GraphModule, Node

from mobo_mpq.dataflow import Ties, arguments, aten, is_float, module_path, op, operand, site, value
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.lifetimes import read_surroundings
from mobo_mpq.shapes import batch_symbol, per_sample, shape
from mobo_mpq.unquantized import Unquantized, read_unquantized

_CONVOLUTIONS = {aten.conv1d, aten.conv2d}
_PRODUCTS = {aten.linear: 1, aten.addmm: 2, aten.mm: 1, aten.matmul: 1}  # index of the weight; its input is before it
_TRANSPOSES = {aten.t, aten.transpose, aten.permute, aten.numpy_T}
_COPIES = {aten.alias, aten.detach, aten.clone, aten.contiguous, aten.lift_fresh}


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

    def moved_to(self, renamed: Mapping[str, str]) -> Operator:
        """The same layer, with a parameter whose qualified name may begin otherwise."""
        return replace(self, weight=moved_to(self.weight, renamed))


@dataclass(frozen=True)
class Trace:
    """What a network consists of.

    Attributes:
        layers: quantizable operators, in the order in which they run.
        unquantized: operators with weights or multiply-accumulates that stay in float.
        parameters: elements of all parameters of the model, batch norms and biases included.
        operators: where the layers are in the graph.
        ties: names of the nodes that take the activation bits of a tie, by :attr:`LayerSpec.activation_tie`.
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


def moved_to(name: str, renamed: Mapping[str, str]) -> str:
    """A qualified name whose first part may have been renamed."""
    first, dot, rest = name.partition(".")
    return f"{renamed.get(first, first)}{dot}{rest}"


def read_operators(module: GraphModule, parameters: int = 0) -> Trace:
    """Find the layers of a captured graph, and what stays in float.

    Args:
        module: its graph carries the metadata of :mod:`torch.export`.
        parameters: elements of all parameters before batch norms were folded.
    """
    graph = module.graph
    batch, ties = batch_symbol(graph), Ties(graph)
    found = {node: layer for node in graph.nodes if (layer := _read_layer(node, batch)) is not None}
    operators = _group(_number(list(found.values())), ties, graph)
    operators = _surround(operators, ties, graph, batch)
    nodes = {node.name: node for node in graph.nodes}
    read = {nodes[o.tensor] for o in operators}
    members = {o.spec.activation_tie: ties.members(nodes[o.tensor], read) for o in operators}
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    unquantized = read_unquantized(graph, found.keys(), names, {o.weight for o in operators}, batch)
    return Trace(
        layers=tuple(operator.spec for operator in operators),
        unquantized=unquantized,
        parameters=parameters,
        operators=tuple(operators),
        ties=MappingProxyType({tie: tuple(node.name for node in sites) for tie, sites in members.items()}),
    )


def _stored(weight: Any) -> tuple[Node, bool] | None:
    """The parameter behind a weight operand, and whether it is transposed; None when the weight is computed."""
    transposed = False
    while isinstance(weight, Node) and weight.op != "get_attr":
        if op(weight) in _TRANSPOSES and value(weight).ndim == 2:
            transposed ^= _swaps(weight)
        elif op(weight) not in _COPIES:
            return None
        weight = operand(weight, 0)
    return (weight, transposed) if isinstance(weight, Node) and is_float(weight) else None


def _swaps(node: Node) -> bool:
    """Whether a two-dimensional transpose or permutation really exchanges the axes."""
    if op(node) is aten.permute:
        return [axis % 2 for axis in operand(node, 1)] == [1, 0]
    if op(node) is aten.transpose:
        return bool((operand(node, 1) - operand(node, 2)) % 2)
    return True


def _name(node: Node, parameter: str) -> str:
    """The owner of the weight; the caller when the weight is borrowed from another module, as by a tied head."""
    path = module_path(node)
    borrowed = path and not parameter.startswith(f"{path}.")
    return path if borrowed else parameter.removesuffix(".weight")


def _read_layer(node: Node, batch: Any) -> Operator | None:
    if op(node) in _CONVOLUTIONS:
        return _read_convolution(node, batch)
    if op(node) in _PRODUCTS:
        return _read_product(node, batch)
    return None


def _read_product(node: Node, batch: Any) -> Operator | None:
    called = op(node)
    source, weight = operand(node, _PRODUCTS[called] - 1), _stored(operand(node, _PRODUCTS[called]))
    if weight is None or value(weight[0]).ndim != 2:
        return None
    parameter, transposed = weight
    axis = int(transposed) if called is aten.linear else int(not transposed)
    sizes = shape(parameter)
    spec = LayerSpec(
        name=_name(node, str(parameter.target)),
        kind=OpKind.LINEAR,
        weight_shape=sizes if axis == 0 else sizes[::-1],
        input_shape=per_sample(source, batch),
        output_shape=per_sample(node, batch),
    )
    return Operator(spec, node.name, str(parameter.target), axis, site(source).name)


def _read_convolution(node: Node, batch: Any) -> Operator | None:
    given = arguments(node)
    stored, source = _stored(given["weight"]), given["input"]
    if stored is None or value(source).ndim != value(stored[0]).ndim:  # a convolution without a batch axis
        return None
    weight, groups = shape(stored[0]), int(given["groups"])
    spec = LayerSpec(
        name=_name(node, str(stored[0].target)),
        kind=OpKind.DEPTHWISE if groups > 1 and weight[1] == 1 else OpKind.CONV,
        weight_shape=weight,
        input_shape=per_sample(source, batch),
        output_shape=per_sample(node, batch),
        groups=groups,
        stride=int(given["stride"][0]),
    )
    return Operator(spec, node.name, str(stored[0].target), 0, site(source).name)


def _number(operators: Sequence[Operator]) -> list[Operator]:
    """Give later calls of one module the suffix ``@1``, and layers of one weight a common group."""
    calls: Counter[str] = Counter()
    readers = Counter(operator.weight for operator in operators)
    first: dict[str, str] = {}
    numbered = []
    for operator in operators:
        name = operator.spec.name
        unique = f"{name}@{calls[name]}" if calls[name] else name
        calls[name] += 1
        group = first.setdefault(operator.weight, unique) if readers[operator.weight] > 1 else ""
        spec = replace(operator.spec, name=unique, weight_group=group, input_tensor=operator.tensor)
        numbered.append(replace(operator, spec=spec))
    return numbered


def _group(operators: Sequence[Operator], ties: Ties, graph: Graph) -> list[Operator]:
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


def _surround(operators: Sequence[Operator], ties: Ties, graph: Graph, batch: Any) -> list[Operator]:
    """Say what is in memory around each layer."""
    nodes = {node.name: node for node in graph.nodes}
    names = {ties.find(nodes[o.tensor]): o.spec.activation_tie for o in operators}
    sources = {nodes[o.node]: nodes[o.tensor] for o in operators}
    found = read_surroundings(graph, sources, names, ties, batch)
    return [
        replace(o, spec=replace(o.spec, reader=around.reader, reused=around.reused, held=around.held))
        for o in operators
        for around in (found[nodes[o.node]],)
    ]
