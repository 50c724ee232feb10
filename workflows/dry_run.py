"""What a search would look at: layers, ties, space, and the costs of the corner policies. Nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mobo_mpq.config import StudyConfig
from mobo_mpq.memory import peak_activation_bytes
from mobo_mpq.objective import Direction, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.preparation import Prepared, prepare, resolve
from mobo_mpq.workflows.reporting import dump, rows_table, short_pairs, show, stderr, stdout

_TINY = 1e-9
"""Sums of layers in another order differ by as much."""

_PEAK = ObjectiveInfo("peak_activation_bytes", "byte", Direction.MINIMIZE, 0.0)


def show_dry_run(config: StudyConfig, as_json: bool) -> None:
    """Print the layers, the size of the space and the corner policies' costs.

    Raises:
        InputError: whatever would stop the search.
    """
    environment.prepare()
    prepared = prepare(resolve(config))
    document = dry_run_document(prepared)
    if as_json:
        print(dump(document))
        return
    infos = {info.name: info for info in prepared.problem.infos}
    first = prepared.problem.costs[0].info
    layers = [_layer_row(first, row) for row in document["layers"]]
    stdout.print(rows_table(layers, "layers"))
    stdout.print(rows_table([_corner_row(infos, corner) for corner in document["corners"]], "corner policies"))
    stdout.print(
        f"{document['policies']} legal policies in {document['variables']} variables; {document['macs']} MACs and "
        f"{document['weights']} weights per inference; costs on {document['target']} are of a batch of "
        f"{document['batch']}",
        markup=False,
        soft_wrap=True,
    )
    for line in document["left_in_float"]:
        stderr.print(f"left in float: {line}", markup=False, soft_wrap=True)


def dry_run_document(prepared: Prepared) -> dict[str, Any]:
    """The same as data.

    Each layer has its ``costs`` at the highest bits. The ``corners`` are the highest bits; the lowest; the same bits
    everywhere, for weights and inputs alike, and for one of them with the other at its highest; and the policy that
    costs least, where none of those does.
    """
    problem, layers = prepared.problem, prepared.network.layers
    highest = _costs_by_layer(problem, problem.space.highest())
    return {
        "schema": 1,
        "study": prepared.config.name,
        "task": prepared.task.name,
        "target": prepared.target.name,
        "batch": prepared.target.batch,
        "layers": [
            {
                "name": layer.name,
                "kind": str(layer.kind),
                "weight_shape": "x".join(map(str, layer.weight_shape)),
                "macs": layer.macs,
                "weights": layer.num_weights,
                "tie": layer.activation_group or None,
                "bits": sorted(map(list, pairs)),
                "costs": {name: float(values[row]) for name, values in highest.items()},
            }
            for row, (layer, pairs) in enumerate(zip(layers, problem.space.pairs, strict=True))
        ],
        "left_in_float": [str(entry) for entry in prepared.network.unquantized],
        "macs": sum(layer.macs for layer in layers),
        "weights": sum(layer.num_weights for layer in layers),
        "variables": len(problem.space.variables),
        "policies": problem.space.cardinality,
        "corners": [
            {
                "policy": name,
                "costs": {cost.info.name: cost(policy) for cost in problem.costs},
                "peak_activation_bytes": peak_activation_bytes(layers, policy),
                "bits": policy.to_dict(),
            }
            for name, policy in _corners(problem).items()
        ],
    }


def _costs_by_layer(problem: Problem, policy: Policy) -> dict[str, np.ndarray]:
    """Name of a cost -> its values at one policy, one per layer."""
    options = problem.space.option_indices(problem.space.to_levels([policy]))[0]
    return {cost.info.name: cost.table[np.arange(len(options)), options] for cost in problem.costs}


def _corners(problem: Problem) -> dict[str, Policy]:
    """Name -> policy: the ends of the space, then what differs from them, then what costs less than all of those."""
    space = problem.space
    corners = {"highest": space.highest(), "lowest": space.lowest()}
    for name, policy in _uniform(space):
        if policy not in corners.values():
            corners[name] = policy
    for cost in problem.costs:
        cheapest = problem.cheapest(cost.info.name)
        if cost(cheapest) < min(map(cost, corners.values())) * (1 - _TINY):
            corners[f"least {cost.info.name}"] = cheapest
    return corners


def _uniform(space: SearchSpace) -> Iterator[tuple[str, Policy]]:
    """The same bits in every layer that has a choice, where that is legal."""
    weights, activations = space.weight_bits, space.activation_bits
    alike = [(bits, bits) for bits in weights if bits in activations]
    asked = [*alike, *((bits, activations[-1]) for bits in weights), *((weights[-1], bits) for bits in activations)]
    free = [name for name, pairs in zip(space.names, space.pairs, strict=True) if len(pairs) > 1]
    for weight, activation in sorted(set(asked), reverse=True):
        policy = space.uniform(weight, activation)
        if all(policy[name] == (weight, activation) for name in free):
            yield f"W{weight}/A{activation}", policy


# --- for people -------------------------------------------------------------------------------------------------------


def _layer_row(info: ObjectiveInfo, row: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in row.items() if key != "costs"}
    bits = short_pairs((weight, activation) for weight, activation in row["bits"])
    return {**shown, "bits": bits, f"{_word(info.name)} at highest": show(info, row["costs"][info.name])}


def _corner_row(infos: dict[str, ObjectiveInfo], corner: dict[str, Any]) -> dict[str, str]:
    costs = {_word(name): show(infos[name], value) for name, value in corner["costs"].items()}
    name = " ".join(map(_word, corner["policy"].split(" ")))
    return {"policy": name, **costs, "peak activations": show(_PEAK, corner["peak_activation_bytes"])}


def _word(name: str) -> str:
    """``latency_s`` -> ``latency``; words without a unit stay."""
    return name.rsplit("_", 1)[0]
