"""Quantizers, and the transform that puts them into a network."""

from mobo_mpq.quant.base import (
    QParams,
    Quantizer,
    Role,
    Scheme,
    Site,
    TensorQuantizer,
    build_quantizer,
    register_scheme,
    scheme_from_dict,
    scheme_to_dict,
    schemes,
)
from mobo_mpq.quant.lsq import LsqQuantizer, LsqScheme
from mobo_mpq.quant.observers import Observer, ObserverKind
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, calibrate, check_policy, quantized, quantizers
from mobo_mpq.quant.uniform import UniformQuantizer, UniformScheme

__all__ = [
    "LsqQuantizer",
    "LsqScheme",
    "Observer",
    "ObserverKind",
    "QParams",
    "QuantizedNetwork",
    "Quantizer",
    "Role",
    "Scheme",
    "Site",
    "TensorQuantizer",
    "UniformQuantizer",
    "UniformScheme",
    "apply_policy",
    "build_quantizer",
    "calibrate",
    "check_policy",
    "quantized",
    "quantizers",
    "register_scheme",
    "scheme_from_dict",
    "scheme_to_dict",
    "schemes",
]
