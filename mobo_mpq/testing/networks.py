"""Networks of the literature, in a few lines each: for counts that were published, and to measure on.

Weights are random; :func:`traced` needs none. All but :func:`tfc` and :func:`cnv` take images of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from mobo_mpq.operators import Trace
from mobo_mpq.tracing import trace

Stages = Sequence[tuple[int, int, int, int]]
"""Expansion, output channels, blocks and stride of each stage of inverted residuals."""

MOBILENET_V2: Stages = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
SMALL_MOBILENET_V2: Stages = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2))
"""For images of 8 to 32 pixels, behind a stem of stride 1."""


@lru_cache(maxsize=16)
def traced(network: Callable[[], nn.Module], *image: int) -> Trace:
    """Layers of a network for an image (channels, height, width), without memory for its weights.

    >>> traced(mobilenet_v2, 3, 224, 224).macs
    300774272
    """
    with torch.device("meta"):
        return trace(network(), torch.empty(2, *image))


class Conv(nn.Sequential):
    """A convolution that keeps the size, or divides it by its stride; batch norm; and a rectifier, or none."""

    def __init__(
        self,
        cin: int,
        cout: int,
        size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        rectifier: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        layers = [nn.Conv2d(cin, cout, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)]
        super().__init__(*layers, *([] if rectifier is None else [rectifier()]))


class Classifier(nn.Module):
    """Features, their average over the image, and one linear layer."""

    def __init__(self, features: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n x channels x height x width) to scores (n x classes)."""
        scores: Tensor = self.fc(self.features(x).mean((2, 3)))
        return scores


