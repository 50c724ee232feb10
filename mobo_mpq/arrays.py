"""Names for the arrays that spaces, surrogates and searches hand to one another."""

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.intp]
"""Policies by the level of each variable: ``(..., d)``."""

Floats = NDArray[np.float64]
"""Losses, costs, or whatever is computed from them."""
