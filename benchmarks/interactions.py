"""Do losses of pairs of tensors predict policies better than those of single ones? On exhaustive tables.

    python benchmarks/interactions.py [--tables digits-ptq-weights text-ptq] [--budgets 24]

For each table, losses of single tensors and of pairs are measured as a search would, on training samples. One row for
each way of predicting: passes and CPU seconds of measuring; Spearman's rank correlation of the predicted loss with the
divergence and with the quality, over the policies whose quality is of interest; and the share of the best hypervolume
of the policies of least predicted loss within budgets that are evenly spread over the cost. 'convex' are the pairs with
the negative eigenvalues of their matrix cut off, as CLADO does. Then, for each table, how much two layers lose
together. Tables were made without bias correction, and so are the losses. One thread; a minute.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from exhaustive import Table, load_table
from make_tables import DEFINITIONS, prepared
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mobo_mpq.sensitivity import PairTable, SensitivityTable, perturb, perturb_pairs
from mobo_mpq.workflows.sensitivities import sample_batches

TABLES = ("digits-ptq-weights", "digits-ptq-both", "text-ptq", "digits-qat")


def main() -> None:
    """Print a table for each space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES))
    parser.add_argument("--budgets", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| table | losses of | passes | CPU s | divergence | quality | hypervolume |\n|---|---|---|---|---|---|---|")
    ratios = []
    for name in arguments.tables:
        made, space = prepared(DEFINITIONS[name])
        batches = sample_batches(made.task)
        single, pairs = perturb(made.network, space, batches), perturb_pairs(made.network, space, batches)
        table = load_table(name)
        options = space.option_indices(space.grid())
        rows = {
            "single tensors": (single, single.values[np.arange(len(space.names)), options].sum(axis=1)),
            "pairs": (pairs, np.array([pairs.predicted(row) for row in options])),
            "pairs, convex": (pairs, convex(pairs, options)),
        }
        for label, (measured, predicted) in rows.items():
            print(f"| {name} | {label} | " + row(table, measured, predicted, arguments.budgets), flush=True)
        ratios.append(f"{name}: two layers at their lowest bits lose {together(pairs)} times the sum of both")
    print("\n" + "\n".join(ratios))


def row(table: Table, measured: SensitivityTable | PairTable, predicted: NDArray[np.float64], budgets: int) -> str:
    """What a way of predicting costs, and how good it is."""
    space, info = table.problem.space, table.problem.quality
    policies = space.to_policies(space.grid())
    found = [table.evaluate(policy) for policy in policies]
    quality = info.sign * np.array([one.value for one in found])
    interest = quality > info.sign * info.reference
    divergence = np.array([one.divergence for one in found])
    costs = table.problem.costs[0].of_levels(space.grid())
    limits = np.linspace(costs.min(), costs.max(), budgets)
    chosen = {int(np.argmin(np.where(costs <= limit * (1 + 1e-9), predicted, np.inf))) for limit in limits}
    share = table.hypervolume([policies[index] for index in sorted(chosen)]) / table.best_hypervolume
    ranks = (float(spearmanr(predicted[interest], value[interest])[0]) for value in (divergence, -quality))
    cells = " | ".join(f"{value:.3f}" for value in (*ranks, share))
    return f"{measured.evaluations} | {measured.cpu_s:.2f} | {cells} |"


def together(pairs: PairTable) -> str:
    """The least and the largest ratio."""
    lowest = {ends: (table[0, 0], pairs.values[list(ends), 0].sum()) for ends, table in pairs.interactions.items()}
    ratios = [1 + beyond / alone for beyond, alone in lowest.values()]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def convex(pairs: PairTable, options: NDArray[np.intp]) -> NDArray[np.float64]:  # n x layers -> n
    """Losses by the nearest positive semidefinite matrix of all options of all layers, which is half the Hessian."""
    layers, width = pairs.values.shape
    matrix = np.diag(pairs.values.ravel())
    for (i, j), table in pairs.interactions.items():
        own, other = slice(i * width, (i + 1) * width), slice(j * width, (j + 1) * width)
        matrix[own, other], matrix[other, own] = table / 2, table.T / 2
    values, vectors = np.linalg.eigh(matrix)
    matrix = vectors * np.maximum(values, 0.0) @ vectors.T
    columns = options + width * np.arange(layers)
    return np.array([matrix[np.ix_(row, row)].sum() for row in columns])


if __name__ == "__main__":
    main()
