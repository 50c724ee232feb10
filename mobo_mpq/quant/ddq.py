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
        for index in range(len(grids)):
            self.register_parameter(f"scale{index}", nn.Parameter(torch.full(shape, torch.nan)))
            self.register_buffer(f"zero_point{index}", torch.zeros(shape, dtype=torch.int32))
        learned = grids if resolution.levels == "learned" else ()
        self.shifts = nn.ParameterList(torch.zeros(2**bits) for bits in learned)

    def fit(self, observer: Observer) -> None:
        """Choose scale and zero point of every precision, and space the levels evenly."""
        symmetric = self.resolution.symmetric
        for index, bits in enumerate(self._grids):
            scale, zero_point = choose(observer, "mse", *functional.grid(bits, symmetric), symmetric)
            with torch.no_grad():
                self.scale(index).copy_(scale.reshape(self.shape))
                self._zero_point(index).copy_(zero_point.reshape(self.shape))
        with torch.no_grad():
            for shift in self.shifts:
                shift.zero_()

    def levels(self, precision: int) -> Tensor:  # -> 2^b
        """The vector q; only those shifts are differentiated that belong to a precision, given by its index.

        A level's place is ``k`` and, of each precision, the shift of the block that it is in: few numbers for a coarse
        precision, many for a fine one, each in steps of its own grid. One learning rate suits them all.
        """
        finest = 2**self.bits
        levels = torch.arange(finest, dtype=torch.float32, device=self.scale(0).device)
        for index, shift in enumerate(self.shifts):
            block = finest // len(shift)
            moved = block * (shift if index == precision else shift.detach())
            levels = levels + moved.repeat_interleave(block)
        return levels

    def quantize(self, x: Tensor) -> Tensor:
        """The quantized ``x``; its gradient, and those of levels, scale and gates, are straight-through estimates."""
        level = self.gates.level
        quantized = self.at(x, level)
        if not self.gates.learning:
            return quantized
        result: Tensor = Gated.apply(quantized, self.gates.opened(), x.detach(), self.at, level)
        return result

    def at(self, x: Tensor, precision: int) -> Tensor:
        """``x`` at a precision, given by its index."""
        if self.gates.precisions[precision] > MOST_BITS:
            return x
        own, correction = self.resolution.ranges == "own", self.resolution.correction
        source = precision if own else len(self._grids) - 1
        scale, zero_point = positive(self.scale(source)), self._zero_point(source)
        qmin, qmax = functional.grid(self._grids[source], self.resolution.symmetric)
        factor = gradient_scale(x, scale, qmax, self.site is None or self.site.axis is not None)
        if own and self.resolution.levels == "uniform":
            y = functional.fake_quantize_learned(x, scale, zero_point, qmin, qmax, self.axis, factor)
            return pulled(y, x, scale.detach(), correction, self.axis) if correction else y
        bits = self._grids[precision]
        block = 2 ** (self.bits - bits)
        middle = (block - 1) / 2  # of the first block
        levels = (block_means(self.levels(precision), bits) - middle) / block
        scale = scale.detach() + (scale - scale.detach()) * factor  # as LSQ does
        if own:
            return nearest(x, scale, qmin - zero_point, levels, self.axis, correction)
        return nearest(x, scale * block, (qmin - zero_point + middle) / block, levels, self.axis, correction)

    def scale(self, precision: int) -> nn.Parameter:
        """Step of the grid at a precision, given by its index; that of the highest one where ranges are shared."""
        return self.get_parameter(f"scale{precision}")

    def _zero_point(self, index: int) -> Tensor:
        return self.get_buffer(f"zero_point{index}")


def nearest(
    x: Tensor, step: Tensor, first: Tensor, levels: Tensor, axis: int | None, correction: float = 0.0
) -> Tensor:
    """The nearest of ``step * (first + levels)``; even levels give the uniform quantizer, bit for bit.

    The gradient passes straight through to values within half a step of the levels, and pulls them, as that of
    :func:`pulled`. That of ``levels`` is the sum of the gradients of the values that lie on each, times the step, and 0
    where it would move them out of their bounds; that of ``step`` is LSQ's. What is no number stays none.

    Args:
        x: any shape.
        step: positive; one value, or one per channel along ``axis``.
        first: where the even grid starts, in steps; of step's shape.
        levels: 0, 1, 2, ... in steps, each moved by at most a half, or else by a half: so the nearest one is next to x.
        axis: channel axis, None for one step per tensor.
        correction: weight of the pull.
    """
    even = torch.arange(len(levels), dtype=levels.dtype, device=levels.device)
    near = even + _Bounded.apply(levels - even)
    step, first = functional.expand(step, axis, x.ndim), functional.expand(first, axis, x.ndim).to(x.dtype)
    quantized: Tensor = _Nearest.apply(x, step, first, near, correction)
    return quantized


