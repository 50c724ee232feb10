"""What conversions cost in ONNX Runtime: policies of AMP's phase 2, and what phase 3 makes of them, on this machine.

    python benchmarks/conversions.py [--image 128] [--rounds 5] [--repeats 10] [--seed 0] [--points 3]

MobileNetV2 with float and 8 bits, target 'x86-ort'. Each point lowers its groups of quantizers in an order that is
drawn, so that borders between float and 8 bits are many; phase 3 takes some of them back, by their number or by the
elements of the tensors. Each policy is exported and timed end to end, in turns, on one thread. Prints conversions,
elements that are converted, the latency that is the sum of the layers, and the one that was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from predicted_latency import time_policies

from mobo_mpq.graph import Network
from mobo_mpq.layers import LayerSpec
from mobo_mpq.objective import CostObjective, Direction, ObjectiveInfo
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace
from mobo_mpq.strategies.amp_conversions import Phase3, conversions
from mobo_mpq.strategies.amp_curve import phase_1, phase_2
from mobo_mpq.testing.networks import mobilenet_v2
from mobo_mpq.workflows import environment

SHARES = (0.6, 0.2)


def main() -> None:
    """Draw, export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=3)
    arguments = parser.parse_args()
    environment.prepare()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    example = torch.randn(2, 3, arguments.image, arguments.image)
    network = Network.from_model(mobilenet_v2().eval(), example)
    problem = problem_of(network.layers, np.random.default_rng(arguments.seed))
    policies = chosen(problem, arguments.points)
    measured = time_policies(network, policies, example, arguments.rounds, arguments.repeats)
    print("| policy | 8-bit layers | conversions | elements | sum of layers, ms | measured, ms |\n" + "|---" * 6 + "|")
    for name, policy in policies.items():
        levels = problem.space.to_levels([policy])[0]
        count, elements = (conversions(problem, levels, price) for price in ("count", "elements"))
        low = sum(bits.activation == 8 for bits in policy.values())
        cells = (
            f"{low} | {count:.0f} | {elements:,.0f} | {1e3 * problem.costs[0](policy):.2f} | {1e3 * measured[name]:.2f}"
        )
        print(f"| {name} | {cells} |")


def problem_of(layers: Sequence[LayerSpec], rng: np.random.Generator) -> Problem:
    """Sensitivities that are drawn: what AMP makes of them has as many borders as any order has."""
    target = load_target("x86-ort")
    space = SearchSpace.from_layers(layers, target, weight_bits=(8, 32), activation_bits=(8, 32))
    cost = CostObjective.from_model(target.latency, layers, space)
    quality = ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.5)
    losses = rng.random((len(layers), 1)) * np.array([option.weight < 32 for option in space.options])
    return Problem(tuple(layers), space, (quality, cost), sensitivity=losses)


def chosen(problem: Problem, points: int) -> dict[str, Policy]:
    """Both uniform policies, points evenly along the list, and what phase 3 makes of them."""
    curve = phase_2(problem, phase_1(problem))
    policies = {"32/32": problem.space.highest(), "8/8": problem.space.to_policies(curve[-1])[0]}
    for index in np.linspace(0, len(curve) - 1, points + 2).astype(int)[1:-1]:
        policies[f"point {index}"] = problem.space.to_policies(curve[index])[0]
        for price in ("count", "elements"):
            programme = Phase3(problem, curve[index], price)
            for share in SHARES:
                policies[f"point {index}, {price}, {share}"] = problem.space.to_policies(programme.solve(share))[0]
    return policies


if __name__ == "__main__":
    main()
