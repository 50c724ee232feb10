"""What further points are worth, and what they cost: ``multipoint`` beside ``ptq``.

    python benchmarks/multipoint.py [--task text]

Prints one row per recipe: the metric on the validation split, and the size of the weights relative to 8 bits, for
uniform weights and activations at 8 bits; then CPU seconds of one network.
"""

from __future__ import annotations

import argparse
import time

import torch

from mobo_mpq.graph import Network
from mobo_mpq.objectives.size import SizeModel
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import Policy
from mobo_mpq.training.data import first_inputs
from mobo_mpq.training.recipes import RecipeCost, TrainingContext, run_recipe
from mobo_mpq.trial import Recipe

BITS = (4, 3, 2)
RECIPES = {
    "`ptq`": Recipe("ptq"),
    "`extra = 0.05`": Recipe("multipoint", options={"extra": 0.05}),
    "`extra = 0.1` (the default)": Recipe("multipoint"),
    "`extra = 0.25`": Recipe("multipoint", options={"extra": 0.25}),
    "`extra = 0.5`": Recipe("multipoint", options={"extra": 0.5}),
    "`extra = 1`, `points = 2`": Recipe("multipoint", options={"extra": 1.0, "points": 2.0}),
    '`ptq`, `biases = "off"`': Recipe("ptq", options={"biases": "off"}),
    '`extra = 0.1`, `biases = "off"`': Recipe("multipoint", options={"biases": "off"}),
    '`extra = 0.25`, `biases = "off"`': Recipe("multipoint", options={"extra": 0.25, "biases": "off"}),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="multipoint beside ptq.")
    parser.add_argument("--task", default="digits")
    torch.set_num_threads(1)
    task = load_task(parser.parse_args().task)
    calibration = first_inputs(task.train, 4, seed=0)
    network = Network.from_model(task.model(), task.example)
    context = TrainingContext(network, task.train, task.loss, calibration)
    whole = sum(layer.num_weights for layer in network.layers)
    print("| | " + " | ".join(f"W{bits} | size" for bits in BITS) + " | CPU s |")
    print("|---" * (2 * len(BITS) + 2) + "|")
    for label, recipe in RECIPES.items():
        size = RecipeCost(SizeModel(network.layers), recipe)
        cells, spent = [], 0.0
        for bits in BITS:
            policy = Policy.uniform(network.layers, bits, 8)
            began = time.process_time()
            made = run_recipe(recipe, context, policy, seed=0)
            spent += time.process_time() - began
            bytes_taken = sum(size.layer_cost(layer, policy[layer.name]) for layer in network.layers)
            value = task.measure(made, task.val).value
            shown = f"{100 * value:.1f}" if task.direction == "maximize" else f"{value:.3f}"
            cells.append(f"{shown} | {bytes_taken / whole:.3f}")
        print(f"| {label} | " + " | ".join(cells) + f" | {spent / len(BITS):.2f} |")


if __name__ == "__main__":
    main()
