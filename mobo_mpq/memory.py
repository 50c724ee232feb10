"""Peak memory of the activations: a bound that a policy has to keep, but no sum over layers, so no objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind, readers
from mobo_mpq.policy import LayerBits

FLOAT_BITS = 32
"""Of tensors that no layer reads through a quantizer."""


def peak_activation_bytes(
    layers: Sequence[LayerSpec],
    policy: Mapping[str, LayerBits | tuple[int, int]],
    *,
    in_place_depthwise: bool = True,
    shortcuts: bool = True,
) -> float:
    """The most bytes of activations that are in memory at once, for one inference.

    The maximum, over the layers in their order, of input, output, and the tensors that later layers still need. Each
    tensor is packed, with its own bits: those of the layers that read it; 32 when they stay in float, as the network's
    outputs do. What is added, rectified or pooled behind a layer is done in place.

    Args:
        layers: of :func:`mobo_mpq.trace_layers`. Of layers made by hand, each is read by the next, and no other tensor
            has to stay.
        policy: name of a layer -> (weight bits, activation bits).
        in_place_depthwise: whether the output of a depthwise layer overwrites its input, where that is not read again:
            as in MCUNetV2 (Lin et al., NeurIPS 2021).
        shortcuts: whether tensors that wait for later layers count.

    Raises:
        InputError: when there are no layers, or the policy lacks one.
    """
    if not layers:
        raise InputError("the network has no layer; expected at least one, as mm.trace_layers(model, example) gives")
    for layer in layers:
        if layer.name not in policy:
            raise InputError(f"the policy lacks layer '{layer.name}'; expected a policy of the same network")
    return max(
        _bits_alive(layer, reader, policy, in_place_depthwise, shortcuts)
        for layer, reader in zip(layers, readers(layers), strict=True)
    ) / 8  # fmt: skip


def _bits_alive(
    layer: LayerSpec,
    reader: str,
    policy: Mapping[str, LayerBits | tuple[int, int]],
    in_place: bool,
    shortcuts: bool,
) -> int:
    def stored(reader: str, elements: int) -> int:
        return elements * (policy[reader][1] if reader in policy else FLOAT_BITS)

    before = math.prod(layer.input_shape) * policy[layer.name][1]
    result = stored(reader, math.prod(layer.output_shape))
    waiting = sum(stored(name, elements) for name, elements in layer.held) if shortcuts else 0
    if in_place and layer.kind is OpKind.DEPTHWISE and not (shortcuts and layer.reused):
        return waiting + max(before, result)
    return waiting + before + result
