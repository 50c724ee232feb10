"""Evaluate every policy of small spaces of real networks, so that searches can be judged by the exact front.

    python benchmarks/make_tables.py [--only NAME] [--workers 2] [--sensitivities]

Writes, per table, ``benchmarks/tables/NAME.json`` (layers, decisions, costs, float baseline, CPU seconds of one
evaluation, sensitivities) and ``NAME.csv.gz`` (one row per policy: bits, quality, divergence). Whole tables take an
hour or so on two cores; one that was interrupted goes on where it was. ``--sensitivities`` evaluates nothing, and puts
the sensitivities of the layers and the CPU time that they cost into the tables that are there.
``benchmarks/exhaustive.py`` reads all of it.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mobo_mpq.config import StudyConfig
from mobo_mpq.layers import OpKind
from mobo_mpq.objective import CostObjective
from mobo_mpq.objectives.costs import cost_model
from mobo_mpq.policy import Policy
from mobo_mpq.seeding import derive
from mobo_mpq.sensitivity import perturb
from mobo_mpq.space import SearchSpace
from mobo_mpq.workflows.evaluation import Evaluator
from mobo_mpq.workflows.preparation import Prepared, prepare, resolve
from mobo_mpq.workflows.sensitivities import sample_batches

FOLDER = Path(__file__).parent / "tables"
CHUNK = 27
ALL, HIGH, UPPER = (2, 4, 8), (8,), (4, 8)


@dataclass(frozen=True)
class Definition:
    """One table: a network, a device, a cost, and the part of the space that is evaluated whole."""

    task: str
    target: str
    recipe: str
    cost: str
    bits: dict[OpKind, tuple[tuple[int, ...], tuple[int, ...]]]
    pin: dict[str, tuple[int, int]] = field(default_factory=dict)
    tie: tuple[tuple[str, ...], ...] = ()


def every(weight: tuple[int, ...], activation: tuple[int, ...]) -> dict[OpKind, tuple[tuple[int, ...], ...]]:
    return {kind: (weight, activation) for kind in OpKind}


DEFINITIONS = {
    # all 3^8 weight policies of the eight layers
    "digits-ptq-weights": Definition("digits", "mpic", "ptq", "size", every(ALL, HIGH)),
    # 3^4 x 2^6: weights of the pointwise convolutions and the classifier, activations of all tensors but the image
    "digits-ptq-both": Definition(
        "digits",
        "mpic",
        "ptq",
        "latency",
        every(ALL, UPPER) | {OpKind.DEPTHWISE: (HIGH, UPPER)},
        pin={"stem.0": (8, 8)},
    ),
    # 3^6: weights of the three blocks
    "digits-qat": Definition(
        "digits", "mpic", "qat", "size", every(ALL, HIGH), pin={"stem.0": (8, 8), "classifier": (8, 8)}
    ),
    # 3^6: weights of all projections; those of the attention are tied from block to block
    "text-ptq": Definition(
        "text",
        "bitfusion",
        "ptq",
        "latency",
        every(ALL, HIGH),
        pin={"head": (8, 8)},
        tie=(
            ("blocks.0.attention.qkv", "blocks.1.attention.qkv"),
            ("blocks.0.attention.output", "blocks.1.attention.output"),
        ),
    ),
}


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(DEFINITIONS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sensitivities", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in [arguments.only] if arguments.only else DEFINITIONS:
        if arguments.sensitivities:
            if (FOLDER / f"{name}.json").exists():
                add_sensitivities(name)
        elif not (FOLDER / f"{name}.csv.gz").exists():
            make(name, arguments.workers)


def prepared(definition: Definition) -> tuple[Prepared, SearchSpace]:
    """The network, and the part of its space that the table covers."""
    options = {"biases": "off"} if definition.recipe == "ptq" else {}  # as when the tables were made
    config = StudyConfig.parse(
        {
            "task": definition.task,
            "target": definition.target,
            "recipe": definition.recipe,
            "recipe_options": options,
            "trials": 1,
        }
    )
    made = prepare(resolve(config))
    pairs = {
        kind: frozenset(itertools.product(*bits))
        for kind, bits in definition.bits.items()
        if kind in made.target.bit_pairs
    }
    target = replace(made.target, bit_pairs=pairs)
    return made, SearchSpace.from_layers(made.network.layers, target, pin=definition.pin, tie=definition.tie)


def make(name: str, workers: int) -> None:
    """Evaluate every policy; what an interrupted run has evaluated is kept."""
    made, space = prepared(DEFINITIONS[name])
    grid = space.grid()
    partial = FOLDER / f"{name}.partial.csv"
    done = {int(line.split(",")[0]) for line in partial.read_text().splitlines()} if partial.exists() else set()
    todo = [index for index in range(len(grid)) if index not in done]
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(name,)) as pool, partial.open("a") as file:
        for number, rows in enumerate(pool.map(_evaluate, chunks)):
            file.writelines(",".join(map(str, row)) + "\n" for row in rows)
            file.flush()
            print(f"{name}: {number + 1} of {len(chunks)} chunks", flush=True)
    rows = sorted([float(part) for part in line.split(",")] for line in partial.read_text().splitlines())
    document = describe(name, made, space, evaluation_cpu_s=float(np.mean([row[3] for row in rows])))
    (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1))
    with gzip.GzipFile(FOLDER / f"{name}.csv.gz", "wb", mtime=0) as packed:
        packed.write(b"levels,quality,divergence\n")
        for row, levels in zip(rows, grid, strict=True):
            packed.write(f"{''.join(map(str, levels))},{row[1]:.6g},{row[2]:.6g}\n".encode())
    partial.unlink()


def describe(name: str, made: Prepared, space: SearchSpace, evaluation_cpu_s: float) -> dict[str, Any]:
    """What a reader needs to build the problem without the network."""
    definition = DEFINITIONS[name]
    layers = made.network.layers
    cost = CostObjective.from_model(cost_model(definition.cost, made.target, layers), layers, space)
    quality = made.problem.quality
    return {
        "task": definition.task,
        "target": definition.target,
        "recipe": definition.recipe,
        "layers": [{**asdict(layer), "kind": str(layer.kind)} for layer in layers],
        "names": space.names,
        "pairs": [sorted(pairs) for pairs in space.pairs],
        "decisions": [asdict(variable) for variable in space.decisions],
        "quality": {**asdict(quality), "direction": str(quality.direction)},
        "float_quality": made.baseline["val"][quality.name].value,
        "cost": {**asdict(cost.info), "direction": str(cost.info.direction)},
        "cost_table": np.nan_to_num(cost.table, nan=-1.0).tolist(),
        "evaluation_cpu_s": evaluation_cpu_s,
    }


def add_sensitivities(name: str) -> None:
    """Measure what a search would measure first, three times, and keep it with the median of the CPU times."""
    made, space = prepared(DEFINITIONS[name])
    batches = sample_batches(made.task)
    measured = [perturb(made.network, space, batches) for _ in range(3)]
    cpu_s, first = float(np.median([table.cpu_s for table in measured])), measured[0]
    file = FOLDER / f"{name}.json"
    document = json.loads(file.read_text())
    document["sensitivity"] = {"values": first.values.tolist(), "cpu_s": cpu_s, "evaluations": first.evaluations}
    file.write_text(json.dumps(document, indent=1))
    trials = cpu_s / document["evaluation_cpu_s"]
    print(f"{name}: sensitivities in {first.evaluations} passes, {cpu_s:.2f} s CPU, {trials:.2f} evaluations")


_worker: tuple[Evaluator, SearchSpace] | None = None


def _start(name: str) -> None:
    global _worker
    torch.set_num_threads(1)
    made, space = prepared(DEFINITIONS[name])
    _worker = (Evaluator(made.work, made.task), space)


def _evaluate(indices: list[int]) -> list[tuple[int, float, float, float]]:
    assert _worker is not None, "the pool has started"
    evaluator, space = _worker
    grid = space.grid()
    rows = []
    for index in indices:
        policy: Policy = space.to_policies(grid[index])[0]
        start = time.process_time()
        outcome = evaluator.run(policy, seed=derive(0, "table", index))
        spent = time.process_time() - start
        measured = outcome.measurement
        assert measured is not None and measured.divergence is not None, outcome.error
        rows.append((index, measured.value, measured.divergence, round(spent, 4)))
    return rows


if __name__ == "__main__":
    main()
