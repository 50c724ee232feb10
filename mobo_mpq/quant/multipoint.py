"""Weights as sums of several low-bit vectors: important channels get more than one, all of the same few bits.

Liu, Ye, Zhou and Liu, "Post-training Quantization with Multiple Points: Mixed Precision without Mixed Precision", AAAI
2021, arXiv 2002.09049. On a device the points of a channel are channels of a wider layer, whose outputs are added.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.quant import functional
from mobo_mpq.quant.base import QParams, Quantizer, Site
from mobo_mpq.quant.observers import Observer

FEWER_THAN = 8
"""Bits: weights of this many need no second point."""

_CLIPS = 100  # candidates for the range of a point
_SMALLEST_CLIP = 0.02  # of the largest absolute value


def extra_points(layer: LayerSpec, weight_bits: int, extra: float) -> int:
    """How many points a layer has beyond one for each channel: a share of its channels, rounded up.

    None at 8 bits and above, for weights that several layers share, and for convolutions in groups of several channels,
    which cannot be made wider by less than a channel for each group.
    """
    channelwise = layer.kind is not OpKind.CONV or layer.groups == 1
    if layer.kind is OpKind.DEPTHWISE:
        channelwise = layer.weight_shape[0] == layer.groups
    if weight_bits >= FEWER_THAN or not layer.weight_shape or layer.weight_group or not channelwise:
        return 0
    return math.ceil(extra * layer.weight_shape[0] - 1e-9)


def widened(layer: LayerSpec, points: int) -> LayerSpec:
    """The layer that a device runs, with so many channels more; a depthwise one reads as many more, too."""
    if not points:
        return layer
    out = layer.weight_shape[0] + points
    weight = (out, *layer.weight_shape[1:])
    if layer.kind is OpKind.LINEAR:
        return replace(layer, weight_shape=weight, output_shape=(*layer.output_shape[:-1], out))
    output = (out, *layer.output_shape[1:])
    if layer.kind is not OpKind.DEPTHWISE:
        return replace(layer, weight_shape=weight, output_shape=output)
    inputs = (out, *layer.input_shape[1:])
    return replace(layer, weight_shape=weight, input_shape=inputs, output_shape=output, groups=out)


def next_point(residual: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """One more point for each channel: the integers and the scale of least squared error.

    Ranges are searched over a grid of fractions of the largest absolute value; for each, the scale is that of least
    squares, ``a = <r, w> / <w, w>``, so that what remains is orthogonal to the point.

    Args:
        residual: ``channels x elements``, what the points so far leave.
        bits: of the integers.

    Returns:
        Integers, of residual's shape and type, and scales, ``channels``; both 0 where nothing remains.
    """
    qmin, qmax = functional.grid(bits, symmetric=True)
    best = torch.zeros_like(residual)
    gain = torch.zeros_like(residual[:, 0])
    scale = torch.zeros_like(gain)
    largest = residual.abs().amax(1)
    step = _SMALLEST_CLIP ** (1.0 / (_CLIPS - 1))
    for candidate in range(_CLIPS):
        unit = (largest * step**candidate / qmax).clamp(min=torch.finfo(residual.dtype).tiny)
        integers = torch.clamp(torch.round(residual / unit[:, None]), qmin, qmax)
        along, length = (residual * integers).sum(1), integers.square().sum(1)
        a = along / length.clamp(min=1.0)  # integers that are not all 0 have a length of at least 1
        better = a * along > gain
        best = torch.where(better[:, None], integers, best)
        gain, scale = torch.where(better, a * along, gain), torch.where(better, a, scale)
    return best, scale


def count_points(errors: Tensor, epsilon: float = 0.0, budget: int | None = None) -> Tensor:
    """How many points each channel gets: one more for the channel of the greatest error, as long as it exceeds epsilon.

    With a budget that amounts to the smallest epsilon that the budget allows.

    Args:
        errors: ``points x channels``: row ``n - 1`` has the errors with ``n`` points, relative to what matters.
        epsilon: the error that is good enough.
        budget: points beyond one for each channel.

    Returns:
        Counts from 1 to ``points``, ``channels``.
    """
    counts = torch.ones(errors.shape[1], dtype=torch.int64)
    while budget is None or int(counts.sum()) - len(counts) < budget:
        current = errors.gather(0, counts[None] - 1)[0].masked_fill(counts == len(errors), 0.0)
        if not bool((current > epsilon).any()):
            break
        counts[int(current.argmax())] += 1
    return counts


class MultipointQuantizer(Quantizer):
    """The points of ``first``, one for each channel, and further ones that are added to some channels.

    The contract of a quantizer holds for every point by itself: :meth:`qparams` and :meth:`integers` are those of the
    first ones, and :meth:`wide` has them all.

    Args:
        first: quantizer of the weight, one scale per channel.
        shape: of the weight.
        extra: number of further points; they are 0 until they are :meth:`set`.
    """

    scale: Tensor
    source: Tensor
    points: Tensor

    def __init__(self, first: Quantizer, shape: tuple[int, ...], extra: int) -> None:
        super().__init__(first.bits, first.axis)
        self.site: Site | None = first.site
        self.calibrated = first.calibrated
        self.first = first
        axis = self.axis or 0
        self.register_buffer("scale", torch.zeros(extra))
        self.register_buffer("source", torch.zeros(extra, dtype=torch.int64))
        self.register_buffer("points", torch.zeros((extra, *shape[:axis], *shape[axis + 1 :]), dtype=torch.int8))

    def qparams(self) -> QParams:
        """The grid of the first points."""
        return self.first.qparams()

    def fit(self, observer: Observer) -> None:
        """Choose the grid of the first points; the further ones stay."""
        self.first.fit(observer)

    @torch.no_grad()
    def set(self, source: Tensor, scale: Tensor, points: Tensor) -> None:
        """Give the first of the further points their values; the rest are 0.

        Args:
            source: channel that each is added to, ``k`` of at most ``extra``.
            scale: ``k``.
            points: integers, ``k`` times the shape of a channel.
        """
        for buffer, values in ((self.source, source), (self.scale, scale), (self.points, points)):
            buffer.zero_()
            buffer[: len(values)] = values.to(buffer.dtype).reshape(len(values), *buffer.shape[1:])

    def quantize(self, x: Tensor) -> Tensor:
        """The sums of the points."""
        return self.first.quantize(x) + self.further()

    def further(self) -> Tensor:
        """What the further points add to the weight."""
        points = functional.expand(self.scale, 0, self.points.ndim) * self.points
        channels = self.qparams().scale.shape[0]
        total = points.new_zeros(channels, *self.points.shape[1:]).index_add_(0, self.source, points)
        return total.movedim(0, self.axis or 0)

    def wide(self, x: Tensor) -> tuple[QParams, Tensor, Tensor]:
        """The wider layer's weight: its grid, its integers, and the channel that each of its channels adds to.

        Args:
            x: the float weight.

        Returns:
            Grid with a scale per channel along axis 0, integers ``wide channels x ...``, and ``wide channels``.
        """
        grid = self.qparams()
        first = grid.quantize(x).movedim(self.axis or 0, 0)
        integers = torch.cat([first, self.points.to(first.dtype)])
        unused = self.scale == 0  # whose integers are 0: any scale will do, and 0 has no inverse
        scale = torch.cat([grid.scale, self.scale.masked_fill(unused, 1.0)])
        zero = torch.zeros_like(scale, dtype=torch.int32)
        source = torch.cat([torch.arange(len(first), device=self.source.device), self.source])
        return QParams(scale, zero, grid.qmin, grid.qmax, 0), integers, source

    @property
    def counts(self) -> Tensor:
        """Number of points of each channel."""
        further = torch.bincount(self.source[self.scale != 0], minlength=self.qparams().scale.shape[0])
        return 1 + further


def points_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Points of each channel, by the name of the layer; of layers with more than one point somewhere."""
    return {
        module.site.layers[0]: tuple(module.counts.tolist())
        for module in network.modules()
        if isinstance(module, MultipointQuantizer) and module.site is not None
    }
