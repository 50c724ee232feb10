"""Sensitivities: what each layer's bits are expected to cost in quality, measured before the first trial."""

from mobo_mpq.sensitivity.interactions import PairTable, perturb_pairs
from mobo_mpq.sensitivity.kinds import Given, about_kind, kind_names, measure, provenance_of
from mobo_mpq.sensitivity.perturbation import perturb, provenance
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable

__all__ = [
    "Given",
    "PairTable",
    "Provenance",
    "SensitivityTable",
    "about_kind",
    "kind_names",
    "measure",
    "perturb",
    "perturb_pairs",
    "provenance",
    "provenance_of",
]
