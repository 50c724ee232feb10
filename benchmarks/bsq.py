"""BSQ over its strengths: bits found, what they cost, and quality, as it was learned and by the ordinary recipe.

    python benchmarks/bsq.py [--task digits] [--target mpic] [--strengths 0.03,0.3,3] [--activation-bits 8,4,2] [...]

Quality is that on the validation split; CPU seconds are those of the learner.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch

from mobo_mpq.config import StudyConfig
from mobo_mpq.policy import Policy
from mobo_mpq.quant.bsq import BitPlanes
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training import bit_sparsity
from mobo_mpq.training.bit_sparsity import shares_kept
from mobo_mpq.training.learning import learn
from mobo_mpq.trial import Recipe
from mobo_mpq.workflows.evaluation import Evaluator
from mobo_mpq.workflows.preparation import prepare, resolve


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--target", default="mpic")
    parser.add_argument("--strengths", default="0.03,0.1,0.3,1,3")
    parser.add_argument("--activation-bits", default="8,4,2")
    parser.add_argument("--weights-by", default="cost")
    parser.add_argument("--per-channel", default="on")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument(
        "--lasso", choices=("bsq", "equation"), default="bsq", help="equation: what low planes feel in the paper"
    )
    parser.add_argument("--uniform", action="store_true", help="also the same bits everywhere, by the ordinary recipe")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.lasso == "equation":
        bit_sparsity.shares_kept = kept_by_the_equation
    prepared = prepare(resolve(StudyConfig.parse({"task": arguments.task, "target": arguments.target})))
    evaluator, problem = Evaluator(prepared.work, prepared.task), prepared.problem
    cost = problem.costs[0]
    highest = cost(problem.space.highest())

    def row(what: str, policy: Policy, own: str, more: str) -> None:
        measurement = evaluator.run(policy, seed=0).measurement
        quality = "failed" if measurement is None else f"{measurement.value:.4f}"
        print(f"{what:18}{own:26}{digits(policy):26}{cost(policy) / highest:<8.3f}{quality:10}{more}", flush=True)

    print(f"{'strength':18}{'weight bits found':26}{'covered':26}{'cost':8}{'quality':10}learned   CPU s")
    for activation in map(int, arguments.activation_bits.split(",")):
        if arguments.uniform:
            for weight in problem.space.weight_bits:
                row(f"W{weight}A{activation}", Policy.uniform(problem.layers, weight, activation), "", "")
        for strength in map(float, arguments.strengths.split(",")):
            options: dict[str, Any] = {"strength": strength, "activation_bits": activation}
            options |= {"weights_by": arguments.weights_by, "per_channel": arguments.per_channel}
            options["rate"] = arguments.rate
            start = time.process_time()
            found = learn(Recipe("bsq", arguments.epochs, options=options), evaluator.context, problem, seed=0)
            spent = time.process_time() - start
            assert isinstance(found.network, QuantizedNetwork), "BSQ returns what it trained"
            learned = evaluator.score(found.network).value
            row(
                f"{strength:g} A{activation}",
                found.policy,
                digits(found.network.policy),
                f"{learned:<10.4f}{spent:.1f}",
            )


def kept_by_the_equation(tied: Sequence[BitPlanes], gradient: float, amount: float) -> list[float]:
    """What is left of each plane when the lasso, too, takes steps in the proportion of the planes' rates."""
    planes = len(tied[0].planes)
    return [shares_kept(tied, gradient, amount * 2.0 ** (bit + 1 - planes))[bit] for bit in range(planes)]


def digits(policy: Policy) -> str:
    """One digit per layer: its weight bits."""
    return "".join(str(bits.weight) for bits in policy.values())


if __name__ == "__main__":
    main()
