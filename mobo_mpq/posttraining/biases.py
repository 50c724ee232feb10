"""Bias correction: rounding shifts the mean of a layer's outputs, and a bias takes the shift back for nothing.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721:
here with means measured on the calibration data, layer after layer, so that each sees the outputs of corrected ones.
"""

from __future__ import annotations

import torch

from mobo_mpq.posttraining.layerwise import Layer


@torch.no_grad()
def correct_bias(layer: Layer) -> None:
    """Let a layer's outputs have the means, per channel, that they have in float; without a bias nothing is done."""
    bias = layer.bias
    if bias is None:
        return
    shift = layer.shifts()
    bias.add_(shift)
    layer.walk.replace(layer.node, [output + layer.by_channel(shift) for output in layer.outputs])
