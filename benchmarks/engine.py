"""The engine against everything that a user could hook up instead: better fronts in fewer trials, and faster thought.

    python benchmarks/engine.py [--problems synthetic tables] [--strategies mobo ax] [--seeds 10] [--trials 112]
    python benchmarks/engine.py --batches        the engine with 1, 8 and 32 proposals at a time
    python benchmarks/engine.py --growth         CPU seconds per proposal and memory, as variables and trials grow

Prints tables and draws plots of the share of the best hypervolume after 24, 40, 64 and 112 evaluations: medians over
the seeds, the lowest seed in brackets. Evaluations that were spent on sensitivities count. Every run is a process of
its own with one thread, and is kept in ``engine.json``: an interrupted command goes on where it was, and slow baselines
can be run apart. ``--again`` repeats what is there.

Problems are ``synthetic`` (the main ones), ``synthetic-all``, ``tables``, or names such as
``synthetic-L50-bad-hard-noise0.1``, ``digits-ptq-weights``, ``digits-ptq-weights-none`` for no sensitivities.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported: one thread for each run

import argparse  # noqa: E402
import importlib.util  # noqa: E402
import itertools  # noqa: E402
import multiprocessing  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import engine_report as report  # noqa: E402
from baselines import BASELINES  # noqa: E402
from engine_report import Record  # noqa: E402
from engine_runs import Job, Size, is_synthetic, make_case, measure_growth, run, stripped  # noqa: E402
from exhaustive import table_names  # noqa: E402

from mobo_mpq.errors import InputError, UnknownName  # noqa: E402
from mobo_mpq.strategies.registry import strategy_names  # noqa: E402

ALL_SYNTHETIC = tuple(
    f"synthetic-L{layers}-{quality}{hard}-noise{noise}"
    for layers, quality, hard, noise in itertools.product(
        (20, 50, 100), ("good", "bad", "none"), ("", "-hard"), (0.3, 0.1)
    )
)
MAIN_SYNTHETIC = tuple(
    name for name in ALL_SYNTHETIC if name.endswith("-noise0.3") or name.startswith("synthetic-L50-good-")
)
STRATEGIES = ("mobo", "sensitivity", "ax", "qlognehvi-mixed", "optuna-gp", "tpe", "nsga2", "random")
SLOW = {"ax": 40, "qlognehvi-mixed": 64, "optuna-gp": 64}
"""Strategies that take seconds for a proposal, and their evaluations on tables unless they are named. On the synthetic
problems a proposal takes them up to minutes: there they run only when named."""
BATCHES = (1, 8, 32)
GROWTH = tuple(itertools.product((20, 50, 120), (50, 100, 200, 500, 1000), (1, 16)))


def main() -> int:
    """Run what is missing, then print and draw all that was asked for."""
    arguments = parse(sys.argv[1:])
    try:
        if arguments.growth:
            growth(arguments)
        elif arguments.batches:
            batches(arguments)
        else:
            compare(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=None)
    parser.add_argument("--strategies", nargs="+", default=None)
    parser.add_argument("--seeds", type=int, default=None, help="default: 10 on synthetic problems, 5 on tables")
    parser.add_argument("--trials", type=int, default=112)
    parser.add_argument("--batch", type=int, default=None, help="default: 8 on synthetic problems, 1 on tables")
    parser.add_argument("--quick", action="store_true", help="two small problems, two seeds, 24 trials")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--again", action="store_true", help="repeat runs that are in the file")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "assets" / "engine")
    arguments = parser.parse_args(words)
    if arguments.quick:
        arguments.seeds, arguments.trials = min(2, arguments.seeds or 2), min(24, arguments.trials)
        arguments.problems = arguments.problems or ["synthetic-L20-good-noise0.3", *table_names()[:1]]
    return arguments


# --- the three commands ---------------------------------------------------------------------------------------------


def compare(arguments: argparse.Namespace) -> None:
    """Every strategy on every problem."""
    problems = expand(arguments.problems or ["synthetic", "tables"])
    strategies = check(arguments.strategies) or available(STRATEGIES)
    jobs: dict[str, dict[str, list[Job]]] = {}
    for problem in problems:
        batch = arguments.batch or (8 if is_synthetic(problem) else 1)
        seeds = arguments.seeds or (10 if is_synthetic(problem) else 5)
        jobs[problem] = {
            strategy: [
                Job(stripped(problem, strategy), strategy, seed, batch, evaluations(arguments, strategy))
                for seed in range(seeds)
            ]
            for strategy in strategies
            if applies(strategy, problem, named=bool(arguments.strategies))
        }
    tell(arguments, "engine", jobs)


def batches(arguments: argparse.Namespace) -> None:
    """The engine with more and fewer proposals at a time."""
    problems = expand(arguments.problems or ["synthetic-L50-good-noise0.3", "synthetic-L50-none-noise0.3"])
    jobs = {
        problem: {
            f"{strategy}, q = {batch}": [
                Job(stripped(problem, strategy), strategy, seed, batch, arguments.trials)
                for seed in range(arguments.seeds or 5)
            ]
            for strategy in check(arguments.strategies) or ["mobo"]
            for batch in BATCHES
        }
        for problem in problems
    }
    tell(arguments, "batches", jobs)


def growth(arguments: argparse.Namespace) -> None:
    """What a proposal costs as problems and studies grow."""
    strategies = check(arguments.strategies) or ["mobo"]
    sizes = [Size(strategy, *each) for strategy in strategies for each in (GROWTH[:2] if arguments.quick else GROWTH)]
    path = arguments.out / "growth.json"
    known = set() if arguments.again else {report.growth_key(record) for record in report.read(path)}
    todo = [size for size in sizes if tuple(size) not in known]
    for record in in_processes(measure_growth, todo, arguments.processes):
        report.add(path, record, report.growth_key)
    records = [record for record in report.read(path) if record["strategy"] in strategies]
    print(report.growth_table(records))
    report.plot_growth(arguments.out / "growth.png", records)


def tell(arguments: argparse.Namespace, name: str, jobs: Mapping[str, Mapping[str, Sequence[Job]]]) -> None:
    """Run the jobs that are missing; print a table for each problem, and draw them all."""
    path = arguments.out / "engine.json"
    every = list(dict.fromkeys(job for rows in jobs.values() for row in rows.values() for job in row))
    known = {} if arguments.again else {report.run_key(record): record["trials"] for record in report.read(path)}
    todo = [job for job in every if known.get(report.run_key(job._asdict()), 0) < job.trials]
    for record in in_processes(run, todo, arguments.processes):
        report.add(path, record, report.run_key)
        print(*(record[key] for key in ("problem", "strategy", "seed")), f"{record['curve'][-1]:.4f}", file=sys.stderr)
    found = {report.run_key(record): record for record in report.read(path)}
    panels = {
        problem: {label: [found[report.run_key(job._asdict())] for job in row] for label, row in rows.items()}
        for problem, rows in jobs.items()
    }
    for problem, rows in panels.items():
        print(report.table(problem, rows), end="\n\n")
    for kind, chosen in (("synthetic", True), ("tables", False)):
        mine = {problem: rows for problem, rows in panels.items() if is_synthetic(problem) is chosen}
        if mine:
            report.plot_curves(arguments.out / f"{name}-{kind}.png", mine)


# --- what to run ----------------------------------------------------------------------------------------------------


def expand(problems: Sequence[str]) -> list[str]:
    """Names of problems, groups spelled out.

    Raises:
        InputError: a problem that does not exist.
    """
    groups: dict[str, Sequence[str]] = {
        "synthetic": MAIN_SYNTHETIC,
        "synthetic-all": ALL_SYNTHETIC,
        "tables": table_names(),
    }
    names = dict.fromkeys(name for problem in problems for name in groups.get(problem, [problem]))
    for name in names:
        make_case(name, 0)
    return list(names)


def check(strategies: Sequence[str] | None) -> list[str]:
    """The strategies named.

    Raises:
        UnknownName: one does not exist.
    """
    known = (*strategy_names(), *BASELINES)
    for name in strategies or ():
        if name not in known:
            raise UnknownName("strategy", name, known)
    return list(strategies or ())


def available(strategies: Sequence[str]) -> list[str]:
    """Those that can be made here: Ax is an extra."""
    known = {*strategy_names(), *BASELINES} - ({"ax"} if importlib.util.find_spec("ax") is None else set())
    return [name for name in strategies if name in known]


def evaluations(arguments: argparse.Namespace, strategy: str) -> int:
    """How many a run has: fewer for slow strategies, unless they are named."""
    most: int = arguments.trials
    return most if arguments.strategies else min(most, SLOW.get(strategy, most))


def applies(strategy: str, problem: str, *, named: bool) -> bool:
    """Whether to run a strategy on a problem: there has to be something to go by, and time."""
    if strategy == "sensitivity" and make_case(problem, 0).problem.sensitivity is None:
        return False
    return named or not (is_synthetic(problem) and strategy in SLOW)


def in_processes(measure: Callable[[Any], dict[str, Any]], jobs: Sequence[Any], processes: int) -> Iterator[Record]:
    """Results as they come: a process for each, so that its peak of memory is its own."""
    context = multiprocessing.get_context("forkserver")  # a plain fork would inherit the lock of the results' file
    context.set_forkserver_preload(["engine_runs"])
    with context.Pool(processes, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(measure, jobs, chunksize=1)


if __name__ == "__main__":
    sys.exit(main())
