"""The form in which ONNX Runtime finds the fastest kernel for each layer, whatever its neighbours' bits are.

Integer kernels exist for convolutions whose input and output are both quantized, and for matrix products whose input
is. Next to a float neighbour there is none; ``DequantizeLinear`` would then restore the weight at every inference, in
front of a slow kernel, since what it gives is no constant. Written as ``Cast`` and ``Mul`` it is computed once, when
the file is loaded, and the layer runs as fast as one in float. The file stays as small.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mobo_mpq.operators import Operator

_MOVED = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
"""Operators that ONNX Runtime moves a quantization across."""

_RECTIFIED = frozenset({"Relu", "Clip"})
"""Operators that it drops in front of a quantization whose range ends where theirs does."""

_PRODUCTS = {"MatMul", "Gemm"}

_FOLDED = frozenset({"Add", "Sub", "Mul", "Div"})
"""Operators that it makes part of a convolution before them, if their other operand is a constant."""

_SHORTENED = {"Conv", "Gemm"}
"""Operators whose float weights and biases it makes integers, if both data and result are quantized."""


def suit_kernels(model: ir.Model) -> None:
    """Rewrite a graph in place, without changing what it computes.

    ``Gemm`` of quantized operands becomes ``MatMul`` and ``Sub``, whose integer kernel leaves bias and result in float;
    weights that no integer kernel takes are dequantized by operators that are folded when the file is loaded. Where
    those lie between quantized tensors all the same, a ``Min`` at the end of the result's grid keeps ONNX Runtime from
    quantizing the float weight by rules of its own.

    Args:
        model: in the quantize-dequantize form.
    """
    for node in list(model.graph):
        if node.op_type == "Gemm" and _dequantized(node.inputs[0]) and _dequantized(node.inputs[1]):
            _split_gemm(model.graph, node)
    for node in list(model.graph):
        stored = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if stored is not None and stored.is_initializer() and not _is_integer(node.outputs[0]):
            _spell_out(model.graph, node)
    for node in list(model.graph):
        if node.op_type in _SHORTENED and _dequantized(node.inputs[0]) and not _dequantized(node.inputs[1]):
            _fence(model.graph, node)


def name_after_layers(model: ir.Model, operators: Sequence[Operator]) -> None:
    """Call the nodes of each layer, and what they give, ``LAYER/...``: that is what a profiler's file will say.

    Runtimes call fused nodes after one of their parts or after their result: rectifiers behind a layer share its name.

    Args:
        model: exported from the graph that holds ``operators``.
        operators: the layers in that graph.
    """
    layers = {operator.node: operator.spec.name for operator in operators}
    for node in model.graph:
        made_from = re.match(r"%(\w+) ", node.metadata_props.get("pkg.torch.onnx.fx_node", ""))
        layer = layers.get(made_from[1]) if made_from else None
        named = [node] if layer is not None else []
        for part in named:
            part.name, value = f"{layer}/{part.op_type}", part.outputs[0]
            if not value.is_graph_output():
                value.name = f"{layer}/{value.name}"
            readers = value.consumers()
            named += [reader for reader in readers if len(readers) == 1 and reader.op_type in _RECTIFIED]


def _dequantized(value: ir.Value | None) -> bool:
    """Whether a value comes from integers, and was at most moved since."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type in _MOVED:
        return _dequantized(node.inputs[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _is_integer(weight: ir.Value) -> bool:
    """Whether an integer kernel takes a dequantized weight at each of its uses."""
    return all(_fuses(use.node, weight) for use in weight.uses())


def _fuses(node: ir.Node, operand: ir.Value) -> bool:
    if node.op_type == "Transpose":
        return all(_fuses(use.node, node.outputs[0]) for use in node.outputs[0].uses())
    if node.inputs[0] is operand or not _dequantized(node.inputs[0]):
        return False
    return node.op_type in _PRODUCTS or (
        node.op_type == "Conv" and not _narrow(node.inputs[0]) and _quantization_of(node.outputs[0]) is not None
    )


def _narrow(value: ir.Value | None) -> bool:
    """Whether a dequantized value has a grid that is cut off below the highest integer, by a ``Min`` in front."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in (*_MOVED, "DequantizeLinear", "QuantizeLinear"):
        return False
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node.op_type != "QuantizeLinear" or before is None or before.op_type != "Min":
        return _narrow(node.inputs[0])
    top = _top(node)
    ends = [one.const_value.numpy() for one in before.inputs if one is not None and one.const_value is not None]
    return any(np.any(end < 0.999 * top) for end in ends)


def _top(quantization: ir.Node) -> NDArray[np.float32]:
    """The largest value that a quantization gives."""
    _, scale, zero_point = quantization.inputs
    assert scale is not None and scale.const_value is not None  # carriers write both as constants
    assert zero_point is not None and zero_point.const_value is not None
    points = zero_point.const_value.numpy()
    top: NDArray[np.float32] = (np.iinfo(points.dtype).max - points.astype(np.float32)) * scale.const_value.numpy()
    return top


def _quantization_of(value: ir.Value, *, rectified: bool = True, folded: bool = False) -> ir.Node | None:
    """The quantization that a value goes to and nowhere else, moved on the way at most.

    Args:
        value: of a layer.
        rectified: whether a rectifier may come before; behind what moves elements it is not dropped.
        folded: whether sums and products with constants may come before.
    """
    readers = value.consumers()
    if len(readers) != 1 or value.is_graph_output():
        return None
    following = readers[0]
    kind, others = following.op_type, [one for one in following.inputs if one is not value]
    if kind == "QuantizeLinear":
        return following
    if kind in _FOLDED:
        passes = folded and all(_is_constant(one) for one in others)
    else:
        passes = following.inputs[0] is value and (kind in _MOVED or (rectified and kind in _RECTIFIED))
    behind = rectified and kind not in _MOVED
    return _quantization_of(following.outputs[0], rectified=behind, folded=folded) if passes else None


def _is_constant(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return value is not None and (value.const_value is not None or (node is not None and node.op_type == "Constant"))


def _fence(graph: ir.Graph, layer: ir.Node) -> None:
    """A ``Min`` in front of the quantization of a layer's result, if there is one: it saturates there anyway."""
    quantization = _quantization_of(layer.outputs[0], folded=True)
    if quantization is not None:
        data = quantization.inputs[0]
        node = ir.node("Min", [_constant(graph, f"{layer.name}_high", _top(quantization)), data])
        node.metadata_props.update(quantization.metadata_props)
        graph.insert_before(quantization, node)
        quantization.replace_input_with(0, node.outputs[0])


def _split_gemm(graph: ir.Graph, gemm: ir.Node) -> None:
    """``Gemm`` has an integer kernel for integer biases alone; an ``Add`` would be fused to a ``Gemm`` again."""
    attributes = {name: attribute.value for name, attribute in gemm.attributes.items()}
    if attributes.pop("transA", 0) or attributes.pop("alpha", 1.0) != 1.0 or attributes.pop("beta", 1.0) != 1.0:
        return
    data, weight, bias = (*gemm.inputs, None)[:3]
    if bias is not None and bias.const_value is None:
        return
    nodes = []
    if attributes.get("transB"):
        nodes.append(ir.node("Transpose", [weight], {"perm": [1, 0]}))
        weight = nodes[-1].outputs[0]
    nodes.append(ir.node("MatMul", [data, weight]))
    if bias is not None and bias.const_value is not None:
        negative = _constant(graph, f"{gemm.name}_{bias.name}_negative", -bias.const_value.numpy())
        nodes.append(ir.node("Sub", [nodes[-1].outputs[0], negative]))
    _replace(graph, gemm, nodes)


def _spell_out(graph: ir.Graph, node: ir.Node) -> None:
    """``scale * (integers - zero_point)`` in operators that are computed when the file is loaded."""
    integers, scale, zero_point = node.inputs
    assert integers is not None and scale is not None and scale.const_value is not None
    assert integers.shape is not None
    axis, rank = node.attributes.get_int("axis", 1), len(integers.shape)
    shape = [-1 if i == axis % rank else 1 for i in range(rank)] if scale.const_value.size > 1 else []

    def constant(name: str, array: NDArray[Any]) -> ir.Value:
        return _constant(graph, f"{integers.name}_{name}", array.astype(np.float32).reshape(shape))

    nodes = [ir.node("Cast", [integers], {"to": int(ir.DataType.FLOAT)})]
    points = None if zero_point is None else zero_point.const_value
    if points is not None and points.numpy().any():
        nodes.append(ir.node("Sub", [nodes[-1].outputs[0], constant("point", points.numpy())]))
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], constant("scale", scale.const_value.numpy())]))
    _replace(graph, node, nodes)


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT
    graph.register_initializer(value)
    return value


def _replace(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> None:
    """Put ``new`` in the place of ``old``; the last of them gives its result."""
    for node in new:
        node.metadata_props.update(old.metadata_props)
    ir.convenience.replace_nodes_and_values(graph, old, [old], new, old.outputs, new[-1].outputs)
