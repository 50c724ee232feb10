"""What a search would look at: layers, ties, space, and the costs of the corner policies. Nothing is trained."""

from __future__ import annotations

from typing import Any

from mobo_mpq.config import StudyConfig
from mobo_mpq.policy import Policy
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.preparation import Prepared, prepare, resolve
from mobo_mpq.workflows.reporting import dump, rows_table, show, stderr, stdout


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
    stdout.print(rows_table([{**row, "bits": _bits(row["bits"])} for row in document["layers"]], "layers"))
    corners = [{"policy": corner["policy"], **_shown(prepared, corner["costs"])} for corner in document["corners"]]
    stdout.print(rows_table(corners, "corner policies"))
    stdout.print(
        f"{document['policies']} legal policies in {document['variables']} variables; {document['macs']} MACs and "
        f"{document['weights']} weights per inference",
        soft_wrap=True,
    )
    for line in document["left_in_float"]:
        stderr.print(f"left in float: {line}", markup=False)


def dry_run_document(prepared: Prepared) -> dict[str, Any]:
    """The same as data."""
    space = prepared.problem.space
    layers = [
        {
            "name": layer.name,
            "kind": str(layer.kind),
            "weight_shape": "x".join(map(str, layer.weight_shape)),
            "macs": layer.macs,
            "weights": layer.num_weights,
            "tie": layer.activation_group or None,
            "bits": sorted(map(list, pairs)),
        }
        for layer, pairs in zip(prepared.network.layers, space.pairs, strict=True)
    ]
    corners: dict[str, Policy] = {"highest": space.highest(), "lowest": space.lowest()}
    return {
        "schema": 1,
        "study": prepared.config.name,
        "task": prepared.task.name,
        "target": prepared.target.name,
        "layers": layers,
        "left_in_float": [str(entry) for entry in prepared.network.unquantized],
        "macs": sum(layer.macs for layer in prepared.network.layers),
        "weights": sum(layer.num_weights for layer in prepared.network.layers),
        "variables": len(space.variables),
        "policies": space.cardinality,
        "corners": [
            {"policy": name, "costs": {cost.info.name: cost(policy) for cost in prepared.problem.costs}}
            for name, policy in corners.items()
        ],
    }


def _bits(pairs: list[list[int]]) -> str:
    weights, activations = sorted({w for w, _ in pairs}), sorted({a for _, a in pairs})
    return f"W {','.join(map(str, weights))} / A {','.join(map(str, activations))}"


def _shown(prepared: Prepared, costs: dict[str, float]) -> dict[str, str]:
    infos = {info.name: info for info in prepared.problem.infos}
    return {name.rsplit("_", 1)[0]: show(infos[name], value) for name, value in costs.items()}
