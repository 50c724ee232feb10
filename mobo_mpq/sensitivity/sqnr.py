"""Signal to quantization noise: how far outputs move, by the measure of AMP (arXiv 2302.05397, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def sqnr(signal: Tensor, quantized: Tensor) -> float:
    """``E[s^2] / E[(s - q)^2]``, infinite where both are the same.

    Args:
        signal: of the float network, any shape.
        quantized: of the quantized one, of signal's shape.
    """
    signal, quantized = signal.detach().double(), quantized.detach().double()
    power, noise = signal.square().mean(), (signal - quantized).square().mean()
    return math.inf if not noise else float(power / noise)


def mean_sqnr_db(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Decibels of the mean ratio over batches of (signal, quantized).

    AIMET, the public code, adds 1e-4 to the noise, which levels outputs of little energy, and divides the sum of the
    ratios by the number of samples, which shifts all decibels alike; neither is done here.
    """
    ratios = torch.tensor([sqnr(signal, quantized) for signal, quantized in pairs], dtype=torch.float64)
    return float(10 * ratios.mean().log10())
