"""Layer after layer, a quantized network is compared with the float one on the calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from mobo_mpq.dataflow import arguments, aten, op
from mobo_mpq.folding import attach_bias, tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.operators import Operator
from mobo_mpq.posttraining.walk import Walk
from mobo_mpq.training.data import Inputs

_CONVOLUTIONS = {aten.conv1d, aten.conv2d}
_TAKE_BIAS = {*_CONVOLUTIONS, aten.linear}


@dataclass(frozen=True)
class Layer:
    """A layer that has just run on all batches.

    Attributes:
        network: the quantized one.
        operator: where the layer is.
        node: of its operator.
        targets: outputs of the same layer in float, one tensor for each batch.
        walk: the pass that is under way.
    """

    network: Network
    operator: Operator
    node: Node
    targets: list[Tensor]
    walk: Walk

    @property
    def axis(self) -> int:
        """Axis of the channels of its outputs."""
        return channel_axis(self.node)

    @property
    def outputs(self) -> list[Tensor]:
        """One tensor for each batch."""
        return self.walk.values(self.node)

    @property
    def bias(self) -> Tensor | None:
        """Its bias, if no other layer reads it."""
        return own_bias(self.network, self.node)

    def by_channel(self, vector: Tensor) -> Tensor:
        """A vector of channels in a shape that adds to outputs."""
        return vector.reshape(-1, *[1] * (self.targets[0].ndim - 2)) if self.axis == 1 else vector

    def shifts(self) -> Tensor:  # channels
        """By how much the means of the float outputs lie above those of the quantized ones."""
        return _means(self.targets, self.axis) - _means(self.outputs, self.axis)


def channel_axis(node: Node) -> int:
    """Axis of the channels of a layer's outputs."""
    return 1 if op(node) in _CONVOLUTIONS else -1


def layers_in_turn(network: Network, reference: Network, batches: Sequence[Inputs]) -> Iterator[Layer]:
    """One pass over the batches through either network; what is done to a layer is felt by all that follow.

    Args:
        network: quantized and calibrated.
        reference: the same network in float.
        batches: inputs without labels, on the networks' device.
    """
    operators = {operator.node: operator for operator in network.trace.operators}
    float_walk = Walk(reference, batches)
    expected = ((node.name, float_walk.values(node)) for node in float_walk if node.name in operators)
    walk = Walk(network, batches)
    for node in walk:
        if node.name in operators:
            name, targets = next(expected)
            assert name == node.name, "quantizers do not reorder layers"
            yield Layer(network, operators[name], node, targets, walk)


def attach_biases(network: Network) -> None:
    """Give every layer that can have one a bias, 0 where it had none."""
    nodes = {node.name: node for node in network.graph.nodes}
    for operator in network.trace.operators:
        node = nodes[operator.node]
        if op(node) in _TAKE_BIAS and arguments(node).get("bias") is None:
            zeros = torch.zeros(operator.spec.weight_shape[0]).to(tensor_of(network, operator.weight))
            attach_bias(network, node, operator.weight, zeros)
    network.recompile()


def own_bias(network: nn.Module, node: Node) -> Tensor | None:
    """The bias that a layer alone reads; ``None`` where there is none."""
    if op(node) not in _TAKE_BIAS | {aten.addmm}:
        return None
    source = node.args[0] if op(node) is aten.addmm else arguments(node).get("bias")
    if not isinstance(source, Node) or source.op != "get_attr":
        return None
    readers = [user for other in source.graph.nodes if other.target == source.target for user in other.users]
    return tensor_of(network, str(source.target)) if readers == [node] else None


def _means(values: Sequence[Tensor], axis: int) -> Tensor:
    rows = [value.movedim(axis, 0).reshape(value.shape[axis], -1).double() for value in values]
    return torch.cat(rows, 1).mean(1).to(values[0].dtype)
