"""Operators that know the scale of their gradients: they take the place of others in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from mobo_mpq.layers import LayerSpec
from mobo_mpq.training.half.ledger import Carried, Ledger, Tally
from mobo_mpq.training.half.rule import Spread, common_scale, layer_scale


class ScaledLayer(nn.Module):
    """A convolution or product with a stored weight.

    The gradient of its input is computed from the enlarged gradient of its output; those of its parameters from the one
    that arrives, and they leave in float32, without a scale.

    On the CPU operands and results are float16, too, but multiplied by the kernels of float32: those for float16 are
    ten times slower there. Sums are in float32 either way, as in a GPU's tensor cores.

    Args:
        function: the operator.
        place: of the input, among the leaves of the operator's arguments.
        spec: the layer.
        ledger: of the network.
        above: scale of the gradient of the output.
    """

    def __init__(
        self, function: Callable[..., Tensor], place: int, spec: LayerSpec, ledger: Ledger, above: Carried
    ) -> None:
        super().__init__()
        self.function, self.place, self.ledger, self.above = function, place, ledger, above
        self.below = Carried()
        self.tally = ledger.tallies.setdefault(spec.name, Tally())
        out, _, *kernel = spec.weight_shape
        self.fan_in = torch.Size(kernel).numel() * out // spec.groups
        self.factor = 1.0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the operator, of arguments in any floating type."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        held = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and i != self.place]
        places = (self.place, *held)

        def call(*tensors: Tensor) -> Tensor:
            filled = dict(zip(places, tensors, strict=True))
            found = [filled.get(i, leaf) for i, leaf in enumerate(leaves)]
            positional, named = pytree.tree_unflatten(found, structure)
            return self.function(*positional, **named)

        result: Tensor = _Product.apply(self, call, *(leaves[i] for i in places))
        return result

    def choose(self, gradient: Tensor, weight: Tensor) -> float:
        """The factor on the gradient for this backward pass."""
        if self.ledger.adaptive and self.ledger.fresh:
            self.factor = layer_scale(Spread.of(gradient), Spread.of(weight), self.fan_in, self.above.scale)
        return self.factor


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: ScaledLayer, call: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        narrow, device = layer.ledger.dtype, tensors[0].device.type
        wide = torch.float32 if device == "cpu" else narrow
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            operands = [tensor.detach().to(narrow).to(wide) for tensor in tensors]
            for operand, needed in zip(operands, ctx.needs_input_grad[2:], strict=True):
                operand.requires_grad_(needed)
            output = call(*operands)
        ctx.layer, ctx.call, ctx.operands, ctx.output = layer, call, operands, output
        return output.detach().to(narrow)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        layer, carried = ctx.layer, ctx.layer.above.scale
        parameters = [operand for operand in ctx.operands[1:] if operand.requires_grad]
        arrived = gradient.to(ctx.output.dtype)
        found = torch.autograd.grad(ctx.output, parameters, arrived, retain_graph=True) if parameters else ()
        narrowed = iter([one.to(layer.ledger.dtype).float() / carried for one in found])
        of_parameters = [next(narrowed) if operand.requires_grad else None for operand in ctx.operands[1:]]
        if layer.ledger.counting:
            layer.tally.receive(gradient)
        of_input = _pass_on(ctx, gradient) if ctx.operands[0].requires_grad else None
        return None, None, of_input, *of_parameters


def _pass_on(ctx: Any, gradient: Tensor) -> Tensor:
    """The gradient of a layer's input, from the enlarged one of its output."""
    layer, source = ctx.layer, ctx.operands[0]
    weight = max(ctx.operands[1:], key=lambda operand: operand.ndim)
    factor = layer.choose(gradient, weight)
    enlarged = gradient * factor
    (wide,) = torch.autograd.grad(ctx.output, source, enlarged.to(ctx.output.dtype))
    narrow: Tensor = wide.to(layer.ledger.dtype)
    layer.below.scale = layer.above.scale * factor
    if layer.ledger.counting:
        exact = wide if wide.dtype is torch.float32 else _in_float32(ctx, enlarged)
        layer.tally.pass_on(narrow, exact, layer.below.scale)
    return narrow


def _in_float32(ctx: Any, enlarged: Tensor) -> Tensor:
    with torch.enable_grad():
        operands = [operand.detach().float() for operand in ctx.operands]
        output = ctx.call(operands[0].requires_grad_(), *operands[1:])
    (exact,) = torch.autograd.grad(output, operands[0], enlarged.float())
    return exact


