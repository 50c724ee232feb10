"""What DDQ finds: beside the best of a space in which every policy has been evaluated, and beside uniform bits.

    python benchmarks/ddq.py [--part table fronts] [--rows ddq uniform] [--tasks digits digits-resnet20] [--seeds 3]

``table``: for each way to run it, the quality that policies lose to the best within the same budget, the ratio of
their divergences, and CPU seconds of a run; means over five budgets. ``fronts``: policies found on MPIC, with their
quality after the ordinary ``qat`` and with the levels that they were learned with, and uniform bits. One thread;
about ten minutes for the first part, two for each task of the second.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from exhaustive import Table, load_table
from methods_runs import prepared_task

from mobo_mpq.policy import Policy
from mobo_mpq.training.learning import Learned, default_learner, learn
from mobo_mpq.training.recipes import TrainingContext
from mobo_mpq.workflows.evaluation import Evaluator

ROWS: dict[str, dict[str, Any]] = {
    "ddq": {},
    "uniform levels": {"levels": "uniform"},
    "shared ranges": {"ranges": "shared"},
    "no correction": {"correction": 0.0},
    "gates by half": {"gate_rate": 0.025},
    "gates by double": {"gate_rate": 0.1},
    "no search": {"search": 0.0},
}
SPENT = (0.08, 0.16, 0.25, 0.35, 0.5)  # of the way from the cheapest policy to the dearest
BUDGETS = (0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.36)
UNIFORM = ((8, 8), (4, 8), (4, 4), (2, 8), (2, 4), (4, 2), (2, 2))


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=["table", "fronts"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--tasks", nargs="+", default=["digits", "digits-resnet20"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "table" in arguments.part:
        print("\n| digits-qat | quality lost, points | divergence, times the best | CPU s |\n|---|---|---|---|")
        for row in arguments.rows:
            print(f"| {row} | {' | '.join(lost(load_table('digits-qat'), ROWS[row], arguments.seeds))} |", flush=True)
    for task in arguments.tasks if "fronts" in arguments.part else ():
        print(
            f"\n| {task} on mpic, share of the latency | bits | qat, % | own levels, % | CPU s |\n|---|---|---|---|---|"
        )
        fronts(task)


def run(context: TrainingContext, problem: Any, budget: float, seed: int, **options: Any) -> tuple[Learned, float]:
    """What is found, and the CPU time."""
    recipe = default_learner("ddq")
    start = time.process_time()
    found = learn(replace(recipe, options={**recipe.options, "budget": budget, **options}), context, problem, seed=seed)
    return found, time.process_time() - start


def lost(table: Table, options: dict[str, Any], seeds: int) -> list[str]:
    """Cells of one row."""
    prepared = prepared_task("digits", "mpic")
    context = Evaluator(prepared.work, prepared.task).context
    problem, cost = table.problem, table.problem.costs[0]
    every = problem.space.to_policies(problem.space.grid())
    costs = np.array([cost(policy) for policy in every])
    known = [table.evaluate(policy) for policy in every]
    quality = np.array([one.value for one in known])
    divergence = np.array([one.divergence for one in known], dtype=np.float64)
    rows = []
    for spent in SPENT:
        limit = costs.min() + spent * (costs.max() - costs.min())
        for seed in range(seeds):
            found, seconds = run(context, problem, limit / costs.max(), seed, **options)
            mine, kept = table.evaluate(found.policy), costs <= limit
            ratio = np.log(float(mine.divergence or np.nan) / divergence[kept].min())
            rows.append((100 * (quality[kept].max() - mine.value), ratio, seconds))
    points, ratio, seconds = np.mean(rows, axis=0)
    return [f"{points:.2f}", f"{np.exp(ratio):.2f}", f"{seconds:.1f}"]


def fronts(task: str) -> None:
    """Print a row for each policy."""
    prepared = prepared_task(task, "mpic")
    evaluator, problem = Evaluator(prepared.work, prepared.task), prepared.problem
    cost = problem.costs[0]

    def show(name: str, policy: Policy, own: str, seconds: str) -> None:
        share = cost(policy) / cost(problem.space.highest())
        qat = 100 * evaluator.run(policy, seed=0).measurement.value
        print(f"| {share:.3f} | {name} | {qat:.2f} | {own} | {seconds} |", flush=True)

    for weight, activation in UNIFORM:
        show(f"W{weight}A{activation}", problem.space.uniform(weight, activation), "", "")
    for budget in BUDGETS:
        found, seconds = run(evaluator.context, problem, budget, 0)
        assert found.network is not None
        own = prepared.task.measure(found.network, prepared.task.val)
        bits = " ".join("".join(str(getattr(b, r)) for b in found.policy.values()) for r in ("weight", "activation"))
        show(f"ddq {bits}", found.policy, f"{100 * own.value:.2f}", f"{seconds:.1f}")


if __name__ == "__main__":
    main()
