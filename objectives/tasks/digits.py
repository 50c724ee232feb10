"""Handwritten digits: small enough for a laptop, hard enough that bits matter.

The 1797 images of scikit-learn's ``load_digits`` (UCI Optical Recognition of Handwritten Digits, Alpaydin and Kaynak
1998) are enlarged to 16 x 16, shifted and covered with noise. They are split by image before anything is drawn, so no
image is seen in two splits. The validation and test splits hold every image several times, shifted and covered
differently: this makes one point of accuracy more than noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from mobo_mpq.objectives.tasks import cache, fitting
from mobo_mpq.objectives.tasks.bootstrap import grouped_mean, standard_error
from mobo_mpq.seeding import derive, rng
from mobo_mpq.training.isolation import isolated

SIDE = 16
CLASSES = 10


@dataclass(frozen=True, slots=True)
class Config:
    """What the data and the float network depend on.

    Attributes:
        channels: of the first stage; the second has twice as many.
        shift: largest displacement in pixels, along both axes.
        noise: standard deviation of the noise, where white is 1.
        train_copies: augmentations of a training image, in the loader that fine-tunes use.
        eval_copies: augmentations of a validation or test image.
        batch_size: of training.
        epochs: of the float network; each sees fresh augmentations.
        learning_rate: of the float network, at its peak.
        seed: of everything.
    """

    channels: int = 16
    shift: int = 2
    noise: float = 0.2
    train_copies: int = 8
    eval_copies: int = 4
    batch_size: int = 64
    epochs: int = 20
    learning_rate: float = 0.01
    seed: int = 0


def _unit(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())


class Separable(nn.Module):
    """Depthwise 3 x 3, then pointwise convolution (Howard et al. 2017), with a skip where the shapes allow one."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = _unit(nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False))
        self.pointwise = _unit(nn.Conv2d(inputs, outputs, 1, bias=False))
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:  # (batch, inputs, height, width)
        """Filter each channel, then mix them."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return x + y if self.residual else y


class DigitsNet(nn.Module):
    """Eight quantizable layers: a stem, three separable blocks of two, and a classifier."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = _unit(nn.Conv2d(1, channels, 3, padding=1, bias=False))
        self.block1 = Separable(channels, channels)
        self.block2 = Separable(channels, 2 * channels, stride=2)
        self.block3 = Separable(2 * channels, 2 * channels)
        self.classifier = nn.Linear(2 * channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # (batch, 1, 16, 16) -> (batch, 10)
        """Logits of the ten digits."""
        x = self.block3(self.block2(self.block1(self.stem(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


@lru_cache(maxsize=1)
def _images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:  # (1797, 16, 16) in [0, 1]; (1797,)
    pixels, labels = load_digits(return_X_y=True)
    small = torch.tensor(pixels.reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
    large = F.interpolate(small, size=SIDE, mode="bilinear", align_corners=False)
    return large[:, 0].numpy(), labels.astype(np.int64)


def split_images(seed: int) -> dict[str, NDArray[np.int64]]:
    """Indices of the base images: 60 % train, 20 % val, 20 % test, the digits in equal shares."""
    _, labels = _images()
    rest, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=seed)
    train, val = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=seed)
    return {"train": train, "val": val, "test": test}


def augment(indices: NDArray[np.int64], copies: int, config: Config, *labels: str | int) -> tuple[Tensor, Tensor]:
    """Shifted and noisy copies of base images, the copies of one image side by side.

    Args:
        indices: of the base images, n of them.
        copies: per image.
        config: shift, noise and seed.
        labels: name the random stream.

    Returns:
        ``(n * copies, 1, 16, 16)`` in [0, 1], and ``(n * copies,)`` classes.
    """
    images, classes = _images()
    stream, reach = rng(config.seed, "digits", *labels), config.shift
    chosen = np.repeat(indices, copies)
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    down, right = stream.integers(0, 2 * reach + 1, size=(2, len(chosen)))
    window = np.arange(SIDE)
    rows, columns = (down[:, None] + window)[:, :, None], (right[:, None] + window)[:, None, :]
    moved = padded[chosen[:, None, None], rows, columns]
    noisy = np.clip(moved + stream.normal(0.0, config.noise, size=moved.shape), 0.0, 1.0)
    return torch.tensor(noisy[:, None], dtype=torch.float32), torch.tensor(classes[chosen])


class Digits:
    """The task ``digits``: accuracy of a depthwise-separable residual network, in [0, 1].

    Another network on the same data is a subclass with a ``name``, ``sources`` and :meth:`network` of its own.

    Attributes:
        name: under which trained weights are kept.
        sources: files that trained weights depend on.
    """

    metric_name = "accuracy"
    direction = "maximize"
    name: ClassVar[str] = "digits"
    sources: ClassVar[tuple[str, ...]] = (__file__, fitting.__file__)

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self._split = split_images(self.config.seed)

    def _loader(self, split: str, copies: int, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        data = TensorDataset(*augment(self._split[split], copies, self.config, split))
        generator = torch.Generator().manual_seed(derive(self.config.seed, "digits", split, "order"))
        return DataLoader(data, batch_size=batch_size, shuffle=shuffle, generator=generator)

    @cached_property
    def train(self) -> DataLoader[Any]:
        """Batches for fine-tunes, in a new order on each pass."""
        return self._loader("train", self.config.train_copies, self.config.batch_size, shuffle=True)

    @cached_property
    def val(self) -> DataLoader[Any]:
        """What a search scores on."""
        return self._loader("val", self.config.eval_copies, 256)

    @cached_property
    def test(self) -> DataLoader[Any]:
        """What the Pareto set is scored on, once."""
        return self._loader("test", self.config.eval_copies, 256)

    def network(self) -> nn.Module:
        """The network with fresh weights, drawn from the global generator."""
        return DigitsNet(self.config.channels)

    def model(self) -> nn.Module:
        """The trained float network; trained on first use, in less than a minute on one thread."""
        key = cache.digest(asdict(self.config), *self.sources)
        state = cache.cached_state(self.name, key, self._train)
        with isolated(self.config.seed):
            network = self.network()
        network.load_state_dict(state)
        return network.eval()

    def _train(self) -> dict[str, Tensor]:
        config = self.config
        with isolated(derive(config.seed, "digits", "float"), threads=1):
            network = self.network()
            steps = config.epochs * (len(self._split["train"]) * config.train_copies // config.batch_size)
            fitting.fit(network, self._float_batches(), F.cross_entropy, steps, config.learning_rate)
        return network.state_dict()

    def _float_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        config = self.config
        for epoch in range(config.epochs):
            inputs, target = augment(self._split["train"], config.train_copies, config, "float", epoch)
            size = config.batch_size
            for rows in torch.randperm(len(inputs)).split(size)[: len(inputs) // size]:
                yield inputs[rows], target[rows]

    def metric(self, model: nn.Module, loader: Iterable[Any]) -> float:
        """Share of the images whose largest logit is that of their digit."""
        return float(_hits(model, loader).mean())

    def measure(self, model: nn.Module, loader: Iterable[Any]) -> tuple[float, float]:
        """Accuracy, and its standard error by bootstrap over base images, whose copies are not independent."""
        hits = _hits(model, loader)
        in_order = isinstance(getattr(loader, "sampler", None), SequentialSampler)
        copies = self.config.eval_copies if in_order and len(hits) % self.config.eval_copies == 0 else 1
        return float(hits.mean()), standard_error(grouped_mean(hits, copies))


@torch.no_grad()
def _hits(model: nn.Module, loader: Iterable[Any]) -> NDArray[np.float64]:  # (samples,)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    hits = [(model(x.to(device)).argmax(1).cpu() == y).double() for x, y in loader]
    return torch.cat(hits).numpy()
