"""Signal to quantization noise: how far outputs move, by the measure of AMP (arXiv 2302.05397, section 3.1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mobo_mpq.training.divergence import Divergence, Tally


class NoiseRatio(Divergence):
    """``E[(s - q)^2] / E[s^2]`` of the outputs: the reciprocal of SQNR, so that it adds up where noise is independent.

    Over all samples at once. AIMET, the public code, averages the ratios of batches, adds 1e-4 to the noise, which
    levels outputs of little energy, and divides by the number of samples, which shifts all decibels alike.
    """

    @property
    def unit(self) -> str:
        """Of the mean."""
        return "noise / signal"

    def _add(self, tally: Tally, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        signal = self.expected(args, kwargs).to(output.device).double()
        tally.total += float((output.double() - signal).square().sum())
        tally.weight += float(signal.square().sum())
