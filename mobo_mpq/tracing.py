"""What a model consists of: its quantizable layers, their ties, and what stays in float."""

from __future__ import annotations

from torch import nn
from torch.export import ExportedProgram

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Example, Network, capture
from mobo_mpq.layers import LayerSpec
from mobo_mpq.operators import Operator, Trace
from mobo_mpq.unquantized import Unquantized, log_unquantized

__all__ = ["Operator", "Trace", "Unquantized", "trace", "trace_layers"]


def trace(model: nn.Module | ExportedProgram, example: Example | None = None) -> Trace:
    """Layers of a model or of a captured program.

    Args:
        model: a module, or what :func:`mobo_mpq.graph.capture` returned.
        example: inputs of any batch size; needed for a module, ignored for a program.

    Raises:
        InputError: when the model cannot be captured, or the example is missing.
    """
    if isinstance(model, ExportedProgram):
        return Network.from_program(model).trace
    if isinstance(model, Network):
        return model.trace
    if example is None:
        raise InputError("trace(model) needs an example input; pass trace(model, example)")
    return Network.from_program(capture(model, example)).trace


def trace_layers(model: nn.Module, example: Example | None = None) -> tuple[LayerSpec, ...]:
    """The quantizable layers; what is left in float is logged as one warning.

    Args: as :func:`trace`.
    """
    found = trace(model, example)
    log_unquantized(found.unquantized)
    return found.layers
