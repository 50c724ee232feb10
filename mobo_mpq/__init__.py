"""How many bits does each layer deserve?

``mobo_mpq`` returns the Pareto set of per-layer weight and activation bit-widths that trade a network's quality
against its modelled latency, energy, size or bit operations on a device.

    >>> import mobo_mpq as mm
    >>> layers = mm.trace_layers(model, example)                    # doctest: +SKIP
    >>> space = mm.SearchSpace.from_layers(layers, mm.load_target("mpic"))  # doctest: +SKIP

Names are loaded on first use (PEP 562), so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if (Path(__file__).parent.parent / "objectives" / "__init__.py").exists():
    # A bare checkout: objectives/ and workflows/ stand beside this package, and are part of it all the same.
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

_HOME = {
    "CostModel": "mobo_mpq.hardware",
    "CostObjective": "mobo_mpq.objective",
    "Direction": "mobo_mpq.objective",
    "HardwareTarget": "mobo_mpq.hardware",
    "InfeasibleBudget": "mobo_mpq.errors",
    "InputError": "mobo_mpq.errors",
    "LayerBits": "mobo_mpq.policy",
    "LayerSpec": "mobo_mpq.layers",
    "Measurement": "mobo_mpq.objective",
    "MoboError": "mobo_mpq.errors",
    "ObjectiveInfo": "mobo_mpq.objective",
    "OpKind": "mobo_mpq.layers",
    "Policy": "mobo_mpq.policy",
    "Problem": "mobo_mpq.problem",
    "Proposal": "mobo_mpq.trial",
    "Recipe": "mobo_mpq.trial",
    "SearchSpace": "mobo_mpq.space",
    "Strategy": "mobo_mpq.strategies.base",
    "Study": "mobo_mpq.study",
    "Trial": "mobo_mpq.trial",
    "TrialState": "mobo_mpq.trial",
    "UnknownName": "mobo_mpq.errors",
    "WorkError": "mobo_mpq.errors",
    "allocate": "mobo_mpq.allocation",
    "allocate_bits": "mobo_mpq.water_filling",
    "cost_table": "mobo_mpq.hardware",
    "hypervolume": "mobo_mpq.pareto",
    "load_target": "mobo_mpq.objectives.hardware",
    "load_task": "mobo_mpq.objectives.tasks",
    "non_dominated": "mobo_mpq.pareto",
    "optimize": "mobo_mpq.optimization",
    "peak_activation_bytes": "mobo_mpq.memory",
    "search": "mobo_mpq.workflows.search",
    "trace_layers": "mobo_mpq.tracing",
}

__all__ = [
    "__version__",
    "CostModel",
    "CostObjective",
    "Direction",
    "HardwareTarget",
    "InfeasibleBudget",
    "InputError",
    "LayerBits",
    "LayerSpec",
    "Measurement",
    "MoboError",
    "ObjectiveInfo",
    "OpKind",
    "Policy",
    "Problem",
    "Proposal",
    "Recipe",
    "SearchSpace",
    "Strategy",
    "Study",
    "Trial",
    "TrialState",
    "UnknownName",
    "WorkError",
    "allocate",
    "allocate_bits",
    "cost_table",
    "hypervolume",
    "load_target",
    "load_task",
    "non_dominated",
    "optimize",
    "peak_activation_bytes",
    "search",
    "trace_layers",
]

if TYPE_CHECKING:
    from mobo_mpq.allocation import allocate
    from mobo_mpq.errors import InfeasibleBudget, InputError, MoboError, UnknownName, WorkError
    from mobo_mpq.hardware import CostModel, HardwareTarget, cost_table
    from mobo_mpq.layers import LayerSpec, OpKind
    from mobo_mpq.memory import peak_activation_bytes
    from mobo_mpq.objective import CostObjective, Direction, Measurement, ObjectiveInfo
    from mobo_mpq.objectives.hardware import load_target
    from mobo_mpq.objectives.tasks import load_task
    from mobo_mpq.optimization import optimize
    from mobo_mpq.pareto import hypervolume, non_dominated
    from mobo_mpq.policy import LayerBits, Policy
    from mobo_mpq.problem import Problem
    from mobo_mpq.space import SearchSpace
    from mobo_mpq.strategies.base import Strategy
    from mobo_mpq.study import Study
    from mobo_mpq.tracing import trace_layers
    from mobo_mpq.trial import Proposal, Recipe, Trial, TrialState
    from mobo_mpq.water_filling import allocate_bits
    from mobo_mpq.workflows.search import search


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mobo_mpq' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
