"""Strategies that live on sensitivities, on spaces of real networks in which every policy has been evaluated.

    python benchmarks/white_box.py [--tables digits-ptq-weights text-ptq] [--seed 0]

One row per strategy: share of the best hypervolume after 24, 40 and 64 evaluations, those that the sensitivities cost
included, at the price of an evaluation in the table; CPU seconds of measuring, and of all proposals. Sensitivities are
measured anew. The tables were made without bias correction, and so are the perturbations. One thread; some minutes.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from typing import Any

import torch
from engine_runs import complete, make_case
from exhaustive import Table, load_table
from make_tables import DEFINITIONS, prepared

from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.sensitivity import Given, SensitivityTable, measure
from mobo_mpq.strategies.registry import make_strategy
from mobo_mpq.workflows.sensitivities import sample_batches

TABLES = ("digits-ptq-weights", "digits-ptq-both", "text-ptq")
EVALUATIONS = (24, 40, 64)
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("sensitivity", "perturbation", {}),
    ("sensitivity", "fisher", {}),
    ("hawq", "hessian", {}),
    ("hawq", "fisher", {}),
    ("hawq", "perturbation", {}),
    ("ompq", "orthogonality", {}),
    ("ompq", "orthogonality", {"beta": 0.0}),
    ("ompq", "orthogonality", {"importance": "suffix"}),
    ("ompq", "orthogonality", {"penalty": "linear"}),
    ("mobo", "perturbation", {}),
    ("mobo", "hessian", {}),
    ("mobo", "fisher", {}),
    ("mobo", "orthogonality", {}),
)


def main() -> None:
    """Print a table for each space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES))
    parser.add_argument("--strategies", nargs="+", default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tables:
        table = load_table(name)
        measured = measure_all(name)
        print(f"\n{name}: {len(table.measurements)} policies, an evaluation takes {table.evaluation_cpu_s:.2f} s CPU\n")
        print("| strategy | sensitivity | " + " | ".join(map(str, EVALUATIONS)) + " | measuring, s | proposals, s |")
        print("|---" * (len(EVALUATIONS) + 4) + "|")
        for strategy, kind, options in ROWS:
            if arguments.strategies is None or strategy in arguments.strategies:
                print(row(table, measured[kind], strategy, options, arguments.seed), flush=True)


def measure_all(name: str) -> dict[str, SensitivityTable]:
    """Every kind on the space of a table."""
    made, space = prepared(DEFINITIONS[name])
    batches, given = sample_batches(made.task), Given(made.task.loss, biases=False)
    kinds = dict.fromkeys(kind for _, kind, _ in ROWS)
    return {kind: measure(kind, made.network, space, batches, given) for kind in kinds}


def row(table: Table, measured: SensitivityTable, name: str, options: dict[str, Any], seed: int) -> str:
    """One search."""
    problem = replace(table.problem, sensitivity=measured.values)
    policies, proposing_s = search(table, problem, name, options, seed)
    spent = math.ceil(measured.cpu_s / table.evaluation_cpu_s)
    shares = [table.hypervolume(policies[: max(1, n - spent)]) / table.best_hypervolume for n in EVALUATIONS]
    label = f"`{name}`" + "".join(f", {key} {value:g}" if isinstance(value, float) else f", {key} {value}"
                                  for key, value in options.items())  # fmt: skip
    cells = " | ".join(f"{share:.4f}" for share in shares)
    return f"| {label} | {measured.method} | {cells} | {measured.cpu_s:.2f} | {proposing_s:.2f} |"


def search(
    table: Table, problem: Problem, name: str, options: dict[str, Any], seed: int, trials: int = EVALUATIONS[-1]
) -> tuple[list[Policy], float]:
    """Policies in the order of their numbers, and CPU seconds of proposing them."""
    case = replace(make_case(table.name, 0), problem=problem)
    start = time.process_time()
    strategy = make_strategy(name, problem, seed, options)
    policies: list[Policy] = []
    while len(policies) < trials:
        asked = strategy.ask(1)
        if not asked or asked[0].policy is None:
            break
        strategy.tell([complete(case, len(policies), asked[0].policy)])
        policies.append(asked[0].policy)
    return policies, time.process_time() - start


if __name__ == "__main__":
    main()
