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
        node.op_type == "Conv" and not _narrow(node.inputs[0]) and _ends_quantized(node.outputs[0])
    )


def _narrow(value: ir.Value | None) -> bool:
    """Whether a grid of fewer than 8 bits gave a dequantized value; a ``Min`` in front of the quantization tells."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type in (*_MOVED, "DequantizeLinear", "QuantizeLinear"):
        return _narrow(node.inputs[0])
    return node is not None and node.op_type == "Min"


def _ends_quantized(value: ir.Value) -> bool:
    """Whether all that happens to a value is that it is quantized, perhaps after a rectifier, and moved after that."""
    return _quantization_of(value) is not None


def _quantization_of(value: ir.Value, dropped: frozenset[str] = _RECTIFIED) -> ir.Node | None:
    readers = value.consumers()
    if len(readers) != 1 or value.is_graph_output():
        return None
    following = readers[0]
    if following.op_type == "QuantizeLinear":
        return following
    if following.op_type not in _MOVED | dropped or following.inputs[0] is not value:
        return None
    return _quantization_of(following.outputs[0], frozenset() if following.op_type in _MOVED else dropped)


def _fence(graph: ir.Graph, layer: ir.Node) -> None:
    """A ``Min`` in front of the quantization of a layer's result, if there is one: it saturates there anyway."""
    quantization = _quantization_of(layer.outputs[0])
    if quantization is None:
        return
    data, scale, zero_point = quantization.inputs
    assert scale is not None and scale.const_value is not None and zero_point is not None
    assert zero_point.const_value is not None
    points = zero_point.const_value.numpy()
    high = (np.iinfo(points.dtype).max - points.astype(np.float32)) * scale.const_value.numpy()
    node = ir.node("Min", [_constant(graph, f"{layer.name}_{scale.name}_high", high), data])
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
        negative = _constant(graph, f"{bias.name}_negative", -bias.const_value.numpy())
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