class Meet(nn.Module):
    """Passes on tensors whose gradients are added, and brings these to one scale first.

    Args:
        ledger: of the network.
        above: scales of the gradients that come back, in the order of the tensors.
    """

    def __init__(self, ledger: Ledger, above: list[Carried]) -> None:
        super().__init__()
        self.ledger, self.above = ledger, above
        self.below = Carried()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The same tensors."""
        result: tuple[Tensor, ...] = _Meet.apply(self, *tensors)
        return result

    def choose(self, gradients: list[Tensor], scales: list[float]) -> float:
        """The common scale for this backward pass."""
        if not self.ledger.adaptive:
            return max(scales)  # all are that of the loss
        if self.ledger.fresh:
            self.below.scale = common_scale([Spread.of(gradient) for gradient in gradients], scales)
        return self.below.scale


class _Meet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, meet: Meet, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.meet = meet
        ctx.set_materialize_grads(False)  # what the loss does not depend on has no scale
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        meet: Meet = ctx.meet
        pairs = [(one, carried.scale) for one, carried in zip(gradients, meet.above, strict=True) if one is not None]
        common = meet.choose([one for one, _ in pairs], [scale for _, scale in pairs]) if pairs else 1.0
        meet.below.scale = common
        return None, *(
            None if one is None else one * (common / carried.scale)
            for one, carried in zip(gradients, meet.above, strict=True)
        )


class Outlet(nn.Module):
    """Passes on what a loss reads, in float32; its gradient is multiplied by the scale of the loss.

    Adaptive scales begin here: the way into float16 counts as a layer whose weight is 1. The paper leaves it to the
    scale of the loss, but what vanishes here cannot be brought back.

    Args:
        ledger: of the network.
    """

    _UNIT = Spread(1.0, 1.0)

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.below = Carried()
        self.factor = 1.0

    def forward(self, tensor: Tensor) -> Tensor:
        """The same numbers."""
        result: Tensor = _Outlet.apply(tensor.float(), self)
        return result

    def choose(self, gradient: Tensor) -> float:
        """The scale of the gradient for this backward pass."""
        if self.ledger.adaptive and self.ledger.fresh:
            enlarged = Spread.of(gradient).times(self.ledger.loss_scale)
            self.factor = layer_scale(enlarged, self._UNIT, 1, self.ledger.loss_scale)
        self.below.scale = self.ledger.loss_scale * self.factor
        return self.below.scale


class _Outlet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, outlet: Outlet) -> Tensor:
        ctx.outlet = outlet
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        ledger, scale = ctx.outlet.ledger, ctx.outlet.choose(gradient)
        enlarged = gradient * scale
        if ledger.counting:
            ledger.outlets.pass_on(enlarged.to(ledger.dtype), enlarged, scale)
        return enlarged, None


class Unscaled(nn.Module):
    """Passes on a parameter that an operator reads; its gradient leaves without the operator's scale.

    Args:
        above: scale of the gradient of the operator's result.
    """

    def __init__(self, above: Carried) -> None:
        super().__init__()
        self.above = above

    def forward(self, tensor: Tensor) -> Tensor:
        """The same tensor."""
        return _times(tensor, self.above, inverse=True)


class InFloat32(nn.Module):
    """A module with parameters of its own, a quantizer, that computes in float32 and sees gradients without a scale.

    Args:
        module: of one tensor.
        above: scale of the gradient of its result, and of what it passes on.
    """

    def __init__(self, module: nn.Module, above: Carried) -> None:
        super().__init__()
        self.module, self.above = module, above

    def forward(self, tensor: Tensor) -> Tensor:
        """As the module, in the type of ``tensor``."""
        with torch.autocast(tensor.device.type, enabled=False):
            result = self.module(_times(tensor.float(), self.above, inverse=False))
        return _times(result, self.above, inverse=True).to(tensor.dtype)


def _times(tensor: Tensor, carried: Carried, *, inverse: bool) -> Tensor:
    result: Tensor = _Times.apply(tensor, carried, inverse)
    return result


class _Times(torch.autograd.Function):
    """Nothing forwards; the gradient is multiplied by a scale, or divided by it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, carried: Carried, inverse: bool) -> Tensor:
        ctx.carried, ctx.inverse = carried, inverse
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        scale = ctx.carried.scale
        return gradient / scale if ctx.inverse else gradient * scale, None, None
