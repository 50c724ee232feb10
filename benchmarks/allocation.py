"""How long exact allocation takes: 120 layers of very different sizes, 2 to 8 bits for weights and inputs, two budgets.

    python benchmarks/allocation.py [--seeds 8]

Prints median and largest CPU seconds over the instances, three tightnesses for each seed. Then the same for 20
layers of 3 options all of which interact, and one budget.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from mobo_mpq.allocation import allocate

LAYERS, SHARES = 120, (0.2, 0.45, 0.7)


def main() -> None:
    """Solve and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    spent = [seconds(seed, share) for seed in range(arguments.seeds) for share in SHARES]
    print(f"{len(spent)} instances: median {np.median(spent):.2f} s CPU, largest {max(spent):.2f} s")
    spent = [seconds_of_pairs(seed, 20) for seed in range(arguments.seeds)]
    print(f"20 layers that interact: median {np.median(spent):.2f} s CPU, largest {max(spent):.2f} s")


def seconds(seed: int, share: float) -> float:
    """CPU time of one instance whose budgets leave a share of their range."""
    rng = np.random.default_rng(seed)
    bits = np.array(list(itertools.product(range(2, 9), repeat=2)))
    losses = rng.lognormal(0.0, 1.5, (LAYERS, 2))
    loss = losses[:, :1] * 4.0 ** -bits[:, 0] + losses[:, 1:] * 4.0 ** -bits[:, 1]
    costs = {
        "size_bytes": rng.lognormal(8.0, 1.5, (LAYERS, 1)) * bits[:, 0] / 8,
        "bops": rng.lognormal(12.0, 1.5, (LAYERS, 1)) * bits.prod(axis=1),
    }
    least = {name: float(table.min(1).sum()) for name, table in costs.items()}
    most = {name: float(table.max(1).sum()) for name, table in costs.items()}
    budgets = {name: least[name] + share * (most[name] - least[name]) for name in costs}
    start = time.process_time()
    allocate(loss, costs, budgets)
    return time.process_time() - start


def seconds_of_pairs(seed: int, layers: int) -> float:
    """CPU time of one instance whose loss is quadratic in errors of random directions, at half of the highest cost."""
    rng = np.random.default_rng(seed)
    steps = 2.0 ** (2 - np.array([2, 4, 8]))
    errors = rng.normal(size=(layers, 30)) * rng.lognormal(0.0, 1.0, (layers, 1))
    interactions = {
        (i, j): 2 * (errors[i] @ errors[j]) * np.outer(steps, steps)
        for i, j in itertools.combinations(range(layers), 2)
    }
    cost = rng.lognormal(0.0, 1.0, (layers, 1)) * [2, 4, 8]
    start = time.process_time()
    allocate(
        (errors**2).sum(axis=1, keepdims=True) * steps**2,
        {"size_bytes": cost},
        {"size_bytes": float(cost[:, -1].sum() / 2)},
        interactions=interactions,
    )
    return time.process_time() - start


if __name__ == "__main__":
    main()
