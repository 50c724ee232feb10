"""Test files share the networks of ``perturbation_toys.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
