"""A policy is best on the device that it was searched for: the table of HAQ (Wang et al., CVPR 2019), in kind.

    python benchmarks/cross_hardware.py [--table digits-ptq-weights | --live] [--targets bismo-edge,ne16,ethos-u55-128]
                                        [--max-drop 2.0] [--trials 48] [--seeds 5]

For each target, ``mobo`` searches within ``--trials`` evaluations, and the policy of least latency among those that
lose at most ``--max-drop`` points to the float network is taken. Printed is its latency on every target: rows are what
a policy was made for, columns what it runs on. On a table, in which every policy has been evaluated, the best of all
policies comes first. With ``--live``, weights and inputs of all layers of ``digits`` are free at 2, 4 and 8 bits, and
each policy is quantized (``ptq``) and measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from exhaustive import load_table, table_names
from numpy.typing import NDArray

from mobo_mpq.config import StudyConfig
from mobo_mpq.objective import Measurement
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.optimization import optimize
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.workflows.evaluation import Evaluator
from mobo_mpq.workflows.preparation import prepare, resolve
from mobo_mpq.workflows.sensitivities import find_sensitivities

Floats = NDArray[np.float64]

TARGETS = ("bismo-edge", "ne16", "ethos-u55-128")
LIVE = ("mpic", "bismo-edge", "bismo-cloud")
POINT = 0.01


@dataclass(frozen=True, eq=False)
class Device:
    """One target, and the network on it.

    Attributes:
        problem: quality against latency.
        evaluate: gives the quality of a policy: the same on every device.
        float_quality: of the unquantized network.
    """

    problem: Problem
    evaluate: Callable[[Policy], Measurement]
    float_quality: float


def of_table(name: str, targets: Sequence[str]) -> dict[str, Device]:
    """Devices that price the policies of a table."""
    table = load_table(name)
    problems = {target: table.priced(load_target(target)).problem for target in targets}
    return {target: Device(problem, table.evaluate, table.float_quality) for target, problem in problems.items()}


def live(targets: Sequence[str]) -> dict[str, Device]:
    """Devices for ``digits``; a policy is measured once, whichever device it was proposed for."""
    prepared = [prepare(resolve(StudyConfig.parse({"task": "digits", "recipe": "ptq", "target": t}))) for t in targets]
    first = prepared[0]
    evaluator = Evaluator(first.work, first.task)
    known: dict[Policy, Measurement] = {}

    def evaluate(policy: Policy) -> Measurement:
        if policy not in known:
            outcome = evaluator.run(policy, seed=0)
            assert outcome.measurement is not None, outcome.error
            known[policy] = outcome.measurement
        return known[policy]

    quality = first.baseline["val"][first.task.metric_name].value
    devices = {}
    for name, one in zip(targets, prepared, strict=True):
        sensitivities = find_sensitivities(one.network, one.problem.space, one.task, print)
        devices[name] = Device(one.knowing(sensitivities).problem, evaluate, quality)
    return devices


def fastest(device: Device, policies: Sequence[Policy], max_drop: float) -> Policy:
    """The policy of least latency within ``max_drop`` points of the float network; of equals the most accurate one."""
    allowed = device.float_quality - POINT * max_drop
    good = [policy for policy in policies if device.evaluate(policy).value >= allowed]
    return min(good, key=lambda policy: (device.problem.costs[0](policy), -device.evaluate(policy).value))


def best_of_all(device: Device, max_drop: float) -> Policy:
    """Likewise, of the whole space."""
    space = device.problem.space
    return fastest(device, space.to_policies(space.grid()), max_drop)


def searched(device: Device, trials: int, seed: int, max_drop: float) -> Policy:
    """Likewise, of what a search finds."""
    study = optimize(device.problem, device.evaluate, strategy="mobo", trials=trials, seed=seed)
    return fastest(device, [trial.policy for trial in study.trials if trial.policy is not None], max_drop)


def latencies(devices: Mapping[str, Device], policies: Mapping[str, Policy]) -> Floats:  # made for x runs on
    """Seconds of each device's policy on every device."""
    costs = [device.problem.costs[0] for device in devices.values()]
    return np.array([[cost(policies[name]) for cost in costs] for name in devices])


def diagonal_wins(seconds: Floats) -> bool:
    """Whether every column's least value, and no other, is on the diagonal."""
    others = seconds + np.diag(np.full(len(seconds), np.inf))
    return bool((np.diag(seconds) < others.min(axis=0)).all())


def _show(title: str, devices: Mapping[str, Device], policies: Mapping[str, Policy]) -> Floats:
    notes = []
    for name, device in devices.items():
        bits = " ".join(f"{pair.weight}/{pair.activation}" for pair in policies[name].values())
        notes.append(f"  {device.evaluate(policies[name]).value:.4f}  {bits}")
    _print(title, list(devices), seconds := latencies(devices, policies), notes)
    return seconds


def _print(title: str, names: Sequence[str], seconds: Floats, notes: Sequence[str]) -> None:
    print(f"\n{title}: the diagonal {'wins' if diagonal_wins(seconds) else 'does NOT win'} every column")
    print(f"{'searched for':>16}" + "".join(f"{name + ', us':>20}" for name in names))
    for name, row, note in zip(names, seconds, notes, strict=True):
        print(f"{name:>16}" + "".join(f"{1e6 * value:>20.3f}" for value in row) + note, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="digits-ptq-weights", choices=table_names())
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--targets")
    parser.add_argument("--max-drop", type=float, default=2.0)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    targets = given.targets.split(",") if given.targets else LIVE if given.live else TARGETS
    devices = live(targets) if given.live else of_table(given.table, targets)
    least = None
    if not given.live:
        exact = {name: best_of_all(device, given.max_drop) for name, device in devices.items()}
        least = np.diag(_show("the best of all policies", devices, exact))
    tables = []
    for seed in range(given.seeds):
        found = {name: searched(device, given.trials, seed, given.max_drop) for name, device in devices.items()}
        seconds = _show(f"searched with {given.trials} trials, seed {seed}", devices, found)
        tables.append(seconds)
        if least is not None:
            over = np.diag(seconds) / least - 1
            print(f"{'over the best':>16}" + "".join(f"{100 * x:>18.2f} %" for x in over))
    _print(f"mean over {given.seeds} seeds", list(devices), np.mean(tables, axis=0), [""] * len(devices))
    print(f"\nthe diagonal wins every column in {sum(map(diagonal_wins, tables))} of {given.seeds} seeds")


if __name__ == "__main__":
    main()
