"""Cross-layer equalization: channels of one tensor are given like ranges, by scales that ReLU lets through.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721,
section 4.1: with ``relu(s x) = s relu(x)`` for s > 0, the outputs of a layer may be divided by s, by channel, when
the next layer multiplies its inputs by s. ``s = sqrt(r1 / r2)`` of the ranges r1 of the first layer's output channels
and r2 of the second's input channels makes them equal. Repeated until the ranges stay.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.fx import Node

from mobo_mpq.dataflow import aten, op
from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.layers import OpKind
from mobo_mpq.operators import Operator
from mobo_mpq.posttraining.layerwise import own_bias

ROUNDS = 40
TOLERANCE = 1e-3
"""Largest relative change of a range in the last round."""

_WITH_OUTPUTS_FIRST = {aten.conv1d, aten.conv2d, aten.linear}


def equalize(network: Network) -> Network:
    """A copy that computes the same in float, with equal ranges where one layer alone feeds another through a ReLU."""
    equal = copy.deepcopy(network)
    pairs = _pairs(equal)
    for _ in range(ROUNDS):
        if max((_equalize(equal, *pair) for pair in pairs), default=0.0) < TOLERANCE:
            break
    return equal


def _pairs(network: Network) -> list[tuple[Operator, Operator]]:
    """Layers of which the first alone feeds the second alone."""
    nodes = {node.name: node for node in network.graph.nodes}
    behind = {nodes[operator.node].args[0]: operator for operator in network.trace.operators}
    found = []
    for operator in network.trace.operators:
        node = nodes[operator.node]
        reader = _only_reader(node)
        if reader is not None and op(reader) is aten.relu:
            last, follower = reader, behind.get(reader)
            if follower is not None and _only_reader(last) is nodes[follower.node]:
                found.append((operator, follower))
    return [pair for pair in found if all(_is_own(network, nodes[each.node]) for each in pair)]


def _only_reader(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_own(network: Network, node: Node) -> bool:
    """Whether a layer's weight is an operand as it is stored, and its bias, if any, is read by nobody else."""
    weight = node.args[1] if len(node.args) > 1 else None
    if op(node) not in _WITH_OUTPUTS_FIRST or not isinstance(weight, Node) or weight.op != "get_attr":
        return False
    readers = [user for other in node.graph.nodes if other.target == weight.target for user in other.users]
    has_bias = len(node.args) > 2 and node.args[2] is not None
    return readers == [node] and (not has_bias or own_bias(network, node) is not None)


@torch.no_grad()
def _equalize(network: Network, first: Operator, second: Operator) -> float:
    """Equalize one pair in place, and return the largest relative change of a channel."""
    before, after = tensor_of(network, first.weight), tensor_of(network, second.weight)
    if first.spec.groups > 1 and second.spec.groups > 1 and first.spec.groups != second.spec.groups:
        return 0.0
    outgoing = before.flatten(1).abs().amax(1)
    depthwise = second.spec.kind is OpKind.DEPTHWISE
    incoming = after.flatten(1).abs().amax(1) if depthwise else after.transpose(0, 1).flatten(1).abs().amax(1)
    if len(incoming) != len(outgoing):  # grouped, or several outputs for each depthwise input
        return 0.0
    usable = (outgoing > 0) & (incoming > 0)
    scale = torch.where(usable, (outgoing / incoming).sqrt(), torch.ones_like(outgoing))
    before.div_(_along(scale, before, 0))
    bias = own_bias(network, next(node for node in network.graph.nodes if node.name == first.node))
    if bias is not None:
        bias.div_(scale)
    after.mul_(_along(scale, after, 0 if depthwise else 1))
    return float((scale - 1).abs().max())


def _along(scale: Tensor, weight: Tensor, axis: int) -> Tensor:
    return scale.reshape([-1 if dimension == axis else 1 for dimension in range(weight.ndim)])
