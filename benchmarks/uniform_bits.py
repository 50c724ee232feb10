"""What low bits cost: quality of the built-in tasks at uniform 8, 4 and 2 bits, under ptq and qat.

    python benchmarks/uniform_bits.py [--seeds 3] [--tasks digits,digits-resnet20,text]

Prints one row per task, split and recipe: the float model, then the mean over the seeds at each width; the standard
error is that of one measurement, by bootstrap.
"""

from __future__ import annotations

import argparse
import time

import torch

from mobo_mpq.graph import capture, save_program
from mobo_mpq.objective import Measurement
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import Policy
from mobo_mpq.seeding import derive
from mobo_mpq.training.data import share
from mobo_mpq.training.recipes import default_recipe
from mobo_mpq.workflows.evaluation import Evaluator, Work

BITS = (8, 4, 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", default="digits,digits-resnet20,text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    widths = "".join(f"{f'W{b}A{b}':16}" for b in BITS)
    print(f"{'task':16}{'split':7}{'recipe':8}{'float':16}{widths}CPU s per trial")
    for name in arguments.tasks.split(","):
        for recipe in ("ptq", "qat"):
            report(name, recipe, arguments.seeds)


def report(name: str, recipe: str, seeds: int) -> None:
    """Print the rows of one task and recipe."""
    task = load_task(name)
    model = task.model()
    program = save_program(capture(model, task.example))
    evaluator = Evaluator(
        Work(task.address, program, default_recipe(recipe), share(task.train), share(task.val), seed=0), task
    )
    splits = {"val": task.val, "test": task.test}
    results: dict[str, list[list[Measurement]]] = {split: [] for split in splits}
    start, trials = time.process_time(), 0
    for bits in BITS:
        policy = Policy.uniform(evaluator.context.network.layers, bits, bits)
        runs = 1 if recipe == "ptq" else seeds  # nothing in ptq is random
        networks = [evaluator.build(policy, seed=derive(seed, "uniform", bits)) for seed in range(runs)]
        trials += runs
        for split, loader in splits.items():
            assert loader is not None, "the built-in tasks have a test split"
            results[split].append([task.measure(network, loader) for network in networks])
    spent = (time.process_time() - start) / trials
    for split, loader in splits.items():
        assert loader is not None, "the built-in tasks have a test split"
        cells = [shown([task.measure(model, loader)])] + [shown(measured) for measured in results[split]]
        print(f"{name:16}{split:7}{recipe:8}" + "".join(f"{cell:16}" for cell in cells) + f"{spent:.1f}")


def shown(measured: list[Measurement]) -> str:
    """Mean over the seeds, and the standard error of one measurement."""
    mean = sum(m.value for m in measured) / len(measured)
    return f"{mean:.4f}±{measured[0].stderr or 0:.4f}"


if __name__ == "__main__":
    main()
