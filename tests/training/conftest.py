from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mobo_mpq.graph import Network
from mobo_mpq.training.data import first_inputs
from mobo_mpq.training.losses import default_loss
from mobo_mpq.training.recipes import TrainingContext


class Rings(nn.Module):
    """Tells rings around the origin apart: two hidden layers, which low bits hurt."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 24)
        self.second = nn.Linear(24, 24)
        self.last = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 2) -> (batch, 3)
        logits: Tensor = self.last(torch.relu(self.second(torch.relu(self.first(x)))))
        return logits


def rings(samples: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, 2, generator=generator) * 2 - 1
    return TensorDataset(x, (x.norm(dim=1) * 3).long().clamp(max=2))


@pytest.fixture(scope="session")
def trained() -> TrainingContext:
    """A trained float network and its data."""
    train = DataLoader(rings(512, 0), batch_size=32, shuffle=True, generator=torch.Generator())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Rings()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(40):
            for x, y in train:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    calibration = first_inputs(train, 4, seed=0)
    network = Network.from_model(model, calibration[0])
    return TrainingContext(network, train, default_loss, calibration)


@pytest.fixture
def context(trained: TrainingContext) -> Callable[..., TrainingContext]:
    """The trained context, parts of it replaced."""
    return lambda **changes: replace(trained, **changes)


@pytest.fixture(scope="session")
def test_split() -> tuple[Tensor, Tensor]:
    """Inputs and classes that training has not seen."""
    x, y = rings(2000, 1).tensors
    return x, y
