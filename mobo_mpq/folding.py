"""Batch norms of a graph in eval mode become part of the convolution or linear layer before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from mobo_mpq.dataflow import arguments, aten, op, value

BATCH_NORM = aten._native_batch_norm_legit_no_training


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer that a qualified name means."""
    owner, _, attribute = name.rpartition(".")
    found = getattr(module.get_submodule(owner), attribute)
    if not isinstance(found, Tensor):
        raise TypeError(f"'{name}' is a {type(found).__name__}, not a tensor")
    return found


def fold_batch_norms(module: GraphModule) -> int:
    """Fold in place, and return how many were folded.

    A batch norm stays when its input has another reader, or when the weight before it is shared.
    """
    folded = 0
    for node in list(module.graph.nodes):
        if op(node) is BATCH_NORM and _foldable(node):
            _fold(module, node)
            folded += 1
    if folded:
        module.graph.eliminate_dead_code()
        module.recompile()
    return folded


def _foldable(node: Node) -> bool:
    layer = node.args[0]
    if not isinstance(layer, Node) or op(layer) not in {aten.conv1d, aten.conv2d, aten.linear} or len(layer.users) != 1:
        return False
    if op(layer) is aten.linear and value(layer).ndim != 2:
        return False  # the channels of a sequence are not the features of a linear layer
    own = [layer.args[1], arguments(layer).get("bias")]
    norm = node.args[1:5]
    return all(n is None or (isinstance(n, Node) and n.op == "get_attr") for n in (*own, *norm)) and all(
        n is None or len(n.users) == 1 for n in own
    )


@torch.no_grad()
def _fold(module: GraphModule, node: Node) -> None:
    """``w' = w g``, ``b' = (b - mean) g + shift`` with ``g = gain / sqrt(var + eps)``."""
    layer, weight = node.args[0], node.args[0].args[1]  # type: ignore[union-attr]
    bias = arguments(layer).get("bias")  # type: ignore[arg-type]
    gain, shift, mean, variance = (n and tensor_of(module, n.target) for n in node.args[1:5])  # type: ignore[union-attr,arg-type]
    factor = torch.rsqrt(variance + node.args[6])  # type: ignore[operator]
    factor = factor if gain is None else factor * gain
    old = tensor_of(module, weight.target)  # type: ignore[union-attr,arg-type]
    new = old * factor.reshape(-1, *[1] * (old.ndim - 1))
    offset = -mean * factor if bias is None else (tensor_of(module, bias.target) - mean) * factor
    offset = offset if shift is None else offset + shift
    owner, _, attribute = str(weight.target).rpartition(".")  # type: ignore[union-attr]
    name = bias.target.rpartition(".")[2] if bias is not None else "bias"
    holder = module.get_submodule(owner)
    if bias is None and getattr(holder, name, None) is not None:
        name = f"{attribute}_bias"
    setattr(holder, attribute, nn.Parameter(new, requires_grad=old.requires_grad))
    if getattr(holder, name, None) is None:
        holder.register_parameter(name, nn.Parameter(offset, requires_grad=old.requires_grad))
    else:
        setattr(holder, name, nn.Parameter(offset, requires_grad=old.requires_grad))
    if bias is None:
        _attach_bias(module, layer, f"{owner}.{name}" if owner else name, offset)  # type: ignore[arg-type]
    result = next(iter(user for user in node.users))
    result.replace_all_uses_with(layer)  # type: ignore[arg-type]


def _attach_bias(module: GraphModule, layer: Node, target: str, bias: Tensor) -> None:
    with module.graph.inserting_before(layer):
        reader = module.graph.get_attr(target)
    reader.meta["val"] = bias.to("meta")
    layer.args = (*layer.args[:2], reader, *layer.args[3:])
    layer.kwargs = {key: given for key, given in layer.kwargs.items() if key != "bias"}
