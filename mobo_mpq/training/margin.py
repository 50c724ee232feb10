"""A large margin between classes, in the features that the last layer reads.

Tang et al., "SEAM: Searching Transferable Mixed-Precision Quantization Policy through Large Margin Regularization", ACM
MM 2023, arXiv 2302.06845: policies found with it on few data suit the data that they were not found on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from mobo_mpq.dataflow import arguments, aten, op, operand
from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.training.data import Inputs

SEPARATION = 1.0
"""Distance that centres of classes shall have. Features lie on the unit sphere: at right angles they have 1.41."""

_SMALL = 0.01  # features this much smaller than the batch's mean have hardly a direction
_CONVOLUTIONS = {aten.conv1d, aten.conv2d}


def large_margin(features: Tensor, target: Tensor, separation: float = SEPARATION) -> Tensor:
    """How far the features are from classes that are points, ``separation`` apart.

    ``mean |f - c_y|^2 + mean relu(separation - |c_j - c_k|)^2``: the first mean is over samples, the second over pairs
    of different classes; a centre ``c`` is the mean of a class in this batch. Features that are rotated, or scaled by
    one positive number, have the same. Reconstructed: the paper's formula was not at hand.

    Args:
        features: ``samples x features``; only their directions count.
        target: class of each sample, ``samples``.
        separation: wanted between the centres of different classes, 0 to 1.41 where features are not negative.

    Returns:
        A scalar, 0 or more, finite also for one class or classes of one sample.
    """
    norms = features.norm(dim=1, keepdim=True)  # samples x 1
    floor = _SMALL * norms.detach().mean() + torch.finfo(features.dtype).tiny ** 0.5
    directions = features / torch.maximum(norms, floor)
    classes, of_sample = torch.unique(target, return_inverse=True)
    members = F.one_hot(of_sample, len(classes)).to(directions.dtype)  # samples x classes
    centres = members.T @ directions / members.sum(0)[:, None]  # classes x features
    within = (directions - centres[of_sample]).square().sum(1).mean()
    if len(classes) < 2:
        return within
    return within + F.relu(separation - F.pdist(centres)).square().mean()


class FeatureRecorder:
    """A second graph over a network's own parameters and quantizers, which keeps what the last layer reads.

    The network itself stays as it is, and what its second graph learns, it learns.

    Attributes:
        network: called and trained in the place of the first one.
    """

    def __init__(self, network: Network) -> None:
        self._kept = _Kept()
        self.network = network.twin()
        graph, last = self.network.graph, network.trace.operators[-1]
        layer = next(node for node in graph.nodes if node.name == last.node)
        source, self._axis = _read_by(layer)
        self.network.add_submodule("kept", self._kept)
        with graph.inserting_before(layer):
            graph.call_module("kept", (source,))
        self.network.recompile()

    def features(self, target: Any) -> Tensor:
        """Of the last call: ``samples x features``; positions within a sample are averaged.

        Args:
            target: of the batch, one class for each sample.

        Raises:
            InputError: when the targets are something else.
        """
        seen = self._kept.tensor
        assert seen is not None, "the network has been called"
        if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != seen.shape[:1]:
            what = f"of shape {tuple(target.shape)}, {target.dtype}" if isinstance(target, Tensor) else f"{target!r}"
            raise InputError(
                f"option 'margin' needs one class for each of the {len(seen)} samples of a batch, but the target is "
                f"{what}; set it to 0 for this task"
            )
        rows = seen.movedim(self._axis, -1).flatten(1, -2) if seen.ndim > 2 else seen[:, None]
        return rows.mean(1).float()


class _Kept(nn.Module):
    """Remembers what it was called with."""

    tensor: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.tensor = x
        return x


def with_margin(
    objective: Callable[[Inputs, Any], Tensor], weight: float, recorder: FeatureRecorder
) -> Callable[[Inputs, Any], Tensor]:
    """An objective of inputs and target that calls the recorder's network, plus ``weight`` times the margin's loss."""

    def regularized(inputs: Inputs, target: Any) -> Tensor:
        value = objective(inputs, target)
        return value + weight * large_margin(recorder.features(target), target)

    return regularized


def _read_by(layer: Node) -> tuple[Node, int]:
    """The node whose result a layer reads, and the axis of its features."""
    if op(layer) in _CONVOLUTIONS:
        return arguments(layer)["input"], 1
    return operand(layer, 1 if op(layer) is aten.addmm else 0), -1
