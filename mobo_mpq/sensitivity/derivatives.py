"""Derivatives of a task's loss with respect to single tensors of a network: weights, and the inputs of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mobo_mpq.digests import add_values
from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network, call
from mobo_mpq.sensitivity.assembly import Setting, above_highest, all_finite
from mobo_mpq.sensitivity.bench import Bench
from mobo_mpq.training.data import accepted_by, device_of, logits_of, split_batch, to_device
from mobo_mpq.training.losses import Loss


class Derivatives:
    """The loss of the float network as a function of shifts of its tensors.

    A shift of 0 is added to every tensor that some free variable quantizes, and the loss is differentiated with respect
    to these shifts: so weights and activations are treated alike.

    Args:
        bench: calibrated.
        loss: of the network's output and the target; a mean over the samples of a batch.
    """

    def __init__(self, bench: Bench, loss: Loss) -> None:
        self.bench, self.loss = bench, loss
        self.names = tuple(dict.fromkeys(n for v in bench.space.variables for n in bench.slots_of(v)))
        """Names of the slots."""
        self._accepted, self._device = set(bench.network.example[1]), device_of(bench.network)
        for node in bench.network.graph.nodes:  # attention without a fused kernel lays its result out in another way
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        bench.network.recompile()

    def gradients(self, batch: Any, *, twice: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Shifts, and the gradient of the loss with respect to each: zeros where it does not reach the loss.

        Args:
            batch: as a loader yields it.
            twice: whether the gradients can be differentiated again.

        Raises:
            InputError: when the loss cannot be computed or differentiated.
        """
        inputs, target = split_batch(to_device(batch, self._device))
        fused = nullcontext() if not twice else sdpa_kernel(SDPBackend.MATH)  # the others can be derived once only
        with torch.enable_grad(), fused, self._shifted() as shifts:
            value = self.loss(call(self.bench.network, accepted_by(inputs, self._accepted)), target)
            given = [shifts[name] for name in self.names]
            gradients = differentiate(value, given, twice=twice)
        return given, gradients

    def settings(self, weight_of_slot: Mapping[str, float]) -> dict[Setting, float]:
        """Squared errors of each variable at its choices above those of its highest, weighted tensor by tensor."""
        bench = self.bench
        totals = {
            (variable, bits): sum(weight_of_slot[name] * bench.error(name, bits) for name in bench.slots_of(variable))
            for variable in bench.space.variables
            for bits in variable.choices
        }
        if not all_finite(totals.values()):
            variable = next(key[0] for key, value in totals.items() if not all_finite([value]))
            raise InputError(
                f"the derivatives of the loss at '{variable.layers[0]}' are not finite: the network's outputs, or the "
                "loss, hold NaN or infinity; check the model and its input, or search with --no-sensitivity"
            )
        return above_highest(totals)

    @contextmanager
    def _shifted(self) -> Iterator[dict[str, Tensor]]:
        shifts: dict[str, Tensor] = {}

        def shift(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            def add(_: nn.Module, __: Any, output: Tensor) -> Tensor:
                shifts[name] = torch.zeros_like(output, requires_grad=True)
                return output.detach() + shifts[name] if name in weights else output + shifts[name]

            return add

        weights = {name for name, slot in self.bench.slots.items() if slot.parameter is not None}
        with self.bench.in_float(), ExitStack() as hooks:
            for name in self.names:
                hooks.callback(self.bench.slots[name].register_forward_hook(shift(name)).remove)
            yield shifts


def differentiate(value: Tensor, inputs: Sequence[Tensor], *, twice: bool = False) -> list[Tensor]:
    """Gradients of a scalar; zeros where an input does not reach it.

    Raises:
        InputError: when ``value`` is no differentiable scalar.
    """
    order = "twice" if twice else "once"
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the loss of a batch is {shape}; expected a tensor with one number: mend the task's 'loss'")
    if not value.requires_grad:
        raise InputError(
            "the loss does not depend on the network's tensors in a way that can be differentiated; return a loss that "
            "was computed from the output by torch, or measure --sensitivity-kind perturbation"
        )
    try:
        found = torch.autograd.grad(value, inputs, create_graph=twice, allow_unused=True)
    except RuntimeError as error:
        raise _not_differentiable(order, error) from error
    return [torch.zeros_like(one) if g is None else g for one, g in zip(inputs, found, strict=True)]


def product(gradients: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """The Hessian times a vector: the gradient of the gradients' product with it; the graph stays.

    Raises:
        InputError: when an operation has no second derivative.
    """
    reaching = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g.requires_grad]
    if not reaching:
        return [torch.zeros_like(one) for one in inputs]
    try:
        found = torch.autograd.grad(
            [g for g, _ in reaching], inputs, [v for _, v in reaching], retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        raise _not_differentiable("twice", error) from error
    return [torch.zeros_like(one) if h is None else h for one, h in zip(inputs, found, strict=True)]


def behaviour(network: Network, loss: Loss, batches: Sequence[Any]) -> str:
    """A digest of what a loss does on samples: its values, and its gradients with respect to the predictions.

    A loss is code, which has no digest of its own.
    """
    digest = hashlib.sha256()
    names, device = set(network.example[1]), device_of(network)
    for batch in batches:
        inputs, target = split_batch(to_device(batch, device))
        with torch.no_grad():
            output = call(network, accepted_by(inputs, names))
        logits = logits_of(output)
        if not logits.is_floating_point() or not isinstance(output, Tensor):
            add_values(digest, [_value(loss(output, target))])
            continue
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            value = loss(leaf, target)
            slope = differentiate(value, [leaf])
        add_values(digest, [_value(value), *slope])
    return digest.hexdigest()


def _value(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _not_differentiable(order: str, error: RuntimeError) -> InputError:
    reason = (str(error).strip() or "RuntimeError").splitlines()[0]
    kinds = "perturbation or fisher" if order == "twice" else "perturbation"
    return InputError(
        f"the loss cannot be differentiated {order}: {reason}; measure --sensitivity-kind {kinds} instead"
    )
