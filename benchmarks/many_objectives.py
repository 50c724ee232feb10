"""Searches in four objectives: quality, latency, energy and size, on a space in which every policy has been evaluated.

    python benchmarks/many_objectives.py [--table digits-ptq-both] [--target bitfusion] [--trials 48] [--seeds 5]

Prints, for each strategy, the share of the best hypervolume that the policies evaluated so far dominate (median over
the seeds, the lowest in brackets), and the CPU seconds of one proposal, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time

from exhaustive import Table, load_table, table_names

from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.optimization import optimize
from mobo_mpq.policy import Policy

COSTS = ("latency", "energy", "size")
STRATEGIES = ("mobo", "sensitivity", "nsga2", "random")


def shares(table: Table, strategy: str, trials: int, seed: int, at: tuple[int, ...]) -> tuple[list[float], float]:
    """Shares of the best hypervolume after so many evaluations, and CPU seconds per proposal."""
    start = time.process_time()
    study = optimize(table.problem, table.evaluate, strategy=strategy, trials=trials, seed=seed)
    seconds = (time.process_time() - start) / trials  # a look-up costs nothing
    policies: list[Policy] = [trial.policy for trial in study.trials if trial.policy is not None]
    return [table.hypervolume(policies[:count]) / table.best_hypervolume for count in at], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="digits-ptq-both", choices=table_names())
    parser.add_argument("--target", default="bitfusion")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    table = load_table(given.table).priced(load_target(given.target), COSTS)
    at = (given.trials // 2, given.trials)
    print(f"{given.table} on {given.target}: quality, {', '.join(COSTS)}; {given.seeds} seeds")
    print(f"{'strategy':>12}{f'after {at[0]}':>20}{f'after {at[1]}':>20}{'CPU s per proposal':>20}")
    for strategy in STRATEGIES:
        found = [shares(table, strategy, given.trials, seed, at) for seed in range(given.seeds)]
        columns = [[share for share in column] for column in zip(*(one for one, _ in found), strict=True)]
        cells = "".join(f"{f'{statistics.median(c):.4f} ({min(c):.4f})':>20}" for c in columns)
        print(f"{strategy:>12}{cells}{statistics.median(seconds for _, seconds in found):>20.3f}", flush=True)


if __name__ == "__main__":
    main()
