"""Height and width of what a layer computes, for formulas that cut maps into tiles."""

from __future__ import annotations

import math
from functools import lru_cache

from mobo_mpq.layers import LayerSpec, OpKind


@lru_cache(maxsize=4096)
def output_map(layer: LayerSpec) -> tuple[int, int]:
    """Height and width of the output of a layer that has a weight.

    A missing axis has size 1: a one-dimensional convolution, and the positions of a linear layer, are one row. Axes
    before the last are taken together.
    """
    space = layer.output_shape[:-1] if layer.kind is OpKind.LINEAR else layer.output_shape[1:]
    return math.prod(space[:-1]), math.prod(space[-1:])


def window(layer: LayerSpec) -> tuple[int, int]:
    """Height and width of the kernel, likewise; 1 and 1 of a linear layer."""
    kernel = layer.weight_shape[2:]
    return math.prod(kernel[:-1]), math.prod(kernel[-1:])
