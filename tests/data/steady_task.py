"""A quality that bits alone decide, and that no training changes: whatever is beaten is seen to be beaten early."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from toy_task import Toy  # noqa: E402


class Steady(Toy):
    """More bits for the first input are better; all other bits only cost."""

    def metric(self, model, loader):
        policy = getattr(model, "policy", None)
        return super().metric(model, loader) if policy is None else 0.5 + 0.05 * policy["0"].activation
