"""A fine-tune whose gradients vanish in float16, and what loss scaling makes of it.

    python benchmarks/loss_scaling.py [--task digits-resnet20] [--weight 1e-3] [--bits 3/4]

The loss is multiplied by a small weight, as the weaker of several losses is, and nothing is distilled. Prints the share
of zeros in the gradient of each layer's output at the start, then the quality of the fine-tuned network.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import replace

import torch

from mobo_mpq.graph import Network
from mobo_mpq.objectives.tasks import LoadedTask, load_task
from mobo_mpq.policy import Policy
from mobo_mpq.training.data import first_inputs, passes
from mobo_mpq.training.half.scaling import LOSS_SCALINGS
from mobo_mpq.training.half.shares import gradient_tallies
from mobo_mpq.training.loop import Settings
from mobo_mpq.training.recipes import TrainingContext, run_recipe
from mobo_mpq.trial import Recipe

BATCHES = 8
WAYS = ("fp32", *reversed(LOSS_SCALINGS))


def settings_of(way: str) -> dict[str, float | str]:
    """Options of ``qat``."""
    half: dict[str, float | str] = {} if way == "fp32" else {"precision": "fp16", "loss_scaling": way}
    return {"distill": 0.0, **half}


def show_zeros(context: TrainingContext, policy: Policy) -> None:
    """Layer by layer, before the first step."""
    network = run_recipe(Recipe("qat", epochs=0.0), context, policy, seed=0)
    columns = []
    for way in WAYS:
        dtype = torch.float32 if way == "fp32" else torch.float16
        scaling = Settings(precision="fp16", loss_scaling="none" if way == "fp32" else way)
        batches = itertools.islice(passes(context.train, 0), BATCHES)
        columns.append(gradient_tallies(network, batches, context.loss, scaling, dtype))
    print("| zeros, % | " + " | ".join(WAYS) + " | scale, adaptive |")
    print("|---" * (len(WAYS) + 2) + "|")
    for layer in columns[0]:
        shares = " | ".join(f"{100 * column[layer].zero_share:.1f}" for column in columns)
        print(f"| `{layer}` | {shares} | {columns[-1][layer].largest_scale:g} |")


def show_quality(context: TrainingContext, task: LoadedTask, policy: Policy, epochs: float, seeds: int) -> None:
    """Of the network at the end of its fine-tune."""
    start = task.measure(run_recipe(Recipe("qat", epochs=0.0), context, policy, seed=0), task.val).value
    print(f"\n{task.metric_name} before the fine-tune: {start:.4f}\n")
    print(f"| | {task.metric_name}, seeds 0 to {seeds - 1} | zeros, % | underflow, % | steps left out | CPU s |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        values, told, began = [], [], time.process_time()
        for seed in range(seeds):
            details: dict[str, float] = {}
            recipe = Recipe("qat", epochs=epochs, options=settings_of(way))
            values.append(task.measure(run_recipe(recipe, context, policy, seed=seed, details=details), task.val).value)
            told.append(details)
        spent = (time.process_time() - began) / seeds
        cells = [" ".join(f"{value:.4f}" for value in values)]
        for name, factor in (("zero_gradient_share", 100), ("underflow_share", 100), ("overflow_steps", 1)):
            cells.append("" if way == "fp32" else f"{factor * sum(one[name] for one in told) / seeds:.2f}")
        print(f"| {way} | " + " | ".join(cells) + f" | {spent:.1f} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Loss scaling in float16.")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--weight", type=float, default=1e-4, help="of the loss")
    parser.add_argument("--bits", default="2/4", help="of weights and activations")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task(given.task)
    network = Network.from_model(task.model(), task.example)
    calibration = first_inputs(task.train, 4, seed=0)
    context = TrainingContext(network, task.train, task.loss, calibration)
    context = replace(context, loss=lambda output, target: given.weight * task.loss(output, target))
    weight, activation = map(int, given.bits.split("/"))
    policy = Policy.uniform(network.layers, weight, activation)
    show_zeros(context, policy)
    show_quality(context, task, policy, given.epochs, given.seeds)


if __name__ == "__main__":
    main()
