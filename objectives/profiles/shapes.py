"""The shape of a layer as a table's key: what decides its cost, whatever the layer is called."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

from mobo_mpq.layers import LayerSpec, OpKind


class Shape(NamedTuple):
    """The key of a row that is not found by its layer's name; its fields are columns of the table.

    A one-dimensional convolution has ``kh = h_out = 1``. So has a linear layer, whose positions are ``w_out``.
    """

    op: OpKind
    cin: int
    cout: int
    kh: int = 1
    kw: int = 1
    stride: int = 1
    groups: int = 1
    h_out: int = 1
    w_out: int = 1

    @classmethod
    def of(cls, layer: LayerSpec) -> Self:
        """Read off a layer that has a weight."""
        out, inputs, *kernel = layer.weight_shape
        space = [math.prod(layer.output_shape[:-1])] if layer.kind is OpKind.LINEAR else layer.output_shape[1:]
        kh, kw = (1, 1, *kernel)[-2:]
        h_out, w_out = (1, 1, *space)[-2:]
        return cls(layer.kind, inputs * layer.groups, out, kh, kw, layer.stride, layer.groups, h_out, w_out)

    def layer(self, name: str = "") -> LayerSpec:
        """A layer of this shape. Its input is taken to be ``stride`` times as wide as its output, and as high."""
        if self.op is OpKind.LINEAR:
            positions = () if self.h_out * self.w_out == 1 else (self.h_out * self.w_out,)
            return LayerSpec(name, self.op, (self.cout, self.cin), (*positions, self.cin), (*positions, self.cout))
        weight = (self.cout, self.cin // self.groups, self.kh, self.kw)
        height = self.h_out * (self.stride if self.kh > 1 or self.h_out > 1 else 1)
        inputs = (self.cin, height, self.w_out * self.stride)
        outputs = (self.cout, self.h_out, self.w_out)
        return LayerSpec(name, self.op, weight, inputs, outputs, self.groups, self.stride)

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return (
            f"{self.op} of {self.cin} to {self.cout} channels, {self.kh}x{self.kw}, stride {self.stride}{groups}, "
            f"{self.h_out}x{self.w_out} outputs"
        )
