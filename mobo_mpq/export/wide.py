"""Layers whose channels have several points, as wider layers whose outputs are gathered and added."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from mobo_mpq.dataflow import arguments, aten, op
from mobo_mpq.export.carriers import WeightCarrier
from mobo_mpq.folding import tensor_of
from mobo_mpq.quant.multipoint import MultipointQuantizer

_CONVOLUTIONS = {aten.conv1d, aten.conv2d}
_GROUPS = "groups"


class Fold(nn.Module):
    """Add the wider layer's channels: its first ones, and to each of them its further points.

    Args:
        source: channel that each wide channel adds to; the first ones add to themselves.
        channels: of the result.
        axis: of the channels.
    """

    def __init__(self, source: Tensor, channels: int, axis: int) -> None:
        super().__init__()
        self.channels, self.axis = channels, axis
        further: dict[int, list[int]] = {}
        for position, channel in list(enumerate(source.tolist()))[channels:]:
            further.setdefault(channel, []).append(position)
        self.rounds = max(map(len, further.values()), default=0)
        for number in range(self.rounds):
            have = {channel: places[number] for channel, places in further.items() if number < len(places)}
            self.register_buffer(f"index{number}", torch.tensor([have.get(c, 0) for c in range(channels)]))
            self.register_buffer(f"used{number}", torch.tensor([float(c in have) for c in range(channels)]))

    def forward(self, wide: Tensor) -> Tensor:
        """``(..., wide channels, ...)`` to ``(..., channels, ...)``."""
        total = wide.narrow(self.axis, 0, self.channels)
        shape = [1] * wide.ndim
        shape[self.axis] = self.channels
        for number in range(self.rounds):
            index, used = getattr(self, f"index{number}"), getattr(self, f"used{number}")
            total = total + wide.index_select(self.axis, index) * used.reshape(shape)
        return total


class WideCarrier(nn.Module):
    """All points of a weight on signed 8-bit integers: as one wide weight, or added up where no wide layer can be.

    Args:
        quantizer: with the points.
        weight: the float weight.
        folded: whether the points are added up.
    """

    like: Tensor

    def __init__(self, quantizer: MultipointQuantizer, weight: Tensor, *, folded: bool) -> None:
        super().__init__()
        grid, integers, source = quantizer.wide(weight.detach())
        wide = grid.dequantize(integers)
        self.carrier = WeightCarrier(grid, wide)
        self.register_buffer("like", wide)
        axis = quantizer.axis or 0
        self.axis = axis
        self.fold = Fold(source, weight.shape[axis], 0) if folded else None

    def forward(self, weight: Tensor) -> Tensor:
        """The nodes, in place of the float ``weight``."""
        wide = cast(Tensor, self.carrier(self.like))
        return wide if self.fold is None else cast(Tensor, self.fold(wide)).movedim(0, self.axis)


def widen(network: GraphModule, name: str, quantizer: MultipointQuantizer) -> None:
    """Put a :class:`WideCarrier` in a quantizer's place, and let the layer behind it be as wide.

    Convolutions and linear layers that alone read the weight become wider layers of the same few bits; depthwise ones
    read the channels of their input once for each point. For all others, such as a head tied to an embedding, the
    points are added up before the weight is read.

    Args:
        network: changed in place; recompile it afterwards.
        name: of the quantizer's module.
        quantizer: that module.
    """
    assert quantizer.site is not None, "apply_policy says where each sits"
    weight = tensor_of(network, quantizer.site.tensor)
    (source,) = (node for node in network.graph.nodes if node.target == name)
    layer = next(iter(source.users)) if len(source.users) == 1 else None
    whole = layer is not None and _is_widenable(layer, source)
    network.set_submodule(name, WideCarrier(quantizer, weight, folded=not whole))
    if whole and layer is not None:
        _widen_layer(network, layer, quantizer, weight)


def _is_widenable(layer: Node, weight: Node) -> bool:
    if op(layer) not in _CONVOLUTIONS | {aten.linear} or layer.args[1] is not weight:
        return False
    bias = arguments(layer).get("bias")
    return bias is None or (isinstance(bias, Node) and bias.op == "get_attr")


def _widen_layer(network: GraphModule, layer: Node, quantizer: MultipointQuantizer, weight: Tensor) -> None:
    _, _, source = quantizer.wide(weight)
    given, channels = arguments(layer), weight.shape[0]
    convolution = op(layer) in _CONVOLUTIONS
    graph, label = network.graph, layer.name
    with graph.inserting_before(layer):
        if given["bias"] is not None:
            bias = tensor_of(network, given["bias"].target)
            network.register_buffer(f"wide_bias_{label}", torch.cat([bias, bias.new_zeros(len(source) - channels)]))
            given["bias"] = graph.get_attr(f"wide_bias_{label}")
        if convolution and given[_GROUPS] > 1:
            network.register_buffer(f"wide_input_{label}", source)
            index = graph.get_attr(f"wide_input_{label}")
            given["input"] = graph.call_function(aten.index_select.default, (given["input"], 1, index))
            given[_GROUPS] = len(source)
    names = [argument.name for argument in layer.target._schema.arguments]  # type: ignore[union-attr]
    layer.args, layer.kwargs = tuple(given[key] for key in names), {}
    network.add_submodule(f"wide_fold_{label}", Fold(source, channels, 1 if convolution else -1))
    with graph.inserting_after(layer):
        folded = graph.call_module(f"wide_fold_{label}", (layer,))
    layer.replace_all_uses_with(folded, delete_user_cb=lambda user: user is not folded)
