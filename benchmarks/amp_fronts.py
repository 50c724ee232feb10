"""The curve of AMP on the tables of every policy, beside ``sensitivity`` and ``mobo``.

    python benchmarks/amp_fronts.py [--seeds 5]

Prints, per table, the share of the best hypervolume after so many evaluations (the median over seeds), the share that
the points of AMP's list give when all are evaluated, and CPU seconds of the strategy. What measuring the sensitivities
costs, the same for all three, is not in it.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from engine_runs import Job, make_case, play

from mobo_mpq.strategies.amp import Amp
from mobo_mpq.strategies.registry import make_strategy

TABLES = ("digits-ptq-both", "digits-ptq-weights", "text-ptq")
AFTER = (8, 16, 24, 40, 64)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description="AMP on the tables of every policy.")
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print("| table | strategy | " + " | ".join(map(str, AFTER)) + " | CPU s |")
    print("|---" * (len(AFTER) + 3) + "|")
    for name in TABLES:
        case = make_case(name, 0)
        points = case.problem.space.to_policies(Amp(case.problem, seed=0).points)
        for strategy in ("amp", "sensitivity", "mobo"):
            shares, spent = [], []
            for seed in range(seeds):
                began = time.process_time()
                job = Job(name, strategy, seed, 1, max(AFTER))
                policies, _, _ = play(case, make_strategy(strategy, case.problem, seed), job)
                spent.append(time.process_time() - began)
                shares.append([case.hypervolume(policies[:count]) / case.best() for count in AFTER])
            cells = " | ".join(f"{100 * share:.1f}" for share in np.median(shares, axis=0))
            print(f"| {name} | `{strategy}` | {cells} | {np.median(spent):.2f} |", flush=True)
        whole = case.hypervolume(points) / case.best()
        print(f"| | {len(points)} points of {case.problem.space.cardinality} policies: {100 * whole:.1f} |", flush=True)


if __name__ == "__main__":
    main()
