"""The costs that a study can ask for, by the words of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.hardware import CostModel, HardwareTarget
from mobo_mpq.layers import LayerSpec
from mobo_mpq.objectives.hardware import load_target, target_names
from mobo_mpq.objectives.size import BopsModel, SizeModel


def _latency(target: HardwareTarget, layers: Sequence[LayerSpec]) -> CostModel:
    return target.latency


def _energy(target: HardwareTarget, layers: Sequence[LayerSpec]) -> CostModel:
    if target.energy is None:
        able = ", ".join(name for name in target_names() if load_target(name).energy is not None)
        raise InputError(
            f"target '{target.name}' has no energy model, since its source gives none; choose a target that "
            f"has one ({able}), or another objective ({', '.join(word for word in COSTS if word != 'energy')})"
        )
    return target.energy


def _size(target: HardwareTarget, layers: Sequence[LayerSpec]) -> CostModel:
    return SizeModel(layers, target.storage)


def _bops(target: HardwareTarget, layers: Sequence[LayerSpec]) -> CostModel:
    return BopsModel()


COSTS: Mapping[str, Callable[[HardwareTarget, Sequence[LayerSpec]], CostModel]] = {
    "latency": _latency,
    "energy": _energy,
    "size": _size,
    "bops": _bops,
}
"""Word -> function of a target and the network's layers that gives the cost model."""


def cost_model(word: str, target: HardwareTarget, layers: Sequence[LayerSpec]) -> CostModel:
    """The cost model that a word of the command line stands for.

    Raises:
        UnknownName: when there is no such cost.
        InputError: when the target cannot give it.
    """
    if word not in COSTS:
        raise UnknownName("cost", word, COSTS)
    return COSTS[word](target, layers)
