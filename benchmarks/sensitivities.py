"""What sensitivities cost, and how well few samples stand for many.

    python benchmarks/sensitivities.py [--tasks digits,text] [--draws 6]

The truth is naive: for every variable and level a network of its own, made by recipe ptq, and compared with the float
network on the whole validation split. Against it stand passes over a few training samples, drawn anew several times,
and then the other kinds of sensitivity. Medians over the draws: CPU seconds, the same in ptq trials, Spearman's rank
correlation, and the typical factor between both (the standard deviation of the logarithm). One thread; some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mobo_mpq.config import StudyConfig
from mobo_mpq.seeding import derive
from mobo_mpq.sensitivity import Given, SensitivityTable, kind_names, measure, perturb
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import passes
from mobo_mpq.workflows.evaluation import CALIBRATION_BATCHES, Evaluator
from mobo_mpq.workflows.preparation import prepare, resolve

Measure = Callable[..., SensitivityTable]
CASES = {"digits": ("mpic", (32, 64, 128, 256)), "text": ("bitfusion", (4, 8, 16, 32, 64))}


def main() -> None:
    """Print one table per task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="digits,text")
    parser.add_argument("--draws", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for task in arguments.tasks.split(","):
        target, sizes = CASES[task]
        report(task, target, sizes, arguments.draws)


def report(task: str, target: str, sizes: tuple[int, ...], draws: int) -> None:
    """Print the table of one task."""
    made = prepare(resolve(StudyConfig.parse({"task": task, "target": target, "recipe": "ptq"})))
    space, moves = made.problem.space, single_moves(made.problem.space)
    truth, trial_s = naive(Evaluator(made.work, made.task), space, moves)
    print(
        f"{task} on {target}: {len(moves)} moves; a ptq trial takes {trial_s:.2f} s CPU, all moves {truth.size} of them"
    )
    given = Given(made.task.loss, biases=True)
    ways: dict[str, Measure] = {
        f"perturbation, {samples} samples": partial(perturb, made.network, space, samples=samples, biases=True)
        for samples in sizes
    }
    ways["perturbation, biases as they are"] = partial(perturb, made.network, space)
    for kind in kind_names()[1:]:
        ways[kind] = partial(measure, kind, made.network, space, given=given)
    print("| kind | CPU s | in ptq trials | rank correlation | factor |\n|---|---|---|---|---|")
    for label, way in ways.items():
        rows = []
        for draw in range(draws):
            stream = passes(made.task.train, derive(draw, "draw"))
            table = way(batches=list(itertools.islice(stream, CALIBRATION_BATCHES)))
            shown = np.array([predicted(table, space, levels) for levels in moves])
            both = (shown > 1e-5) & (truth > 1e-5)
            spread = np.log(shown[both] / truth[both]).std()
            rows.append((table.cpu_s, float(spearmanr(truth, shown)[0]), float(np.exp(spread))))
        cpu_s, rank, factor = np.median(rows, axis=0)
        print(f"| {label} | {cpu_s:.2f} | {cpu_s / trial_s:.2f} | {rank:.3f} | {factor:.2f} |", flush=True)


def single_moves(space: SearchSpace) -> NDArray[np.intp]:  # moves x d
    """Every variable alone at each of its levels but the highest."""
    moves = [(i, level) for i, size in enumerate(space.sizes) for level in range(size - 1)]
    levels = np.tile(space.sizes - 1, (len(moves), 1))
    for row, (i, level) in zip(levels, moves, strict=True):
        row[i] = level
    return levels


def naive(evaluator: Evaluator, space: SearchSpace, moves: NDArray[np.intp]) -> tuple[NDArray[np.float64], float]:
    """Growth of the divergence by each move, and the CPU seconds of one trial."""
    start, divergences = time.process_time(), []
    for policy in [space.highest(), *space.to_policies(moves)]:
        measured = evaluator.run(policy, seed=0).measurement
        assert measured is not None and measured.divergence is not None, "the built-in tasks are classifiers"
        divergences.append(measured.divergence)
    spent = time.process_time() - start
    return np.maximum(np.array(divergences[1:]) - divergences[0], 0.0), spent / len(divergences)


def predicted(table: SensitivityTable, space: SearchSpace, levels: NDArray[np.intp]) -> float:
    """A policy's sum over its layers."""
    return float(table.values[np.arange(len(space.names)), space.option_indices(levels)].sum())


if __name__ == "__main__":
    main()
