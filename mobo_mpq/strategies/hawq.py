"""HAWQ: second derivatives predict the loss, an integer programme allots the bits.

Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021, arXiv 2011.10680, with the metric of Dong et al.,
"HAWQ-V2", NeurIPS 2020, arXiv 1911.03852. ``docs/methods/hawq.md`` says what is done differently.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.strategies.programme import Programme


class Hawq(Programme):
    """Minimises the sum of the sensitivities as they are: by default traces of Hessians times squared errors."""

    name = "hawq"

    def predicted_loss(self) -> NDArray[np.float64]:  # layers x options
        """The table of sensitivities."""
        assert self.problem.sensitivity is not None, "checked before"
        return np.asarray(self.problem.sensitivity, dtype=np.float64)