class _Bounded(torch.autograd.Function):
    """At most half a step; what lies further out can come back, and go no further."""

    @staticmethod
    def forward(ctx: Any, moved: Tensor) -> Tensor:
        ctx.save_for_backward(moved)
        return moved.clamp(-0.5, 0.5)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (moved,) = ctx.saved_tensors
        return gradient * ((moved.abs() <= 0.5) | (moved * gradient > 0))


class _Nearest(torch.autograd.Function):
    """One pass instead of a dozen small ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, first: Tensor, levels: Tensor, correction: float) -> Tensor:
        place = x * (1.0 / step)  # as in functional.quantize: bounds are moved by ``first``, which rounds nothing
        inside = (place - first).clamp_(0, len(levels) - 2)
        index = inside.nan_to_num().to(torch.int32)
        bounds = _bounds(first, levels)
        rows = torch.arange(len(bounds), dtype=index.dtype, device=index.device).view(first.shape)
        index += place > _pick(bounds.flatten(), index + rows * bounds.shape[1])
        level = _pick(levels, index).add_(first).add_(inside, alpha=0.0)  # 0, but where x is no number
        ctx.save_for_backward(place, index, level, step, first)
        ctx.correction, ctx.count = correction, len(levels)
        return level * step

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        place, index, level, step, first = ctx.saved_tensors
        inside = ((place - (first + (ctx.count - 1) / 2)).abs_() <= ctx.count / 2).to(gradient.dtype)
        of_x, of_step, of_levels = None, None, None
        if ctx.needs_input_grad[0]:
            of_x = gradient * inside
            if ctx.correction:
                of_x += (place - level).mul_(gradient.abs()).mul_(inside).mul_(ctx.correction)
        if ctx.needs_input_grad[1]:
            of_step = (level - place * inside).mul_(gradient).sum_to_size(step.shape)
        if ctx.needs_input_grad[3]:
            weights = (gradient * step).flatten()
            of_levels = torch.bincount(index.flatten(), weights, ctx.count).to(level.dtype)
        return of_x, of_step, None, of_levels, None


def _bounds(first: Tensor, levels: Tensor) -> Tensor:  # (channels or 1) x levels - 1
    """The largest place that still belongs to each level, the last one aside.

    Half way to the next level, or just below where the next one is even: a tie goes to it then, as rounding does.
    """
    starts = first.reshape(-1, 1)
    middles = starts + (levels[1:] + levels[:-1]) / 2
    even = (starts + torch.arange(1, len(levels), device=levels.device)) % 2 == 0
    return torch.where(even, middles.nextafter(middles.new_tensor(-torch.inf)), middles)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``, several times faster."""
    return values.index_select(0, index.flatten()).view(index.shape)


def pulled(quantized: Tensor, x: Tensor, step: Tensor, correction: float, axis: int | None) -> Tensor:
    """``quantized``, with the gradient correction: values are also pulled towards their levels.

    Reconstructed, in the form of EWGS (Lee et al., CVPR 2021): beside the straight-through gradient ``G`` of the
    quantized value, ``x`` gets ``correction * |G| (x - quantized) / step``, unless it is a step away from all levels.

    Args:
        quantized: of x's shape.
        x: any shape.
        step: between levels; one value, or one per channel along ``axis``.
        correction: weight of the pull.
        axis: channel axis, None for one step per tensor.
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return quantized
    result: Tensor = _Pulled.apply(quantized, x, functional.expand(step, axis, x.ndim), correction)
    return result


class _Pulled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, quantized: Tensor, x: Tensor, step: Tensor, correction: float) -> Tensor:
        error = (x - quantized).div_(step)
        ctx.save_for_backward(error.mul_((error.abs() <= 1.0).to(error.dtype)).mul_(correction))
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (pull,) = ctx.saved_tensors
        return gradient, gradient.abs().mul_(pull), None, None
