"""Which decision of a space gives each quantizer of a network its bits."""

from __future__ import annotations

from collections.abc import Sequence

from mobo_mpq.graph import Network
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.quant.base import Role
from mobo_mpq.quant.transform import quantizers
from mobo_mpq.space import SearchSpace


def decisions_of(network: Network, space: SearchSpace) -> dict[str, int]:
    """Index in ``space.decisions`` by the name of a quantizer's module.

    Args:
        network: quantized; its layers are those of the space.
        space: whose decisions they are.
    """
    index = {(d.role, name): i for i, d in enumerate(space.decisions) for name in d.layers}
    reader = {layer.activation_tie: layer.name for layer in network.layers}
    tied = {tensor: reader[tie] for tie, tensors in network.trace.ties.items() for tensor in tensors}
    found = {}
    for name, quantizer in quantizers(network).items():
        if quantizer.site is not None:
            site = quantizer.site
            layer = site.layers[0] if site.role is Role.WEIGHT else tied[site.tensor]
            found[name] = index[site.role.value, layer]
    return found


def policy_of(space: SearchSpace, bits: Sequence[int]) -> Policy:
    """Bits of each of ``space.decisions`` as a policy, whether the device has such pairs or not."""
    of = {(d.role, name): n for d, n in zip(space.decisions, bits, strict=True) for name in d.layers}
    return Policy.of({name: LayerBits(of["weight", name], of["activation", name]) for name in space.names})
