"""OMPQ: the less a layer shares with the others, the more bits it gets.

Ma et al., "OMPQ: Orthogonal Mixed Precision Quantization", AAAI 2023, arXiv 2109.07865. ``docs/methods/ompq.md`` says
what the paper, its code and this page do, and where they differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.engine.features import variable_losses
from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.sensitivity.assembly import by_layer
from mobo_mpq.strategies.programme import Programme

IMPORTANCES, PENALTIES = ("layer", "suffix"), ("linear", "square")


@dataclass(frozen=True, slots=True)
class OmpqOptions:
    """What the programme maximises.

    Attributes:
        beta: how much orthogonality counts; 0 makes all layers alike.
        importance: ``layer``: each layer's own, as in the paper; ``suffix``: the mean over it and all that follow, as
            in the authors' code.
        penalty: of the bits that are missing: ``linear``, as in the paper, or their ``square``, which spreads them as
            the authors' published configurations do.
    """

    beta: float = 1.0
    importance: str = "layer"
    penalty: str = "square"

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta < math.inf:
            raise InputError(f"option 'beta' of strategy 'ompq' is {self.beta!r}; expected a number of at least 0")
        for name, choices in (("importance", IMPORTANCES), ("penalty", PENALTIES)):
            if getattr(self, name) not in choices:
                raise UnknownName(f"value of option '{name}' of strategy 'ompq'", getattr(self, name), choices)


class Ompq(Programme):
    """Maximises the bits, weighted by the importance of their layers.

    The table of kind ``orthogonality`` has the importance at ``beta`` 1, ``exp(-gamma)``, times the bits that are
    missing; any other ``beta`` is a power of it. Of a table of another kind, the loss per bit between the lowest and
    the highest counts as the importance.
    """

    name = "ompq"
    options_class = OmpqOptions
    options: OmpqOptions

    def predicted_loss(self) -> NDArray[np.float64]:  # layers x options
        """Importance times the bits that are missing of the highest, or their square."""
        variables = self.problem.space.variables
        worth = self._importance()
        power = 1.0 if self.options.penalty == "linear" else 2.0
        losses = {
            (variable, bits): float(worth[row]) * len(variable.layers) * float(variable.choices[-1] - bits) ** power
            for row, variable in enumerate(variables)
            for bits in variable.choices
        }
        return by_layer(self.problem.space, losses)

    def _importance(self) -> NDArray[np.float64]:  # d
        """Of each variable, the mean over its layers; the largest is 1."""
        variables = self.problem.space.variables
        lost = variable_losses(self.problem)
        gamma = np.array(
            [
                -math.log(max(loss[0] / ((v.choices[-1] - v.choices[0]) * len(v.layers)), np.finfo(float).tiny))
                for loss, v in zip(lost, variables, strict=True)
            ]
        )
        worth = np.exp(-self.options.beta * (gamma - gamma.min(initial=np.inf, where=np.isfinite(gamma))))
        return self._suffix(worth) if self.options.importance == "suffix" else worth

    def _suffix(self, worth: NDArray[np.float64]) -> NDArray[np.float64]:  # d -> d
        """The mean over a layer and all that follow, among variables of the same role."""
        result = worth.copy()
        for role in ("weight", "activation"):
            rows = [i for i, variable in enumerate(self.problem.space.variables) if variable.role == role]
            own = worth[rows]
            result[rows] = np.cumsum(own[::-1])[::-1] / np.arange(len(own), 0, -1)
        return result
