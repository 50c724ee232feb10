"""The least traffic to and from DRAM of a layer that is computed in tiles, over tile sizes and orders of the loops."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.layers import LayerSpec, OpKind

Array = NDArray[np.float64]

# What each operand is indexed by: positions, input channels, output channels. Over the third it can be used again.
_INDEXED = {"weight": ("input", "output"), "activation": ("position", "input"), "sum": ("position", "output")}


@dataclass(frozen=True)
class Windows:
    """A layer as windows over an image: what its tiles are cut from.

    Attributes:
        images: that follow one another.
        size: of the output, two axes.
        kernel: two axes.
        stride: of both.
        in_channels: of one group.
        out_channels: of one group.
    """

    images: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    in_channels: int
    out_channels: int

    @classmethod
    def of(cls, layer: LayerSpec, images: int, *, unrolled: bool = False) -> Windows:
        """Read off a layer that has a weight; the positions of a linear layer are a column.

        Args:
            layer: of any known kind.
            images: in a batch.
            unrolled: whether the elements of a window count as input channels.
        """
        space = layer.output_shape[:-1] if layer.kind is OpKind.LINEAR else layer.output_shape[1:]
        kernel = layer.weight_shape[2:]
        taps = int(np.prod(kernel)) if unrolled else 1
        return cls(
            images,
            _two(space),
            (1, 1) if unrolled else _two(kernel),
            1 if unrolled else layer.stride,
            layer.weight_shape[1] * taps,
            layer.weight_shape[0] // layer.groups,
        )


def _two(axes: tuple[int, ...]) -> tuple[int, int]:
    return (int(np.prod(axes[:-1])), axes[-1]) if len(axes) > 1 else (axes[0] if axes else 1, 1)


@dataclass(frozen=True)
class Buffers:
    """Bits of one tile of each operand that fit on the chip, and what output channels come in.

    Attributes:
        weight: bits.
        activation: bits.
        sum: bits.
        sum_bits: of one partial sum.
        columns: output channels that are computed at once: tiles are multiples, or all of them.
    """

    weight: float
    activation: float
    sum: float
    sum_bits: int
    columns: int


@lru_cache(maxsize=4096)
def least_traffic(layer: Windows, buffers: Buffers, most_bits: int) -> Array:
    """Bits moved, at each number of bits of weights and activations; infinite where not even the smallest tile fits.

    Tiles are powers of two of each axis, or all of it; those of the image are square, and divide it, since a tile that
    reaches over the edge takes the time of a full one. An operand stays on the chip over the inner loops that do not
    index it, together with what the loops between have added to it, for as long as that fits. Sums are read and
    written each time.

    Returns:
        ``most_bits x most_bits``, weight bits before activation bits, from 1 bit up.
    """
    tile, trips = _tiles(layer, buffers.columns)
    bits = np.arange(1, most_bits + 1, dtype=np.float64)[:, None]
    sizes = {
        "weight": tile["weight"] * bits,  # bits x tiles
        "activation": tile["activation"] * bits,
        "sum": tile["sum"] * float(buffers.sum_bits) * np.ones((1, 1)),
    }
    limits = {"weight": buffers.weight, "activation": buffers.activation, "sum": buffers.sum}
    moved = {
        (name, before): _moved(sizes[name], limits[name], trips, _INDEXED[name], before)
        for name in sizes
        for before in itertools.chain(*(itertools.combinations(_INDEXED[name], n) for n in range(3)))
    }
    least = np.full((most_bits, most_bits), np.inf)
    for order in itertools.permutations(("position", "input", "output")):  # the innermost loop comes first
        of = {name: moved[name, _inside(order, indices)] for name, indices in _INDEXED.items()}
        fixed = of["weight"] + 2 * of["sum"]
        least = np.minimum(least, (fixed[:, None] + of["activation"][None]).min(axis=-1))
    least.setflags(write=False)
    return least


def _tiles(layer: Windows, columns: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Elements of a tile of each operand, and the trips of each loop, for every choice of tiles."""
    side, cin, cout = (
        np.array(axis, dtype=np.float64)
        for axis in zip(
            *itertools.product(
                [side for side in _powers(max(layer.size)) if all(size % min(side, size) == 0 for size in layer.size)],
                _powers(layer.in_channels),
                sorted({min(columns << k, layer.out_channels) for k in range(layer.out_channels.bit_length())}),
            ),
            strict=True,
        )
    )
    sides = [np.minimum(side, size) for size in layer.size]
    windows = [k + (s - 1) * layer.stride for s, k in zip(sides, layer.kernel, strict=True)]
    tile = {
        "weight": cin * cout * float(np.prod(layer.kernel)),
        "activation": cin * windows[0] * windows[1],
        "sum": cout * sides[0] * sides[1],
    }
    across = [np.ceil(size / s) for s, size in zip(sides, layer.size, strict=True)]
    trips = {
        "position": layer.images * across[0] * across[1],
        "input": np.ceil(layer.in_channels / cin),
        "output": np.ceil(layer.out_channels / cout),
    }
    return tile, trips


def _powers(size: int) -> list[int]:
    return sorted({min(1 << k, size) for k in range(size.bit_length() + 1)})


def _inside(order: tuple[str, ...], indices: tuple[str, ...]) -> tuple[str, ...]:
    """The loops that index an operand and are inside of the one that does not."""
    again = next(place for place, loop in enumerate(order) if loop not in indices)
    return tuple(loop for loop in indices if loop in order[:again])


def _moved(
    size: Array, limit: float, trips: dict[str, Array], indices: tuple[str, ...], before: tuple[str, ...]
) -> Array:
    """Bits of an operand, when the loops ``before`` are inside of the one that uses it again."""
    kept = size
    for loop in before:
        kept = kept * trips[loop]
    again = next(loop for loop in trips if loop not in indices)
    everything = size * trips[indices[0]] * trips[indices[1]]
    moved = np.where(kept <= limit, everything, everything * trips[again])
    return np.where(size <= limit, moved, np.inf)
