"""Sensitivities: what each layer's bits are expected to cost in quality, measured before the first trial."""

from mobo_mpq.sensitivity.perturbation import perturb, provenance
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable

__all__ = ["Provenance", "SensitivityTable", "perturb", "provenance"]
