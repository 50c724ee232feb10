"""Batch norms of a graph in eval mode become part of the convolution or linear layer before them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from mobo_mpq.dataflow import arguments, aten, op, operand, value

BATCH_NORM = aten._native_batch_norm_legit_no_training
_LAYERS = {aten.conv1d, aten.conv2d, aten.linear}


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer that a qualified name means."""
    owner, _, attribute = name.rpartition(".")
    found = getattr(module.get_submodule(owner), attribute)
    if not isinstance(found, Tensor):
        raise TypeError(f"'{name}' is a {type(found).__name__}, not a tensor")
    return found


class Normal(NamedTuple):
    """What a batch norm makes of a layer's outputs: mean and standard deviation, ``(channels,)`` each."""

    mean: Tensor
    sd: Tensor


def fold_batch_norms(module: GraphModule) -> dict[str, Normal]:
    """Fold in place, and return the distribution of the outputs of each layer that took one in, by its node's name.

    A batch norm stays when its input has another reader, or when the weight before it is shared.
    """
    folded: dict[str, Normal] = {}
    for node in list(module.graph.nodes):
        if op(node) is BATCH_NORM and _foldable(node):
            layer = str(operand(node, 0).name)
            folded[layer] = _fold(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return folded


def _foldable(norm: Node) -> bool:
    layer = operand(norm, 0)
    if op(layer) not in _LAYERS or len(layer.users) != 1:
        return False
    if op(layer) is aten.linear and value(layer).ndim != 2:
        return False  # the channels of a sequence are not the features of a linear layer
    weight, bias = operand(layer, 1), arguments(layer).get("bias")
    stored = all(n is None or n.op == "get_attr" for n in (weight, bias, *norm.args[1:5]))
    return stored and all(n is None or len(n.users) == 1 for n in (weight, bias))


@torch.no_grad()
def _fold(module: GraphModule, norm: Node) -> Normal:
    """``w' = w g``, ``b' = (b - mean) g + shift`` with ``g = gain / sqrt(variance + eps)``."""

    def read(node: Node | None, otherwise: Tensor) -> Tensor:
        return otherwise if node is None else tensor_of(module, str(node.target))

    layer, gain, shift, mean, variance = (operand(norm, i) for i in range(5))
    means = tensor_of(module, mean.target)
    factor = torch.rsqrt(tensor_of(module, variance.target) + operand(norm, 6))
    factor = factor * read(gain, torch.ones_like(factor))
    weight, bias = operand(layer, 1), arguments(layer).get("bias")
    old = tensor_of(module, weight.target)
    offset = (read(bias, torch.zeros_like(means)) - means) * factor + read(shift, torch.zeros_like(means))
    _store(module, weight.target, old * factor.reshape(-1, *[1] * (old.ndim - 1)), old.requires_grad)
    name = _bias_name(module, weight.target) if bias is None else bias.target
    _store(module, name, offset, old.requires_grad)
    if bias is None:
        _read_bias(module, layer, name, offset)
    for result in list(norm.users):  # getitem 0: in eval mode the other results have no readers
        result.replace_all_uses_with(layer)
    return Normal(read(shift, torch.zeros_like(means)).clone(), read(gain, torch.ones_like(means)).abs().clone())


def _bias_name(module: nn.Module, weight: str) -> str:
    owner, _, attribute = weight.rpartition(".")
    taken = getattr(module.get_submodule(owner), "bias", None) is not None
    name = f"{attribute}_bias" if taken else "bias"
    return f"{owner}.{name}" if owner else name


def _store(module: nn.Module, name: str, data: Tensor, requires_grad: bool) -> None:
    owner, _, attribute = name.rpartition(".")
    holder = module.get_submodule(owner)
    if hasattr(holder, attribute):  # it may be there as None, or as a plain attribute
        delattr(holder, attribute)
    holder.register_parameter(attribute, nn.Parameter(data, requires_grad=requires_grad))


def attach_bias(module: GraphModule, layer: Node, weight: str, bias: Tensor) -> None:
    """Give a convolution or linear layer without a bias the parameter ``bias``, named after its ``weight``."""
    name = _bias_name(module, weight)
    _store(module, name, bias, tensor_of(module, weight).requires_grad)
    _read_bias(module, layer, name, bias)


def _read_bias(module: GraphModule, layer: Node, name: str, bias: Tensor) -> None:
    with module.graph.inserting_before(layer):
        reader = module.graph.get_attr(name)
    reader.meta["val"] = bias.to("meta")
    layer.args = (*layer.args[:2], reader, *layer.args[3:])
    layer.kwargs = {key: given for key, given in layer.kwargs.items() if key != "bias"}
