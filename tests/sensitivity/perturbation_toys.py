"""Small networks to perturb, and what their tables are held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mobo_mpq.graph import Network, call
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import Policy
from mobo_mpq.quant.base import Role
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, calibrate, quantizers
from mobo_mpq.sensitivity import SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.divergence import Divergence

Batches = list[tuple[Tensor, Tensor]]
CHOICES = (2, 4, 8)


class Chain(nn.Module):
    """Two layers, the first of which may be cut off from the output."""

    def __init__(self, through: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x) + self.through * torch.relu(self.first(x)).sum(1, keepdim=True) * torch.ones(4).cumsum(0)


class Shared(nn.Module):
    """One input for two layers, and one weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.head.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.left(x)) + torch.tanh(self.right(x)))


def made(model: nn.Module, width: int = 6, rows: int = 64) -> tuple[Network, Batches]:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(rows, width)
    network = Network.from_model(model.eval(), x)
    return network, [(x[:40], torch.zeros(40, dtype=torch.long)), (x[40:], torch.zeros(rows - 40, dtype=torch.long))]


def space_of(network: Network, **options: Any) -> SearchSpace:
    bits: dict[str, Any] = {"weight_bits": CHOICES, "activation_bits": CHOICES}
    return SearchSpace.from_layers(network.layers, load_target("mpic"), **(bits | options))


def entry(table: SensitivityTable, space: SearchSpace, policy: Policy) -> float:
    """The prediction for a policy: the sum over its layers."""
    columns = [tuple(option) for option in space.options]
    return float(sum(table.values[i, columns.index(tuple(policy[name]))] for i, name in enumerate(space.names)))


def alone(space: SearchSpace) -> list[tuple[str, str, int, Policy]]:
    """Every variable at each of its levels but the highest, all others at their highest."""
    found = []
    for column, variable in enumerate(space.variables):
        for level, bits in enumerate(variable.choices[:-1]):
            levels = space.sizes - 1
            levels[column] = level
            found.append((variable.name, variable.role, bits, space.to_policies(levels)[0]))
    return found


def naive(
    network: Network, policy: Policy, batches: Batches, compared: Batches, like: QuantizedNetwork | None = None
) -> float:
    """Divergence of a policy's own network; ``like`` gives the ranges of the activations that have as many bits."""
    quantized = apply_policy(network, policy)
    calibrate(quantized, [x for x, _ in batches])
    if like is not None:
        mine, theirs = quantizers(quantized), quantizers(like)
        for name, quantizer in mine.items():
            if quantizer.site is not None and quantizer.site.role is Role.ACTIVATION:
                assert quantizer.bits == theirs[name].bits
                quantizer.load_state_dict(theirs[name].state_dict())
    divergence = Divergence(network, compared)
    with divergence.recorded(quantized) as tally, torch.no_grad():
        for x, _ in compared:
            call(quantized, x)
    assert tally.mean is not None
    return tally.mean
