"""A network of the literature on the images of ``digits``: large enough to compare search methods on."""

from __future__ import annotations

from torch import nn

from mobo_mpq.objectives.tasks.digits import CLASSES, Digits
from mobo_mpq.testing import networks


class DigitsResNet20(Digits):
    """The task ``digits-resnet20``: accuracy of a ResNet-20 (He et al. 2016), 0.27 M weights, in [0, 1].

    The data are those of ``digits``. The stem has a stride of 2, so the stages see 8 x 8, 4 x 4 and 2 x 2 pixels with a
    quarter of the operations: a fine-tune takes seconds. ``config.channels`` is the width of the first stage.
    """

    name = "digits-resnet20"
    sources = (*Digits.sources, __file__, networks.__file__)

    def network(self) -> nn.Module:
        """The network with fresh weights, drawn from the global generator."""
        return networks.resnet20(CLASSES, channels=1, width=self.config.channels, stem_stride=2)
