"""From a float network and a policy to a quantized network."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import nn
from torch.fx import Node

from mobo_mpq.dataflow import aten, op
from mobo_mpq.errors import InputError, PolicyError
from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Example, Network, call
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.quant.base import Role, Scheme, Site, TensorQuantizer, build_quantizer
from mobo_mpq.quant.uniform import UniformScheme

WEIGHT = UniformScheme(symmetric=True, per_channel=True, observer="mse")
"""Default scheme of weights."""

ACTIVATION = UniformScheme(symmetric=False, per_channel=False, observer="mse")
"""Default scheme of activations."""


class QuantizedNetwork(Network):
    """A network with quantizers on its weights and activations; made by :func:`apply_policy`.

    Its state dict holds parameters under their own names and quantizers under ``quantizers.``, and restores a
    calibrated network exactly.
    """

    @property
    def policy(self) -> Policy:
        """The bits of every layer."""
        return self.meta["policy"]


def apply_policy(
    network: Network,
    policy: Policy | Mapping[str, LayerBits],
    *,
    weight: Scheme = WEIGHT,
    activation: Scheme = ACTIVATION,
) -> QuantizedNetwork:
    """A quantized copy of ``network``.

    A weight's quantizer serves every reader of the parameter, a tied embedding too, and is calibrated at once. An
    activation's sits on the tensor that layers read, and on the operands and the result of additions tied to it; all of
    these wait for :func:`calibrate`. Layers at 16 or 32 bits stay as they are, biases always do.

    Args:
        network: in float; left as it is.
        policy: bits for every layer of the network.
        weight: scheme of the weights.
        activation: scheme of the activations.

    Raises:
        PolicyError: when the policy is of another model, or gives tied layers different bits.
        InputError: for bits that no quantizer supports.
    """
    check_policy(network, policy)
    copied = copy.deepcopy(network)
    quantized = QuantizedNetwork(copied, copied.graph)
    quantized.meta = {**copied.meta, "policy": policy if isinstance(policy, Policy) else Policy.of(policy)}
    _quantize_weights(quantized, policy, weight)
    _quantize_activations(quantized, policy, activation)
    quantized.graph.lint()
    quantized.recompile()
    quantized.train(False)
    return quantized


def check_policy(network: Network, policy: Mapping[str, LayerBits]) -> None:
    """Whether a policy fits a network.

    Raises:
        PolicyError: when names differ, or tied layers have different bits.
    """
    names = {layer.name for layer in network.layers}
    unknown = [name for name in policy if name not in names]
    missing = [layer.name for layer in network.layers if layer.name not in policy]
    if unknown or missing:
        what = [f"it names '{unknown[0]}'{_more(unknown)}, which the model does not have"] if unknown else []
        what += [f"it lacks '{missing[0]}'{_more(missing)}"] if missing else []
        raise PolicyError(f"the policy is of another model: {' and '.join(what)}; make one for this model's layers")
    first: dict[tuple[Role, str], str] = {}
    for layer in network.layers:
        for role, tie in ((Role.WEIGHT, layer.weight_tie), (Role.ACTIVATION, layer.activation_tie)):
            other = first.setdefault((role, tie), layer.name)
            mine, theirs = getattr(policy[layer.name], role), getattr(policy[other], role)
            if mine != theirs:
                raise PolicyError(
                    f"layers '{other}' and '{layer.name}' share their {role}, but the policy gives them {theirs} and "
                    f"{mine} bits; give both the same"
                )


def quantizers(network: nn.Module) -> dict[str, TensorQuantizer]:
    """Every quantizer of a network, by the name of its module, which is the target of its node in the graph."""
    found: dict[str, TensorQuantizer] = {}
    for name, module in network.named_modules():
        if isinstance(module, TensorQuantizer) and name.rpartition(".")[0] not in found:  # parts of one are none
            found[name] = module
    return found


def calibrate(network: nn.Module, batches: Iterable[Example]) -> None:
    """Choose the ranges of all activations, from one pass in which weights are quantized and activations are not.

    Args:
        network: from :func:`apply_policy`; changed in place.
        batches: inputs without labels: tensors, tuples or dicts.

    Raises:
        InputError: when there is no batch, or an activation is not finite.
    """
    active = [q for q in quantizers(network).values() if q.site is not None and q.site.role is Role.ACTIVATION]
    for quantizer in active:
        quantizer.start_observing()
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                call(network, batch)
                seen += 1
        if not seen:
            raise InputError("calibrate() got no batch; pass at least one batch of inputs")
        for quantizer in active:
            quantizer.stop_observing()
    finally:
        for quantizer in active:
            quantizer.stop_observing(fit=False)


@contextlib.contextmanager
def quantized(
    model: nn.Module,
    policy: Policy | Mapping[str, LayerBits],
    *,
    example: Example,
    batches: Iterable[Example],
    weight: Scheme = WEIGHT,
    activation: Scheme = ACTIVATION,
) -> Iterator[QuantizedNetwork]:
    """Inside the block ``model`` computes what the policy makes of it; afterwards it is itself again, come what may.

    The quantized network, which the block receives, has parameters of its own: training them leaves ``model`` alone.

    Args:
        model: the module whose calls are redirected.
        policy: bits for every layer.
        example: inputs to capture the model with, of any batch size.
        batches: inputs to calibrate with.
        weight: scheme of the weights.
        activation: scheme of the activations.

    Raises: as :func:`apply_policy`, :func:`calibrate` and :func:`mobo_mpq.graph.capture`.
    """
    network = apply_policy(Network.from_model(model, example), policy, weight=weight, activation=activation)
    calibrate(network, batches)
    own = model.__dict__.get("forward")
    model.__dict__["forward"] = network.__call__
    try:
        yield network
    finally:
        if own is None:
            del model.__dict__["forward"]
        else:
            model.__dict__["forward"] = own


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _quantize_weights(network: QuantizedNetwork, policy: Mapping[str, LayerBits], scheme: Scheme) -> None:
    readers: dict[str, list[str]] = {}
    for operator in network.trace.operators:
        readers.setdefault(operator.weight, []).append(operator.spec.name)
    axes = {operator.weight: operator.axis for operator in reversed(network.trace.operators)}
    for name, layers in readers.items():
        parameter = tensor_of(network, name)
        quantizer = build_quantizer(scheme, policy[layers[0]].weight, shape=parameter.shape, axis=axes[name])
        if quantizer is None:
            continue
        quantizer.site = Site(Role.WEIGHT, name, tuple(layers), axes[name])
        quantizer.to(parameter.device)
        quantizer.calibrate(parameter)
        sources = [node for node in network.graph.nodes if node.op == "get_attr" and node.target == name]
        _insert(network, sources[0], quantizer)


def _quantize_activations(network: QuantizedNetwork, policy: Mapping[str, LayerBits], scheme: Scheme) -> None:
    nodes = {node.name: node for node in network.graph.nodes}
    readers: dict[str, list[str]] = {}
    for operator in network.trace.operators:
        readers.setdefault(operator.tensor, []).append(operator.spec.name)
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    bits = {layer.activation_tie: policy[layer.name].activation for layer in network.layers}
    for tie, members in network.trace.ties.items():
        for name in members:
            quantizer = build_quantizer(scheme, bits[tie])
            if quantizer is None:
                break
            quantizer.site = Site(Role.ACTIVATION, name, tuple(readers.get(name, ())))
            _insert(network, nodes[name], quantizer.to(device))


def _insert(network: QuantizedNetwork, node: Node, quantizer: TensorQuantizer) -> None:
    """Put a quantizer on a node's result, for all its readers."""
    site = cast(Site, quantizer.site)
    target = f"quantizers.{site.role}/{site.tensor.replace('.', '/')}"
    network.add_submodule(target, quantizer)
    after = node
    while after.next.op == "placeholder":  # inputs have to come first
        after = after.next
    with network.graph.inserting_after(after):
        quantized_node = network.graph.call_module(target, (node,))
    quantized_node.meta["val"] = node.meta.get("val")
    node.replace_all_uses_with(
        quantized_node, delete_user_cb=lambda user: user is not quantized_node and op(user) is not aten.sym_size
    )
