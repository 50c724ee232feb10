"""Bias correction: rounding shifts the mean of a layer's outputs, and a bias takes the shift back for nothing.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721:
either with means measured on the calibration data, layer after layer, so that each sees the outputs of corrected ones;
or, without data, from what the batch norms before a layer say about its inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from mobo_mpq.dataflow import aten, moved, op
from mobo_mpq.folding import Normal, tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.posttraining.layerwise import Layer, own_bias
from mobo_mpq.quant.base import Quantizer

_AVERAGES = {aten.mean, aten.avg_pool2d, aten.adaptive_avg_pool2d}


@torch.no_grad()
def correct_bias(layer: Layer) -> None:
    """Let a layer's outputs have the means, per channel, that they have in float; without a bias nothing is done."""
    bias = layer.bias
    if bias is None:
        return
    shift = layer.shifts()
    bias.add_(shift)
    layer.walk.replace(layer.node, [output + layer.by_channel(shift) for output in layer.outputs])


@torch.no_grad()
def correct_analytically(network: Network, reference: Network) -> int:
    """Correct the biases of all layers whose inputs come from a batch norm, through a ReLU or not; return how many.

    For an input of normal channels the expected output moves by ``sum (W - Q(W)) E[x]``: the shift that rounding the
    layer's own weight causes, padding aside. Averages keep expectations, and are looked through.

    Args:
        network: quantized and calibrated; changed in place.
        reference: the same network in float, whose batch norms were folded.
    """
    nodes = {node.name: node for node in network.graph.nodes}
    originals = {node.name: node for node in reference.graph.nodes}
    corrected = 0
    for operator in network.trace.operators:
        node = nodes[operator.node]
        expected = _expected_input(reference, originals[operator.node].args[0])
        quantizer = _weight_quantizer(network, node)
        bias = own_bias(network, node)
        if expected is None or quantizer is None or bias is None or operator.axis != 0:
            continue
        weight = tensor_of(reference, operator.weight)
        lost = (weight - quantizer(tensor_of(network, operator.weight))).flatten(2 if weight.ndim > 2 else 1)
        if weight.ndim > 2:
            lost = lost.sum(2)  # out x in / groups
        groups = operator.spec.groups
        if len(expected) != lost.shape[1] * groups:
            continue  # the channels were moved on their way
        by_group = lost.reshape(groups, -1, lost.shape[1])
        bias.add_(torch.einsum("goi,gi->go", by_group, expected.reshape(groups, -1)).reshape(-1))
        corrected += 1
    return corrected


def _weight_quantizer(network: Network, node: Node) -> Quantizer | None:
    source = node.args[1] if len(node.args) > 1 else None
    if not isinstance(source, Node) or source.op != "call_module":
        return None
    module = network.get_submodule(str(source.target))
    return module if isinstance(module, Quantizer) else None


def _expected_input(reference: Network, node: object) -> Tensor | None:  # channels
    """Mean of each input channel, if a batch norm tells."""
    rectified = False
    while isinstance(node, Node):
        if node.name in reference.normals:
            return _mean(reference.normals[node.name], rectified)
        if op(node) is aten.relu and not rectified:
            rectified = True
            node = node.args[0]
        elif op(node) in _AVERAGES and not rectified:
            node = node.args[0]
        else:
            node = moved(node)
    return None


def _mean(normal: Normal, rectified: bool) -> Tensor:
    """Of a normal variable, or of its positive part."""
    if not rectified:
        return normal.mean
    sd = normal.sd.clamp(min=torch.finfo(normal.sd.dtype).tiny)
    standard = torch.distributions.Normal(0.0, 1.0)
    ratio = normal.mean / sd
    positive: Tensor = sd * torch.exp(standard.log_prob(ratio)) + normal.mean * standard.cdf(ratio)
    return positive
