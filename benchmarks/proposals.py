"""What a proposal costs, and what it is worth, on toys whose best hypervolume is known.

    python benchmarks/proposals.py [--seeds 5]

Prints, per strategy, the median share of the best hypervolume on a problem of 729 policies after 20, 30, 40 and 60
evaluations, and the CPU seconds per proposal; then the CPU seconds of `mobo` alone over
the numbers of variables and trials.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from mobo_mpq.strategies.registry import make_strategy, strategy_names
from mobo_mpq.testing.toys import make_toy, run_serial
from mobo_mpq.trial import Trial, TrialState

BUDGETS = (20, 30, 40, 60)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    print("strategy  " + "".join(f"{n:>8}" for n in BUDGETS) + "   CPU s per proposal")
    for name in strategy_names():
        start = time.process_time()
        shares = [shares_of(name, seed) for seed in seeds]
        spent = (time.process_time() - start) / (len(seeds) * BUDGETS[-1])
        medians = [statistics.median(column) for column in zip(*shares, strict=True)]
        print(f"{name:10}" + "".join(f"{share:8.3f}" for share in medians) + f"{spent:12.3f}")
    print("\nvariables  trials  CPU s per proposal of mobo, fit included (median of 5)")
    for layers, trials in ((8, 20), (8, 40), (8, 100), (25, 100)):
        print(f"{2 * layers:9}{trials:8}{proposal_seconds(layers, trials):12.2f}")


def shares_of(name: str, seed: int) -> list[float]:
    """Share of the best hypervolume after each budget."""
    toy = make_toy(seed=seed)
    trials = run_serial(make_strategy(name, toy.problem, seed=seed), toy, BUDGETS[-1])
    return [toy.share(trials[:budget]) for budget in BUDGETS]


def proposal_seconds(layers: int, trials: int) -> float:
    """Median CPU time of one proposal after so many finished trials."""
    toy = make_toy(layers, activation_bits=(2, 4, 8))
    strategy = make_strategy("mobo", toy.problem, seed=0)
    policies = dict.fromkeys(
        [toy.problem.space.highest(), *toy.problem.space.sample(4 * trials, strategy.rng(0, "toy"))]
    )
    for number, policy in enumerate(list(policies)[:trials]):
        strategy.tell([Trial(number, TrialState.COMPLETE, policy, "toy", toy.measure(policy))])
    spent = []
    for number in range(trials, trials + 5):
        start = time.process_time()
        (proposal,) = strategy.ask()
        spent.append(time.process_time() - start)
        assert proposal.policy is not None, "mobo always gives a policy"
        strategy.tell([Trial(number, TrialState.COMPLETE, proposal.policy, "toy", toy.measure(proposal.policy))])
    return statistics.median(spent)


if __name__ == "__main__":
    main()
