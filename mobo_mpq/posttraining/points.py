"""Which channels get more points: those whose outputs suffer most, on the calibration data.

arXiv 2002.09049; see :mod:`mobo_mpq.quant.multipoint`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from mobo_mpq.dataflow import aten, op
from mobo_mpq.folding import tensor_of
from mobo_mpq.posttraining.layerwise import Layer
from mobo_mpq.quant.multipoint import MultipointQuantizer, count_points, next_point

_SMALLEST_VARIANCE = 1e-6  # of the mean over a layer's channels: constant channels get no infinite weight


@torch.no_grad()
def add_points(layer: Layer, quantizer: MultipointQuantizer, most: int) -> None:
    """Spend a quantizer's further points on the channels of greatest output error.

    Args:
        layer: that has just run.
        quantizer: of its weight.
        most: points of one channel.
    """
    axis = layer.operator.axis
    weight = tensor_of(layer.network, layer.operator.weight).detach()
    rows = (weight - quantizer.first.quantize(weight)).movedim(axis, 0)
    residuals, points = [rows.flatten(1)], []
    for _ in range(most - 1):
        integers, scale = next_point(residuals[-1], quantizer.bits)
        points.append((integers, scale))
        residuals.append(residuals[-1] - scale[:, None] * integers)
    variance = _rows(layer.targets, layer.axis).var(1, correction=0)
    floor = max(_SMALLEST_VARIANCE * float(variance.mean()), torch.finfo(variance.dtype).tiny)
    errors = torch.stack([output_errors(layer, residual.reshape(rows.shape)) for residual in residuals])
    counts = count_points((errors / variance.clamp(min=floor)).cpu(), budget=len(quantizer.scale))
    chosen = [(channel, n) for channel, count in enumerate(counts.tolist()) for n in range(count - 1)]
    if not chosen:
        return
    source, index = torch.tensor(chosen).T
    integers = torch.stack([points[n][0][channel] for channel, n in chosen])
    scale = torch.stack([points[n][1][channel] for channel, n in chosen])
    quantizer.set(source, scale, integers)
    further = quantizer.further().movedim(axis, 0)
    answers = zip(layer.outputs, respond(layer, further), strict=True)
    layer.walk.replace(layer.node, [output + answer for output, answer in answers])


def output_errors(layer: Layer, residual: Tensor) -> Tensor:
    """Mean square of what a layer's outputs lack when its weight lacks ``residual``, by channel.

    Args:
        layer: that has just run.
        residual: ``channels x ...``.
    """
    return _rows(respond(layer, residual), layer.axis).square().mean(1)


def respond(layer: Layer, weight: Tensor) -> list[Tensor]:
    """What a layer would make of its inputs with another weight and no bias.

    Args:
        layer: that has just run.
        weight: ``channels x ...``.

    Returns:
        Outputs, one tensor for each batch.
    """
    node = layer.node
    source = node.args[1 if op(node) is aten.addmm else 0]
    assert isinstance(source, Node), "a layer reads a tensor"
    inputs = layer.walk.values(source)
    if layer.axis != 1:
        return [x @ weight.T for x in inputs]
    rest = [None, *node.args[3:]]
    kwargs = {name: value for name, value in node.kwargs.items() if name not in ("bias", "weight")}
    assert callable(node.target)
    return [node.target(x, weight, *rest, **kwargs) for x in inputs]


def _rows(values: list[Tensor], axis: int) -> Tensor:  # channels x samples
    return torch.cat([value.movedim(axis, 0).reshape(value.shape[axis], -1).double() for value in values], 1)