class Residual(nn.Module):
    """A body whose input is added to its output, through a 1x1 convolution where shapes differ, and a rectifier."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, *, rectified: bool = True) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self.rectifier = nn.ReLU() if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """As the body."""
        skip = x if self.shortcut is None else self.shortcut(x)
        result: Tensor = self.rectifier(self.body(x) + skip)
        return result


def _basic(cin: int, cout: int, stride: int) -> Residual:
    body = nn.Sequential(Conv(cin, cout, 3, stride), Conv(cout, cout, 3, rectifier=None))
    plain = stride == 1 and cin == cout
    return Residual(body, None if plain else Conv(cin, cout, 1, stride, rectifier=None))


def _bottleneck(cin: int, cout: int, stride: int, *, stride_first: bool) -> Residual:
    inner, strides = cout // 4, (stride, 1) if stride_first else (1, stride)
    body = nn.Sequential(
        Conv(cin, inner, 1, strides[0]), Conv(inner, inner, 3, strides[1]), Conv(inner, cout, 1, rectifier=None)
    )
    plain = stride == 1 and cin == cout
    return Residual(body, None if plain else Conv(cin, cout, 1, stride, rectifier=None))


def resnet18(classes: int = 1000) -> Classifier:
    """ResNet-18 (He et al., CVPR 2016)."""
    features = nn.Sequential(Conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    cin = 64
    for stage, cout in enumerate((64, 128, 256, 512)):
        for block in range(2):
            features.append(_basic(cin, cout, 2 if stage and not block else 1))
            cin = cout
    return Classifier(features, cin, classes)


def resnet50(classes: int = 1000, *, stride_first: bool = False) -> Classifier:
    """ResNet-50 (He et al., CVPR 2016).

    Args:
        classes: of images.
        stride_first: whether the first 1x1 convolution of a stage has its stride, as in the paper (v1); otherwise the
            3x3 convolution has it, as in today's libraries (v1.5).
    """
    features = nn.Sequential(Conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    cin = 64
    for stage, (cout, blocks) in enumerate(((256, 3), (512, 4), (1024, 6), (2048, 3))):
        for block in range(blocks):
            features.append(_bottleneck(cin, cout, 2 if stage and not block else 1, stride_first=stride_first))
            cin = cout
    return Classifier(features, cin, classes)


def resnet20(classes: int = 10, *, channels: int = 3, width: int = 16, stem_stride: int = 1) -> Classifier:
    """The ResNet-20 for small images of He et al., CVPR 2016, with 1x1 convolutions as shortcuts; 0.27 M weights.

    Args:
        classes: of images.
        channels: of images.
        width: channels of the first stage; the second and third have two and four times as many.
        stem_stride: of the first convolution, 1 in the paper.
    """
    features = nn.Sequential(Conv(channels, width, stride=stem_stride))
    cin = width
    for stage in range(3):
        for block in range(3):
            features.append(_basic(cin, width << stage, 2 if stage and not block else 1))
            cin = width << stage
    return Classifier(features, cin, classes)


def mobilenet_v1(classes: int = 1000, *, width: float = 1.0) -> Classifier:
    """MobileNet (Howard et al., arXiv 1704.04861)."""
    cin = int(32 * width)
    features = nn.Sequential(Conv(3, cin, 3, 2))
    for cout, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ):
        cout = int(cout * width)
        features.append(nn.Sequential(Conv(cin, cin, 3, stride, groups=cin), Conv(cin, cout, 1)))
        cin = cout
    return Classifier(features, cin, classes)


def _eights(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and at least 90 % of ``channels``."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _inverted(cin: int, cout: int, expansion: int, stride: int) -> nn.Module:
    inner = cin * expansion
    layers = [] if expansion == 1 else [Conv(cin, inner, 1, rectifier=nn.ReLU6)]
    body = nn.Sequential(
        *layers, Conv(inner, inner, 3, stride, groups=inner, rectifier=nn.ReLU6), Conv(inner, cout, 1, rectifier=None)
    )
    return Residual(body, rectified=False) if stride == 1 and cin == cout else body


def mobilenet_v2(
    classes: int = 1000,
    *,
    width: float = 1.0,
    channels: int = 3,
    stages: Stages = MOBILENET_V2,
    stem_stride: int = 2,
    head: int = 1280,
) -> Classifier:
    """MobileNetV2 (Sandler et al., CVPR 2018).

    Args:
        classes: of images.
        width: multiplier of the channels.
        channels: of images.
        stages: of inverted residuals.
        stem_stride: of the first convolution.
        head: channels of the last convolution; a width above 1 multiplies them.
    """
    cin = _eights(32 * width)
    features = nn.Sequential(Conv(channels, cin, 3, stem_stride, rectifier=nn.ReLU6))
    for expansion, cout, blocks, stride in stages:
        for block in range(blocks):
            features.append(_inverted(cin, _eights(cout * width), expansion, 1 if block else stride))
            cin = _eights(cout * width)
    last = _eights(head * max(1.0, width))
    return Classifier(features.append(Conv(cin, last, 1, rectifier=nn.ReLU6)), last, classes)


def small_mobilenet_v2(classes: int = 10, *, channels: int = 3, width: float = 1.0) -> Classifier:
    """A MobileNetV2 of 0.3 M weights for images of 8 to 32 pixels."""
    return mobilenet_v2(classes, width=width, channels=channels, stages=SMALL_MOBILENET_V2, stem_stride=1, head=512)


def tfc() -> nn.Sequential:
    """The fully connected network of QONNX's and FINN's examples, for images of 28 x 28: TFC."""
    sizes = (784, 64, 64, 64)
    hidden = [
        nn.Sequential(nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU())
        for i, o in zip(sizes, sizes[1:], strict=False)
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10, bias=False))


def cnv() -> nn.Sequential:
    """The convolutional network of QONNX's and FINN's examples, for images of 3 x 32 x 32: CNV."""
    layers: list[nn.Module] = []
    cin = 3
    for cout in (64, 128, 256):
        for _ in range(2):
            layers += [nn.Conv2d(cin, cout, 3, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]
            cin = cout
        layers += [nn.MaxPool2d(2)] if cout < 256 else [nn.Flatten()]
    for _ in range(2):
        layers += [nn.Linear(cin, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU()]
        cin = 512
    return nn.Sequential(*layers, nn.Linear(cin, 10, bias=False))
