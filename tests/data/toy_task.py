"""A user's task in thirty lines: a small CNN on scikit-learn's digits, trained in about a second."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Toy:
    metric_name = "accuracy"
    direction = "maximize"

    def __init__(self):
        x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
        x = (x.float() / 16).view(-1, 1, 8, 8)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        parts = [TensorDataset(x[part], y[part]) for part in order.split([1000, 400, 397])]
        self.train = DataLoader(parts[0], batch_size=100, shuffle=True)
        self.val, self.test = (DataLoader(part, batch_size=400) for part in parts[1:])

    def model(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(
                nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
                nn.Flatten(), nn.Linear(128, 10),
            )  # fmt: skip
            optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
            for _ in range(6):
                for x, y in self.train:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(net(x), y).backward()
                    optimizer.step()
        return net.eval()

    def metric(self, model, loader):
        return sum((model(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)
