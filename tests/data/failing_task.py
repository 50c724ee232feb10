"""Tasks that go wrong in the ways in which users' tasks do, and one that tells on its workers."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from toy_task import Toy  # noqa: E402


def quantized(model):
    return hasattr(model, "policy")


class NanWhenQuantized(Toy):
    def metric(self, model, loader):
        return float("nan") if quantized(model) else super().metric(model, loader)


class NanAlways(Toy):
    def metric(self, model, loader):
        return float("nan")


class Raises(Toy):
    def metric(self, model, loader):
        raise RuntimeError("the disk is on fire")


class SometimesRaises(Toy):
    """Fails on policies with two-bit weights in the last layer."""

    def metric(self, model, loader):
        if quantized(model) and model.policy["5"].weight == 2:
            raise RuntimeError("two bits are too few")
        return super().metric(model, loader)


class BadLoss(Toy):
    """A loss that does not fit the data, found only when something is trained."""

    def loss(self, output, target):
        return {}["no such key"]


class TellsWhere(Toy):
    """Writes down which process measured a quantized network."""

    def metric(self, model, loader):
        if quantized(model):
            with open(os.environ["TOY_WORKERS"], "a") as file:
                file.write(f"{os.getpid()}\n")
        return super().metric(model, loader)


class NoMetric:
    metric_name, direction, train, val = "accuracy", "maximize", [1], [1]

    def model(self):
        return Toy().model()
