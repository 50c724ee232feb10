"""DDQ: learned levels, whose number is learned as well.

Zhang et al., "Differentiable Dynamic Quantization with Mixed Precision and Adaptive Resolution", ICML 2021, arXiv
2106.02295. No code of the authors is public; what is marked so is reconstructed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.quant import functional
from mobo_mpq.quant.base import TensorQuantizer
from mobo_mpq.quant.gates import MOST_BITS, Gated, Gates, block_means
from mobo_mpq.quant.lsq import gradient_scale, positive
from mobo_mpq.quant.observers import Observer, choose

LEVELS = ("learned", "uniform")
RANGES = ("own", "shared")


@dataclass(frozen=True)
class Resolution:
    """What the levels of a tensor may be.

    Attributes:
        symmetric: whether the grid that they start from is signed, with zero point 0.
        levels: ``learned``, or ``uniform``: evenly spaced for good.
        ranges: ``own``: each precision has a scale and a zero point of its own, chosen and learned for it; ``shared``:
            all have those of the highest one, as in the paper.
        correction: weight of the pull of values towards their levels.

    Raises:
        UnknownName: for other words.
        InputError: for a correction that is negative or not finite.
    """

    symmetric: bool = True
    levels: str = "learned"
    ranges: str = "own"
    correction: float = 0.1

    def __post_init__(self) -> None:
        for option, value, known in (("levels", self.levels, LEVELS), ("ranges", self.ranges, RANGES)):
            if value not in known:
                raise UnknownName(f"value of option '{option}' of DDQ", value, known)
        if not 0.0 <= self.correction < float("inf"):
            raise InputError(f"option 'correction' of DDQ is {self.correction!r}; expected 0 or more")


class DdqQuantizer(TensorQuantizer):
    """``2^b`` levels, of which blocks are averaged until as many are left as gates say.

    Levels are counted in steps of the finest grid, ``q_k = k`` at the start. At the precision ``c`` a value is
    ``scale * (level - zero_point)``, where the level is the mean of a block of ``s = 2^(b - c)`` neighbours. Ranges of
    their own measure it in steps of their own grid, so that at the start, or with levels that stay uniform, every
    precision is the ordinary uniform quantizer of ``c`` bits.

    Args:
        resolution: of its levels.
        gates: may be shared with other quantizers; a precision above 8 leaves the tensor as it is.
        shape: of the scale, ``()`` or ``(channels,)``.
        axis: along which the scale runs.
    """

    def __init__(self, resolution: Resolution, gates: Gates, shape: tuple[int, ...], axis: int | None) -> None:
        grids = tuple(bits for bits in gates.precisions if bits <= MOST_BITS)
        super().__init__(grids[-1], axis)
        self.resolution, self.gates, self.shape, self._grids = resolution, gates, shape, grids
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for index, bits in enumerate(self._grids):
            self.scales.append(torch.full(shape, torch.nan))
            self.register_buffer(f"zero_point{index}", torch.zeros(shape, dtype=torch.int32))
            self.shifts.append(torch.zeros(2**bits if resolution.levels == "learned" else 0))

    def fit(self, observer: Observer) -> None:
        """Choose scale and zero point of every precision, and space the levels evenly."""
        symmetric = self.resolution.symmetric
        for index, bits in enumerate(self._grids):
            scale, zero_point = choose(observer, "mse", *functional.grid(bits, symmetric), symmetric)
            with torch.no_grad():
                self.scales[index].copy_(scale.reshape(self.shape))
                self._zero_point(index).copy_(zero_point.reshape(self.shape))
                self.shifts[index].zero_()

    def levels(self, precision: int) -> Tensor:  # -> 2^b
        """The levels, increasing; only those shifts are differentiated that belong to a precision, given by its index.

        A level's place is ``k`` and, of each precision, the shift of the block that it is in: few numbers for a coarse
        precision, many for a fine one, each in steps of its own grid. One learning rate suits them all.
        """
        finest = 2**self.bits
        levels = torch.arange(finest, dtype=torch.float32, device=self.shifts[0].device)
        if self.resolution.levels == "uniform":
            return levels
        for index, shift in enumerate(self.shifts):
            block = finest // len(shift)
            moved = block * (shift if index == precision else shift.detach())
            levels = levels + moved.repeat_interleave(block)
        return levels.sort().values

    def quantize(self, x: Tensor) -> Tensor:
        """The quantized ``x``; its gradient, and those of levels, scale and gates, are straight-through estimates."""
        quantized = self.at(x, self.gates.level)
        if not self.gates.learning:
            return quantized
        result: Tensor = Gated.apply(quantized, self.gates.opened(), x.detach(), self.at)
        return result

    def at(self, x: Tensor, precision: int) -> Tensor:
        """``x`` at a precision, given by its index."""
        if self.gates.precisions[precision] > MOST_BITS:
            return x
        own = self.resolution.ranges == "own"
        source = precision if own else len(self._grids) - 1
        scale, zero_point = positive(self.scales[source]), self._zero_point(source)
        qmin, qmax = functional.grid(self._grids[source], self.resolution.symmetric)
        weight = self.site is None or self.site.axis is not None
        factor = gradient_scale(x, scale, qmax, weight)
        if own and self.resolution.levels == "uniform":
            y = functional.fake_quantize_learned(x, scale, zero_point, qmin, qmax, self.axis, factor)
        else:
            bits = self._grids[precision]
            block = 2 ** (self.bits - bits)
            means = block_means(self.levels(precision), bits)
            steps = (means - (block - 1) / 2) / block if own else means
            y = nearest(x, _slowed(scale, factor), zero_point, steps + qmin, self.axis)
        if not (self.resolution.correction and x.requires_grad and torch.is_grad_enabled()):
            return y
        step = functional.expand(scale.detach(), self.axis, x.ndim)
        result: Tensor = _Pulled.apply(y, x, step, self.resolution.correction)
        return result

    def _zero_point(self, index: int) -> Tensor:
        return self.get_buffer(f"zero_point{index}")


def nearest(x: Tensor, scale: Tensor, zero_point: Tensor, levels: Tensor, axis: int | None) -> Tensor:
    """The nearest of ``scale * (levels - zero_point)``.

    The gradient passes straight through to values within half a step of the levels. That of ``levels`` is the sum of
    the gradients of the values that lie on each, times the scale; that of ``scale`` is LSQ's.

    Args:
        x: any shape.
        scale: positive; one value, or one per channel along ``axis``.
        zero_point: whole numbers, of scale's shape.
        levels: increasing, in units of the scale.
        axis: channel axis, None for one scale per tensor.
    """
    step = functional.expand(scale, axis, x.ndim)
    offset = functional.expand(zero_point, axis, x.ndim).to(x.dtype)
    place = x / step + offset
    fixed, known = place.detach(), levels.detach()
    index = torch.bucketize(fixed, (known[1:] + known[:-1]) / 2)
    inside = (fixed >= known[0] - 0.5) & (fixed <= known[-1] + 0.5)
    passed = torch.where(inside, place - fixed, 0.0)
    return step * (levels[index] + passed - offset)


def _slowed(scale: Tensor, factor: float) -> Tensor:
    """The scale, with a gradient multiplied by ``factor``."""
    return scale.detach() + (scale - scale.detach()) * factor


class _Pulled(torch.autograd.Function):
    """The gradient correction: values are also pulled towards their levels.

    Reconstructed, in the form of EWGS (Lee et al., CVPR 2021): beside the straight-through gradient ``G`` of the
    quantized value, ``x`` gets ``correction * |G| (x - x_q) / step``, if it is not beyond the levels.
    """

    @staticmethod
    def forward(ctx: Any, quantized: Tensor, x: Tensor, step: Tensor, correction: float) -> Tensor:
        error = (x - quantized) / step
        ctx.save_for_backward(torch.where(error.abs() <= 1.0, correction * error, 0.0))
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (pull,) = ctx.saved_tensors
        return gradient, gradient.abs() * pull, None, None
