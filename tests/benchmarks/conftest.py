"""The benchmarks are scripts beside each other, as when they run; BoTorch is imported without its warnings."""

import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

with warnings.catch_warnings():
    # linear_operator scripts a function when it is imported, which torch deprecates; pytest makes that an error
    warnings.filterwarnings("ignore", message="`torch.jit.script", category=DeprecationWarning)
    import botorch  # noqa: F401
