"""What each step of post-training quantization is worth on digits, and what it costs.

    python benchmarks/ptq_steps.py

Prints one row per set of options: accuracy on the validation split at several policies, activations at 8 bits, and CPU
seconds of making one network.
"""

from __future__ import annotations

import time

import torch

from mobo_mpq.graph import Network
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import Policy
from mobo_mpq.training.data import first_inputs
from mobo_mpq.training.recipes import TrainingContext, run_recipe
from mobo_mpq.trial import Recipe

OPTIONS: dict[str, dict[str, float | str]] = {
    "ranges alone": {"biases": "off"},
    "equalized": {"biases": "off", "equalization": "on"},
    "biases, analytic": {"biases": "analytic"},
    "biases (the default)": {},
    "equalized, biases": {"equalization": "on"},
    "rounding": {"biases": "off", "rounding": "adaptive"},
    "rounding, biases": {"rounding": "adaptive"},
}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    task = load_task("digits")
    calibration = first_inputs(task.train, 4, seed=0)
    network = Network.from_model(task.model(), calibration[0])
    context = TrainingContext(network, task.train, task.loss, calibration)
    names = [layer.name for layer in network.layers]
    policies = {f"W{bits}": Policy.of({name: (bits, 8) for name in names}) for bits in (8, 4, 3, 2)}
    policies["4, last 2"] = Policy.of({name: (2 if name in names[-2:] else 4, 8) for name in names})
    print("| options | " + " | ".join(policies) + " | CPU s |")
    print("|---" * (len(policies) + 2) + "|")
    for label, options in OPTIONS.items():
        cells, start, scoring = [], time.process_time(), 0.0
        for policy in policies.values():
            made = run_recipe(Recipe("ptq", options=options), context, policy, seed=0)
            began = time.process_time()
            cells.append(f"{100 * task.measure(made, task.val).value:.1f}")
            scoring += time.process_time() - began
        spent = (time.process_time() - start - scoring) / len(policies)
        print(f"| {label} | " + " | ".join(cells) + f" | {spent:.2f} |")


if __name__ == "__main__":
    main()
