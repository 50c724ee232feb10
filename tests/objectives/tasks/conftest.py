from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Task:
    metric_name = "accuracy"
    direction = "maximize"

    def __init__(self):
        data = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6) % 2)
        self.train = self.val = DataLoader(data, batch_size=4)

    def model(self):
        return nn.Linear(2, 2)

    def metric(self, model, loader):
        return 0.5


class Better(Task):
    pass


made = Task()


def factory():
    return Task()
"""


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    """Write a task file: a good one, with pieces replaced."""

    def write(*changes: tuple[str, str], name: str = "mine.py", source: str = GOOD) -> Path:
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        path = tmp_path / name
        path.write_text(source)
        return path

    return write
