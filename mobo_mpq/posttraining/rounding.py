"""Adaptive rounding: whether a weight goes up or down is learned from what the layer's outputs should be.

AdaRound, Nagel et al., ICML 2020, arXiv 2004.10568. Departures: inputs come from the quantized layers before, targets
from the float network (its section 4.3, without the activation function); the error is measured in units of that of
rounding to nearest, and without its mean per channel, which bias correction takes out; and a layer keeps rounding to
nearest where learning has not made the error smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from mobo_mpq.folding import tensor_of
from mobo_mpq.posttraining.layerwise import Layer
from mobo_mpq.quant.base import QParams, Quantizer
from mobo_mpq.quant.functional import expand

ZETA, GAMMA = 1.1, -0.1
"""Ends of the stretched sigmoid, so that a weight can reach either side for good."""


@dataclass(frozen=True)
class Rounding:
    """How rounding is learned.

    Attributes:
        steps: of Adam, for each layer.
        batch: samples of one step.
        learning_rate: of the rounding variables.
        strictness: weight of the term that drives the variables to 0 or 1, against the error.
        warmup: share of the steps before that term sets in.
        seed: of the samples.
    """

    steps: int = 300
    batch: int = 32
    learning_rate: float = 0.01
    strictness: float = 10.0
    warmup: float = 0.2
    seed: int = 0


def round_adaptively(layer: Layer, options: Rounding) -> bool:
    """Replace a layer's weight by one on its grid, rounded to serve the layer's outputs.

    Layers whose weight is shared, in float, or not the operand itself stay as they are.

    Returns:
        Whether the weight was changed.
    """
    source = layer.node.args[1] if len(layer.node.args) > 1 else None
    quantizer = _quantizer(layer, source)
    if quantizer is None:
        return False
    weight = tensor_of(layer.network, layer.operator.weight)
    problem = _Problem(layer, quantizer.qparams(), weight.detach())
    candidate = problem.solve(options)
    with torch.no_grad():
        nearest = problem.grid(problem.nearest)
        if problem.error(candidate) >= problem.error(nearest):
            return False
        weight.copy_(candidate)
        layer.walk.replace(layer.node, [problem.output(inputs, candidate) for inputs in problem.inputs])
    return True


def _quantizer(layer: Layer, source: object) -> Quantizer | None:
    if not isinstance(source, Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    module = layer.network.get_submodule(str(source.target))
    return module if isinstance(module, Quantizer) else None


class _Problem:
    """One layer: inputs, targets, and the integers below its weights."""

    def __init__(self, layer: Layer, grid: QParams, weight: Tensor) -> None:
        self.node, self.axis = layer.node, layer.axis
        inputs = layer.node.args[0]
        assert isinstance(inputs, Node), "a layer reads a tensor"
        self.inputs, self.targets = layer.walk.values(inputs), layer.targets
        self.rest = [layer.walk.values(a)[0].detach() if isinstance(a, Node) else a for a in layer.node.args[2:]]
        self.qmin, self.qmax = grid.qmin, grid.qmax
        self.scale = expand(grid.scale.detach(), grid.axis, weight.ndim)
        self.zero = expand(grid.zero_point, grid.axis, weight.ndim).to(weight.dtype)
        steps = weight / self.scale
        self.floor = torch.floor(steps)
        self.fraction = steps - self.floor
        self.nearest = torch.round(self.fraction)

    def grid(self, up: Tensor) -> Tensor:
        """Weights on the grid; ``up`` is 0 for the integer below, 1 for the one above, or between."""
        integers = torch.clamp(self.floor + self.zero + up, self.qmin, self.qmax)
        return self.scale * (integers - self.zero)

    def output(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """What the layer makes of its inputs with another weight."""
        assert callable(self.node.target)
        result: Tensor = self.node.target(inputs, weight, *self.rest, **self.node.kwargs)
        return result

    def error(self, weight: Tensor) -> float:
        """Variance of the error over all batches, channel by channel, summed."""
        errors = [self.output(x, weight) - y for x, y in zip(self.inputs, self.targets, strict=True)]
        return float(_variance(torch.cat([_rows(error, self.axis) for error in errors], 1)))

    def solve(self, options: Rounding) -> Tensor:
        """Learn the rounding variables, and round them."""
        with torch.no_grad():
            unit = max(self.error(self.grid(self.nearest)), torch.finfo(torch.float32).tiny)
        start = ((self.fraction - GAMMA) / (ZETA - GAMMA)).clamp(1e-4, 1 - 1e-4)
        logits = torch.logit(start).requires_grad_(True)
        optimizer = torch.optim.Adam([logits], lr=options.learning_rate)
        generator = torch.Generator().manual_seed(options.seed)
        for step in range(options.steps):
            up = _gate(logits)
            x, y = self._sample(options.batch, generator)
            loss = _variance(_rows(self.output(x, self.grid(up)) - y, self.axis)) / unit
            done = (step / options.steps - options.warmup) / (1 - options.warmup)
            if done > 0:
                sharpness = 20.0 + (2.0 - 20.0) * done
                loss = loss + options.strictness * (1 - (2 * up - 1).abs().pow(sharpness)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return self.grid((_gate(logits) >= 0.5).to(logits.dtype)).detach()

    def _sample(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = int(torch.randint(len(self.inputs), (), generator=generator))
        x, y = self.inputs[index], self.targets[index]
        rows = torch.randperm(len(x), generator=generator)[:size].to(x.device)
        return x[rows], y[rows]


def _gate(logits: Tensor) -> Tensor:
    return (torch.sigmoid(logits) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def _rows(error: Tensor, axis: int) -> Tensor:  # channels x samples
    return error.movedim(axis, 0).reshape(error.shape[axis], -1)


def _variance(rows: Tensor) -> Tensor:
    return (rows - rows.mean(1, keepdim=True)).square().mean(1).sum()
