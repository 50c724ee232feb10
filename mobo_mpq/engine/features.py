"""What is known about each decision before the first trial: how much its bits matter, and how that fades with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.problem import Problem

LOG_4 = float(np.log(4.0))
_STEEPEST = 2.0
"""A measured loss counts as no smaller than if it fell with 4^-(2 x bits): below that it is rounding."""


@dataclass(frozen=True, eq=False)
class Features:
    """Tables over variables and levels; entries beyond a variable's last level repeat it.

    The loss of quantization error is expected to fall with ``4^-bits``, since the step of a uniform quantizer halves
    with every bit and its squared error is what a smooth loss feels.

    Attributes:
        size: d, log of the loss with the variable alone at its lowest level, up to a constant.
        fading: ``d x levels``, log of the loss at a level relative to that at the lowest: 0, then falling.
        is_weight: d, whether the variable decides on weights.
        measured: whether sensitivities were known; otherwise all sizes follow from the bits.
    """

    size: NDArray[np.float64]
    fading: NDArray[np.float64]
    is_weight: NDArray[np.bool_]
    measured: bool

    @classmethod
    def of(cls, problem: Problem) -> Features:
        """From the problem's sensitivities where it has them, else from the bits alone."""
        space = problem.space
        variables = space.variables
        bits = [np.array(variable.choices, dtype=np.float64) for variable in variables]
        lowest = {
            role: min((b[0] for b, v in zip(bits, variables, strict=True) if v.role == role), default=0.0)
            for role in ("weight", "activation")
        }
        size = np.array([-LOG_4 * (b[0] - lowest[v.role]) for b, v in zip(bits, variables, strict=True)])
        fading = padded([-LOG_4 * (b - b[0]) for b in bits])
        is_weight = np.array([variable.role == "weight" for variable in variables], dtype=np.bool_)
        if problem.sensitivity is None or not len(variables):
            return cls(size, fading, is_weight, False)
        losses = variable_losses(problem)
        return cls(*_measured(losses, fading), is_weight, True)


def variable_losses(problem: Problem) -> list[NDArray[np.float64]]:
    """Loss of each variable alone at each of its levels, all others at their highest: from the table by layer.

    Relative to the highest levels everywhere, in units of the quality; d arrays.
    """
    space = problem.space
    assert problem.sensitivity is not None, "only where sensitivities are known"
    table = np.asarray(problem.sensitivity, dtype=np.float64)
    highest = space.sizes - 1
    base = _total(problem, table, highest[None])[0]
    result = []
    for index, size in enumerate(space.sizes):
        levels = np.repeat(highest[None], size, axis=0)
        levels[:, index] = np.arange(size)
        result.append(_total(problem, table, levels) - base)
    return result


def _total(problem: Problem, table: NDArray[np.float64], levels: NDArray[np.intp]) -> NDArray[np.float64]:
    options = problem.space.option_indices(levels)
    total: NDArray[np.float64] = table[np.arange(len(table)), options].sum(axis=-1)
    return total


def _measured(
    losses: list[NDArray[np.float64]], fading: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lowest = np.array([loss[0] for loss in losses])
    positive = lowest[lowest > 0]
    if not len(positive):
        return np.zeros(len(losses)), fading
    lowest = np.maximum(lowest, 1e-3 * float(np.median(positive)))
    shape = np.zeros_like(fading)
    for row, loss in enumerate(losses):
        relative = np.log(np.maximum(loss, 1e-300) / lowest[row])
        bounded = np.clip(relative, _STEEPEST * fading[row, : len(loss)], 0.0)
        bounded[0] = 0.0
        shape[row, : len(loss)] = np.minimum.accumulate(bounded)
        shape[row, len(loss) :] = shape[row, len(loss) - 1]
    return np.log(lowest), shape


def padded(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rows of different lengths as a matrix, each continued with its last value; one column where there are none."""
    width = max((len(row) for row in rows), default=1)
    return np.array([np.pad(row, (0, width - len(row)), mode="edge") for row in rows]).reshape(len(rows), width)
