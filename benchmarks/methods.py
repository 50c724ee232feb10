"""Every method of the field on equal terms: the front that each finds in the same CPU time, scored by one evaluator.

    python benchmarks/methods.py [--tasks digits digits-resnet20] [--target ne16] [--methods mobo ddq] [--seeds 3]

A search ends when its CPU time is spent: sensitivities, proposals, learning and fine-tunes count. Then each policy of
each front is fine-tuned anew, with a seed of its own, and scored on the test split, which no search has seen. HAQ
needs hundreds of episodes, so its reward comes from ``ptq``. Two processes of one thread each. What was run is kept in
``methods.json``: an interrupted command goes on where it was.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported: one thread for each run

import argparse  # noqa: E402
import json  # noqa: E402
import multiprocessing  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from concurrent.futures import ProcessPoolExecutor, as_completed  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402

import methods_plot  # noqa: E402
from methods_runs import UNIFORM, Job, Scored, lead, prepared_task, rescore, run, scored, unmatched  # noqa: E402

BUDGETS_S = {"digits": 100.0, "digits-resnet20": 120.0}
METHODS = ("mobo", "random", "haq", "ddq", "bsq", "seam")
ASSETS = Path(__file__).parents[1] / "docs" / "assets" / "methods"
RESCORED_AT_ONCE = 8


def main() -> None:
    """Run what is missing, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(BUDGETS_S))
    parser.add_argument("--target", default="mpic")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=None, help="CPU seconds of a search. [default: by task]")
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    kept = Kept(arguments.out / "methods.json")
    for task in arguments.tasks:
        prepared_task(task, arguments.target)  # the float model is trained before two processes want it
        budget = arguments.budget or BUDGETS_S[task]
        jobs = [Job(task, arguments.target, m, s, budget) for s in range(arguments.seeds) for m in arguments.methods]
        jobs.append(Job(task, arguments.target, UNIFORM, 0, budget))
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            search(jobs, kept, pool)
            score(task, arguments.target, kept, pool)
        report(jobs, kept, arguments.out)


class Kept:
    """Runs and scores, in one file that is written after each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        document = json.loads(file.read_text()) if file.exists() else {}
        self.runs: list[dict[str, Any]] = document.get("runs", [])
        self.scores: dict[str, dict[str, dict[str, float]]] = document.get("scores", {})

    def run_of(self, job: Job) -> dict[str, Any] | None:
        """What is known of a job."""
        return next((one for one in self.runs if all(one[k] == v for k, v in job._asdict().items())), None)

    def write(self) -> None:
        """All of it, whole or not at all."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"runs": self.runs, "scores": self.scores}, separators=(",", ":")) + "\n")
        partial.replace(self.file)


def search(jobs: Sequence[Job], kept: Kept, pool: ProcessPoolExecutor) -> None:
    """Run the searches that are missing."""
    waiting = [pool.submit(run, job) for job in jobs if kept.run_of(job) is None]
    for done in as_completed(waiting):
        found = done.result()
        kept.runs.append(found)
        kept.write()
        print(
            f"{found['task']}: {found['method']}, seed {found['seed']}: {found['trials']} trials, {found['failed']} "
            f"failed, {found['cpu_s']:.0f} s CPU, {len(found['front'])} policies",
            flush=True,
        )


def score(task: str, target: str, kept: Kept, pool: ProcessPoolExecutor) -> None:
    """Score each policy of each front that has no score yet; one that several methods found is scored once."""
    known = kept.scores.setdefault(task, {})
    fronts = [found["front"] for found in kept.runs if (found["task"], found["target"]) == (task, target)]
    policies = {key(one["policy"]): one["policy"] for front in fronts for one in front}
    missing = [(name, policy) for name, policy in policies.items() if name not in known]
    batches = [missing[i : i + RESCORED_AT_ONCE] for i in range(0, len(missing), RESCORED_AT_ONCE)]
    waiting = {pool.submit(rescore, task, target, [policy for _, policy in batch], 0): batch for batch in batches}
    for done in as_completed(waiting):
        known |= {name: found for (name, _), found in zip(waiting[done], done.result(), strict=True)}
        kept.write()


def key(policy: dict[str, Any]) -> str:
    """A policy as a key: weight and activation bits of each layer."""
    return " ".join(f"{bits['weight']}/{bits['activation']}" for bits in policy.values())


def report(jobs: Sequence[Job], kept: Kept, out: Path) -> None:
    """One row per method, and a plot."""
    task, target, fronts = jobs[0].task, jobs[0].target, dict(scored_fronts(jobs, kept))
    (reference,) = fronts[UNIFORM]
    prepared = prepared_task(task, target)
    worst, alone = prepared.problem.quality.reference, unmatched(prepared.problem)
    seeds = max(map(len, fronts.values()))
    print(f"\n{task} on {target}: {jobs[0].budget_s:.0f} s CPU for each search, {seeds} seeds\n")
    print("| method | trials | CPU, s | policies | hypervolume on test, % | over uniform bits, points |")
    print("|---|---|---|---|---|---|")
    for method, found in fronts.items():
        runs = [kept.run_of(job) for job in jobs if job.method == method]
        known = [one for one in runs if one is not None]
        trials, spent = median(one["trials"] for one in known), median(one["cpu_s"] for one in known)
        shares = [100 * one.share for one in found]
        leads = [100 * lead(one.points, reference.points, worst, alone) for one in found]
        members = median(len(one.points) for one in found)
        print(f"| `{method}` | {trials:g} | {spent:.0f} | {members:g} | {spread(shares)} | {spread(leads, '+')} |")
    methods_plot.draw(prepared, fronts, out / f"{task}-{target}.png")


def scored_fronts(jobs: Sequence[Job], kept: Kept) -> Iterator[tuple[str, list[Scored]]]:
    """Method, and for each seed its front on the test split."""
    for method in dict.fromkeys(job.method for job in jobs):
        fronts = []
        for job in jobs:
            found = kept.run_of(job)
            if job.method == method and found is not None:
                policies = [one["policy"] for one in found["front"]]
                values = [kept.scores[job.task][key(policy)]["test"] for policy in policies]
                fronts.append(scored(job.task, job.target, policies, values))
        yield method, fronts


def spread(values: Sequence[float], sign: str = "") -> str:
    """The median, and the range where there is one."""
    text = f"{median(values):{sign}.1f}"
    return text if len(values) == 1 else f"{text} ({min(values):{sign}.1f} to {max(values):{sign}.1f})"


if __name__ == "__main__":
    main()
