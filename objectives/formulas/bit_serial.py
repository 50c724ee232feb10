"""Bit-serial matrix engines: time grows with the product of both bit-widths, until streaming operands takes longer."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.latency import Count, CycleFormula, Geometry, register_latency
from mobo_mpq.policy import LayerBits

WINDOW = 16
"""Bits of a dot-product word that one channel of a depthwise layer takes: a 3x3 window and its padding."""


class Operand(NamedTuple):
    """One side of a matrix product.

    Attributes:
        items: its positions (of activations), or its output channels (of weights).
        tile: items that the array takes at once.
        bits: planes of each item.
    """

    items: int
    tile: int
    bits: int

    @property
    def tiles(self) -> int:
        """Tiles of items; the last may be smaller."""
        return -(-self.items // self.tile)


@register_latency("bit_serial")
class BitSerial(CycleFormula):
    """A pipeline that computes on a word of each operand per cycle, while both operands are being streamed in.

    BISMO (Umuroglu et al., FPL 2018): ``rows x columns`` dot-product units, each taking ``dot_bits`` bits of
    one bit plane per cycle. How it is fed is reconstructed from the lookup table of HAQ (Wang et al., CVPR 2019), which
    has no formula; every entry of the half that was looked at is met, and the sums over the whole network are:

    - One word of activations and one of weights arrive per cycle, tile after tile. An operation runs in the cycle in
      which the later of its two words arrives, or when those before it are done. So filling, computing and streaming
      overlap as far as their order lets them.
    - The tiles of either operand can be in the outer loop; the faster of both orders counts.
    - An operand of more than ``buffer_words`` words is cut into equal parts, which are computed one after the other
      with all parts of the other operand.
    - The images of a batch follow one another, and fetch the weights again; in a linear layer of one position the
      batch fills the rows instead.
    - A depthwise layer packs the windows of several channels into one word, and those channels are one product.
      Windows of more than 16 taps take several places of 16, which the table does not contain.

    Attributes:
        rows: dot-product units along output positions.
        columns: dot-product units along output channels.
        dot_bits: width of one dot product.
        max_bits: of either operand.
        buffer_words: words of ``dot_bits`` bits that are kept of each operand; without it, all of them are.
    """

    rows: Count
    columns: Count
    dot_bits: Count
    max_bits: Count
    buffer_words: Count | None = None

    @property
    def coverage(self) -> str:
        """The covered bits, in words."""
        return f"1 to {self.max_bits} bits"

    def covers(self, kind: OpKind, bits: LayerBits) -> bool:
        """Whether both operands are of 1 to ``max_bits`` bits."""
        return 1 <= bits[0] <= self.max_bits and 1 <= bits[1] <= self.max_bits

    def cycles(self, layer: LayerSpec, bits: LayerBits, batch: int) -> float:
        """Cycles for ``batch`` inferences."""
        shape = Geometry.of(layer)
        if layer.kind is OpKind.DEPTHWISE:
            return float(batch * self._depthwise(shape, bits))
        words = ceil(shape.in_channels * shape.taps / self.dot_bits)
        if layer.kind is OpKind.LINEAR and shape.positions == 1:
            return float(self._product(batch, shape.out_channels, words, bits))
        return float(batch * shape.groups * self._product(shape.positions, shape.out_channels, words, bits))

    def _depthwise(self, shape: Geometry, bits: LayerBits) -> int:
        places = shape.groups * shape.out_channels * ceil(shape.taps / WINDOW)
        together = max(1, self.dot_bits // WINDOW)
        full, rest = divmod(places, together)
        cycles = full * self._product(shape.positions, together, 1, bits) if full else 0
        return cycles + (self._product(shape.positions, rest, 1, bits) if rest else 0)

    def _product(self, positions: int, channels: int, words: int, bits: LayerBits) -> int:
        """Cycles of (positions x words) by (words x channels), in parts that the buffers hold."""
        parts = list(self._parts(channels, self.columns, words * bits[0]))
        return sum(
            times * repeats * _pipelined(Operand(rows, self.rows, bits[1]), Operand(some, self.columns, bits[0]), words)
            for rows, times in self._parts(positions, self.rows, words * bits[1])
            for some, repeats in parts
        )

    def _parts(self, items: int, tile: int, words: int) -> Iterable[tuple[int, int]]:
        """Sizes of the parts of an operand, and how many there are of each; ``words`` are those of an item."""
        tiles = -(-items // tile)
        parts = 1 if self.buffer_words is None else min(tiles, -(-items * words // self.buffer_words))
        if parts == 1:
            return ((items, 1),)
        smaller, larger = divmod(tiles, parts)
        last = items - (tiles - smaller) * tile  # it holds what is left of the last tile
        return (((smaller + 1) * tile, larger), (smaller * tile, parts - larger - 1), (last, 1))


def _pipelined(activations: Operand, weights: Operand, words: int) -> int:
    """Cycles of the faster of both loop orders."""
    return min(_ordered(activations, weights, words), _ordered(weights, activations, words))


def _ordered(outer: Operand, inner: Operand, words: int) -> int:
    """Cycles with the loops: tiles of ``outer``, tiles of ``inner``, words, planes of ``inner``, planes of ``outer``.

    The operations take their number of cycles, and the time that they have to start late so that none of them is
    before the words that it needs: the most, over all words, by which one comes later than the operations before the
    first that needs it. Within a tile and over the tiles that time is linear, so that it is the most at an end.
    """
    planes = outer.bits * inner.bits
    steps = words * planes  # operations of one tile with another
    late = max(
        _late(outer, words, inner.tiles * steps, outer.bits, (words - 1) * outer.bits, inner.bits) - outer.bits + 1,
        _late(inner, words, steps, 1, words * inner.bits - 1, outer.bits),
    )
    return outer.tiles * inner.tiles * steps + late - 1


def _late(operand: Operand, words: int, operations: int, first: int, others: int, pace: int) -> int:
    """Cycles by which the latest word comes after the operations that precede its own.

    Args:
        operand: that streams in.
        words: of each of its planes.
        operations: with one of its tiles.
        first: words of an item that come first of all in a tile.
        others: the words after those, each of which lets ``pace`` operations go by.
        pace: operations per word.
    """
    gain = operand.tile * words * operand.bits - operations  # more than 0: the stream is slower, and falls behind
    full, rest = divmod(operand.items, operand.tile)
    latest = rest * first + others * max(0, rest - pace) + full * gain if rest else 0
    if full:
        end = operand.tile * first + others * max(0, operand.tile - pace)
        latest = max(latest, end + max(0, (full - 1) * gain))
    return latest
