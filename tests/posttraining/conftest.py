"""Small networks with what post-training steps have to cope with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.graph import Network


class Separable(nn.Module):
    """Convolutions with batch norms, a depthwise one among them, a skip, and a classifier without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.ReLU())
        self.pointwise = nn.Conv2d(6, 6, 1, bias=False)
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 2, 8, 8) -> (batch, 4)
        x = self.stem(x)
        x = x + self.pointwise(self.depthwise(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture
def batches() -> list[Tensor]:
    """Inputs that are not centred."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(16, 2, 8, 8, generator=generator) + 0.5 for _ in range(3)]


@pytest.fixture
def network(batches: list[Tensor]) -> Network:
    """In float, with batch norms that have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Separable()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
    model.train()
    with torch.no_grad():
        for x in batches * 10:
            model(x)
    return Network.from_model(model.eval(), batches[0])


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.relu(self.layer(x)))
        return y


@pytest.fixture
def twice() -> nn.Module:
    """One weight and one bias, of two layers."""
    return Twice()
