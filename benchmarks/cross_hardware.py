"""A policy is best on the device that it was searched for: the table of HAQ (Wang et al., CVPR 2019), in kind.

    python benchmarks/cross_hardware.py [--table digits-ptq-weights] [--targets bismo-edge,ne16,ethos-u55-128]
                                        [--max-drop 2.0] [--trials 48] [--seeds 5]

Every policy of the table has been evaluated, so the quality is known; the latencies are those of each target. For each
target the policy of least latency among those that lose at most ``--max-drop`` points is taken: of the whole table, and
of what ``mobo`` finds within ``--trials`` evaluations. Printed is its latency on every target: rows are what a policy
was made for, columns what it runs on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
from exhaustive import Table, load_table, table_names
from numpy.typing import NDArray

from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.optimization import optimize
from mobo_mpq.policy import Policy

Floats = NDArray[np.float64]

TARGETS = ("bismo-edge", "ne16", "ethos-u55-128")
POINT = 0.01


def fastest(table: Table, policies: Sequence[Policy], max_drop: float) -> Policy:
    """The policy of least latency within ``max_drop`` points of the highest bits; of equals the most accurate one."""
    allowed = _quality(table, table.problem.space.highest()) - POINT * max_drop
    good = [policy for policy in policies if _quality(table, policy) >= allowed]
    return min(good, key=lambda policy: (table.problem.costs[0](policy), -_quality(table, policy)))


def best_of_all(table: Table, max_drop: float) -> Policy:
    """Likewise, of the whole table."""
    space = table.problem.space
    return fastest(table, space.to_policies(space.grid()), max_drop)


def searched(table: Table, trials: int, seed: int, max_drop: float) -> Policy:
    """Likewise, of what a search finds."""
    study = optimize(table.problem, table.evaluate, strategy="mobo", trials=trials, seed=seed)
    return fastest(table, [trial.policy for trial in study.trials if trial.policy is not None], max_drop)


def latencies(tables: Mapping[str, Table], policies: Mapping[str, Policy]) -> Floats:  # made for x runs on
    """Seconds of each target's policy on every target."""
    return np.array([[table.problem.costs[0](policies[name]) for table in tables.values()] for name in tables])


def diagonal_wins(seconds: Floats) -> bool:
    """Whether every column's least value, and no other, is on the diagonal."""
    others = seconds + np.diag(np.full(len(seconds), np.inf))
    return bool((np.diag(seconds) < others.min(axis=0)).all())


def _quality(table: Table, policy: Policy) -> float:
    return table.problem.quality.sign * table.evaluate(policy).value


def _show(title: str, tables: Mapping[str, Table], policies: Mapping[str, Policy], seconds: Floats) -> None:
    print(f"\n{title}: the diagonal {'wins' if diagonal_wins(seconds) else 'does NOT win'} every column")
    names = list(tables)
    print(f"{'searched for':>16}" + "".join(f"{name + ', us':>20}" for name in names) + "  quality  weights/inputs")
    for row, name in enumerate(names):
        cells = "".join(f"{1e6 * value:>20.3f}" for value in seconds[row])
        bits = " ".join(f"{pair.weight}/{pair.activation}" for pair in policies[name].values())
        print(f"{name:>16}{cells}  {tables[name].evaluate(policies[name]).value:.4f}   {bits}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="digits-ptq-weights", choices=table_names())
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--max-drop", type=float, default=2.0)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    table = load_table(given.table)
    tables = {name: table.priced(load_target(name)) for name in given.targets.split(",")}
    exact = {name: best_of_all(one, given.max_drop) for name, one in tables.items()}
    _show("the best of all policies", tables, exact, least := latencies(tables, exact))
    wins = 0
    for seed in range(given.seeds):
        found = {name: searched(one, given.trials, seed, given.max_drop) for name, one in tables.items()}
        seconds = latencies(tables, found)
        wins += diagonal_wins(seconds)
        _show(f"searched with {given.trials} trials, seed {seed}", tables, found, seconds)
        print(f"{'over the best':>16}" + "".join(f"{100 * x:>18.2f} %" for x in np.diag(seconds) / np.diag(least) - 1))
    print(f"\nthe diagonal wins every column in {wins} of {given.seeds} seeds")


if __name__ == "__main__":
    main()
