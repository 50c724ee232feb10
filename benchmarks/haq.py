"""HAQ's agents on spaces of real networks in which every policy has been evaluated.

    python benchmarks/haq.py [--tables digits-ptq-weights text-ptq] [--rows shared published] [--seeds 3] [--trials 112]

One row per agent: share of the best hypervolume after 24, 48, 112 and 600 episodes, trial 0 among them: medians over
the seeds, the lowest seed in brackets; CPU seconds of a proposal, learning included. A table answers at once, so this
is what the agent costs. Beside it the uniform policies of each space, the same episodes
without training, so that random actions are backed off to the budgets, ``random``, and ``mobo`` without sensitivities.
One thread; half an hour with --trials 112.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import white_box
from exhaustive import Table, load_table

from mobo_mpq.policy import Policy

TABLES = ("digits-ptq-weights", "digits-ptq-both", "digits-qat", "text-ptq")
EPISODES = (24, 48, 112, 600)
PUBLISHED = {"agents": "separate", "warmup": 20.0, "noise": 0.5, "decay": 0.99, "updates": 1.0}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "shared": ("haq", {}),
    "separate": ("haq", {"agents": "separate", "budgets": 3.0}),
    "published": ("haq", {**PUBLISHED, "budgets": 3.0}),
    "one budget": ("haq", {**PUBLISHED, "budgets": 1.0}),
    "shared, never trained": ("haq", {"updates": 0.0}),
    "random": ("random", {}),
    "mobo": ("mobo", {}),
}


def main() -> None:
    """Print a table for each space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES))
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=112)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts = [count for count in EPISODES if count <= arguments.trials]
    for name in arguments.tables:
        table = load_table(name)
        print(f"\n{name}: {len(table.measurements)} policies; uniform bits alone reach {uniform(table):.3f}\n")
        print("| agent | " + " | ".join(map(str, counts)) + " | a proposal, CPU s |")
        print("|---" * (len(counts) + 2) + "|")
        for row in arguments.rows:
            runs = [search(table, *ROWS[row], seed, arguments.trials) for seed in range(arguments.seeds)]
            print(f"| {row} | {cells(table, [policies for policies, _ in runs], counts)} | "
                  f"{np.mean([seconds / len(policies) for policies, seconds in runs]):.3f} |", flush=True)  # fmt: skip


def search(table: Table, name: str, options: dict[str, Any], seed: int, trials: int) -> tuple[list[Policy], float]:
    """Policies in the order of their numbers, and CPU seconds of proposing them."""
    problem = replace(table.problem, sensitivity=None, float_quality=table.float_quality)
    return white_box.search(table, problem, name, options, seed, trials)


def cells(table: Table, runs: list[list[Policy]], counts: list[int]) -> str:
    """Median and least share of the best hypervolume after each count."""
    shares = np.array([[table.hypervolume(run[:count]) for count in counts] for run in runs]) / table.best_hypervolume
    return " | ".join(f"{np.median(column):.3f} ({column.min():.3f})" for column in shares.T)


def uniform(table: Table) -> float:
    """Share of the best hypervolume that all uniform policies have together."""
    space = table.problem.space
    policies = {space.uniform(*bits) for bits in space.options}
    return table.hypervolume(list(policies)) / table.best_hypervolume


if __name__ == "__main__":
    main()
