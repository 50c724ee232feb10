"""From the bits that training found to a policy that the device runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mobo_mpq.policy import Policy
from mobo_mpq.space import SearchSpace


def covering(space: SearchSpace, bits: Sequence[float]) -> Policy:
    """The policy of each decision's least choice that has at least these bits, raised further where pairs ask for it.

    Args:
        space: of the policy.
        bits: ``decisions``, in the order of ``space.decisions``; above the highest choice counts as that one.

    Returns:
        A legal policy; ties and pins are kept.
    """
    levels = [
        min(int(np.searchsorted(decision.choices, wanted - 1e-9)), len(decision.choices) - 1)
        for decision, wanted in zip(space.decisions, bits, strict=True)
        if len(decision.choices) > 1
    ]
    return space.to_policies(space.repair(np.array(levels, dtype=np.intp)))[0]
