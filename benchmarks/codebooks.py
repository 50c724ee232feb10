"""Code books against even steps on ``digits``: the same bits for all weights, activations at 8 bits.

    python benchmarks/codebooks.py [--bits 2 3 4]

Accuracy on the validation split without and with the recipe's fine-tune, and bytes of the weights, code books
included. One thread; a minute.
"""

from __future__ import annotations

import argparse

import torch

from mobo_mpq.graph import Network
from mobo_mpq.objectives.size import SizeModel
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import Policy
from mobo_mpq.training.data import first_inputs
from mobo_mpq.training.recipes import RecipeCost, TrainingContext, default_recipe, run_recipe
from mobo_mpq.trial import Recipe

SEEDS = 3


def main() -> None:
    """Print one row for each number of bits and recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", nargs="+", type=int, default=[2, 3, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task("digits")
    calibration = first_inputs(task.train, 4, seed=0)
    network = Network.from_model(task.model(), calibration[0])
    context = TrainingContext(network, task.train, task.loss, calibration)
    print("| weight bits | recipe | bytes | not trained | trained |\n|---|---|---|---|---|")
    for bits in arguments.bits:
        policy = Policy.uniform(network.layers, bits, 8)
        for kind in ("qat", "kmeans"):
            recipe = default_recipe(kind)
            model = RecipeCost(SizeModel(network.layers), recipe)
            size = sum(model.layer_cost(layer, policy[layer.name]) for layer in network.layers)
            start = task.measure(run_recipe(Recipe(kind), context, policy, seed=0), task.val).value
            ends = [
                task.measure(run_recipe(recipe, context, policy, seed=seed), task.val).value for seed in range(SEEDS)
            ]
            print(f"| {bits} | `{kind}` | {size:.0f} | {start:.2%} | {sum(ends) / SEEDS:.2%} |", flush=True)


if __name__ == "__main__":
    main()
