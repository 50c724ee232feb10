"""The command line. Heavy imports live inside the commands: ``--help`` has to be quick.

Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 the work failed; 2 wrong use or bad input;
130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from mobo_mpq import __version__
from mobo_mpq.errors import InputError, MoboError
from mobo_mpq.workflows.compare_command import compare
from mobo_mpq.workflows.flags import (
    ActivationBitsOption,
    AddressOption,
    ConcurrencyOption,
    HomeOption,
    JsonOption,
    LossScalingOption,
    NameArgument,
    PinOption,
    PrecisionOption,
    ProxyEpochsOption,
    ProxyFractionOption,
    ProxyTaskOption,
    RunnerOption,
    TargetOption,
    TaskOption,
    TieOption,
    TrackingOption,
    WeightBitsOption,
    settings,
)
from mobo_mpq.workflows.profile_commands import profile_app

INTERRUPTED = 130

app = typer.Typer(
    name="mobo-mpq",
    help="How many bits does each layer deserve? Searches, shows and exports mixed-precision quantization policies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would take [default] for markup
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(profile_app)
app.command()(compare)


@app.command()
def search(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.toml]", help="A study file; flags go before what it says.")
    ] = None,
    task: TaskOption = None,
    target: TargetOption = None,
    objectives: Annotated[str | None, typer.Option(help="Costs: latency,energy,size,bops. [latency]")] = None,
    recipe: Annotated[str | None, typer.Option(help="How a policy runs: ptq, multipoint, kmeans, qat. [qat]")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="X", help="Of the fine-tune. [default: the recipe's]")] = None,
    precision: PrecisionOption = None,
    loss_scaling: LossScalingOption = None,
    proxy_fraction: ProxyFractionOption = None,
    proxy_epochs: ProxyEpochsOption = None,
    proxy_task: ProxyTaskOption = None,
    strategy: Annotated[str | None, typer.Option(help="Who proposes; see 'mobo-mpq strategies'. [mobo]")] = None,
    sensitivity: Annotated[
        bool | None, typer.Option("--sensitivity/--no-sensitivity", help="Measure layers' sensitivities first. [yes]")
    ] = None,
    sensitivity_kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="perturbation, sqnr, hessian, fisher, orthogonality. [default: the strategy's]"
        ),
    ] = None,
    trials: Annotated[str | None, typer.Option(metavar="N", help="Evaluations in all. [48]")] = None,
    concurrency: ConcurrencyOption = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help="Of everything random. [0]")] = None,
    name: Annotated[str | None, typer.Option(help="Of the study. [TASK-TARGET]")] = None,
    weight_bits: WeightBitsOption = None,
    activation_bits: ActivationBitsOption = None,
    pin: PinOption = None,
    tie: TieOption = None,
    budget: Annotated[list[str] | None, typer.Option(metavar="latency_ms<=X", help="A hard limit on a cost.")] = None,
    worst_quality: Annotated[str | None, typer.Option(metavar="X", help="The worst quality still of interest.")] = None,
    futility: Annotated[bool, typer.Option("--futility", help="Stop trials early that cannot pay off.")] = False,
    gpus_per_trial: Annotated[str | None, typer.Option(metavar="X", help="Share of a GPU per trial. [0]")] = None,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    runner: RunnerOption = "ray",
    home: HomeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show layers, space and costs; train nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search the Pareto set of a task on a target. Without arguments: digits on mpic, 48 trials."""
    from mobo_mpq.config import StudyConfig
    from mobo_mpq.workflows.dry_run import show_dry_run
    from mobo_mpq.workflows.search import search as run

    flags: dict[str, Any] = dict(task=task, target=target, objectives=objectives, recipe=recipe, epochs=epochs)
    flags |= dict(strategy=strategy, trials=trials, seed=seed, name=name, weight_bits=weight_bits)
    flags |= dict(activation_bits=activation_bits, pin=pin, tie=tie, budget=budget, futility=futility or None)
    flags |= dict(precision=precision, loss_scaling=loss_scaling)
    flags |= dict(proxy_fraction=proxy_fraction, proxy_epochs=proxy_epochs, proxy_task=proxy_task)
    flags |= dict(sensitivity=sensitivity, sensitivity_kind=sensitivity_kind, worst_quality=worst_quality)
    values = settings(study, **flags, concurrency=concurrency, gpus_per_trial=gpus_per_trial)
    if dry_run:
        show_dry_run(StudyConfig.parse(values), as_json)
        return
    record = run(home=home, runner=runner, address=address, tracking_uri=tracking_uri, **values)
    _print_record(record, as_json, home)


@app.command()
def sensitivity(
    task: TaskOption = None,
    target: TargetOption = None,
    kind: Annotated[
        str | None, typer.Option(help="perturbation, sqnr, hessian, fisher, orthogonality. [perturbation]")
    ] = None,
    weight_bits: WeightBitsOption = None,
    activation_bits: ActivationBitsOption = None,
    pin: PinOption = None,
    tie: TieOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write .json, .csv, or .png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each layer's bits are expected to cost in quality; run no trial."""
    from mobo_mpq.config import StudyConfig
    from mobo_mpq.workflows.sensitivity_command import show_sensitivity

    bits: dict[str, Any] = dict(weight_bits=weight_bits, activation_bits=activation_bits)
    given = settings(None, task=task, target=target, sensitivity_kind=kind, pin=pin, tie=tie, **bits)
    show_sensitivity(StudyConfig.parse(given), out, as_json)


@app.command()
def resume(
    name: NameArgument = None,
    trials: Annotated[str | None, typer.Option(metavar="N", help="A new total.")] = None,
    concurrency: ConcurrencyOption = None,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    runner: RunnerOption = "ray",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a study after a crash, an interrupt, or for more trials."""
    from mobo_mpq.workflows.search import resume as run

    record = run(
        name,
        trials=_whole("--trials", trials),
        home=home,
        runner=runner,
        address=address,
        tracking_uri=tracking_uri,
        concurrency=_whole("--concurrency", concurrency),
    )
    _print_record(record, as_json, home)


@app.command()
def pareto(
    name: NameArgument = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    home: HomeOption = None,
) -> None:
    """Show the Pareto set of a study."""
    from mobo_mpq.workflows.home import Home
    from mobo_mpq.workflows.record import StudyRecord
    from mobo_mpq.workflows.reporting import pareto_csv

    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other; give one of them")
    record = StudyRecord.read(Home.of(home).existing(name))
    if as_csv:
        sys.stdout.write(pareto_csv(record))
    else:
        _print_table(record, as_json)


@app.command()
def plot(
    name: NameArgument = None,
    out: Annotated[Path, typer.Option(help="front.png or front.html")] = Path("front.png"),
    home: HomeOption = None,
) -> None:
    """Draw the front of a study."""
    from mobo_mpq.workflows.home import Home
    from mobo_mpq.workflows.plotting import plot as draw
    from mobo_mpq.workflows.record import StudyRecord

    draw(StudyRecord.read(Home.of(home).existing(name)), out)
    print(out)


@app.command()
def export(
    trial: Annotated[str, typer.Option(help="best, knee, accurate, fastest, smallest, or a number.")] = "best",
    study: Annotated[str | None, typer.Option(help="Name of the study. [default: the newest]")] = None,
    max_drop: Annotated[
        float, typer.Option(help="What 'best' may lose to the float model: points, or % of a minimised metric.")
    ] = 1.0,
    form: Annotated[str, typer.Option("--format", help="onnx, policy.")] = "onnx",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder. [default: ./NAME-NUMBER]")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a policy as files that a runtime loads, verified before it says done."""
    from mobo_mpq.workflows.exporting import check_format, export_trial
    from mobo_mpq.workflows.home import Home
    from mobo_mpq.workflows.record import StudyRecord
    from mobo_mpq.workflows.reporting import dump, selection_line, stderr
    from mobo_mpq.workflows.selection import select

    check_format(form)
    record = StudyRecord.read(Home.of(home).existing(study))
    selection = select(record, trial, max_drop)
    stderr.print(selection_line(record, trial, selection), markup=False, soft_wrap=True)
    exported = export_trial(record, selection.trial, form, out)
    if as_json:
        print(dump(exported.document()))
        return
    for file in exported.files:
        print(exported.folder / file)
    if exported.agreement is not None:
        stderr.print(
            f"verified: ONNX Runtime agrees with the quantized network on {100 * exported.agreement:.2f} % of the "
            f"validation predictions",
            soft_wrap=True,
        )


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one, or the path of your own .toml.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the built-in devices, or show what one device can do, with sources."""
    from mobo_mpq.objectives.hardware import load_target
    from mobo_mpq.workflows.reporting import dump
    from mobo_mpq.workflows.target_report import show_target, show_target_rows, target_document, target_rows

    found: Any = target_rows() if name is None else target_document(load_target(name))
    if as_json:
        print(dump(found))
    elif name is None:
        show_target_rows(found)
    else:
        show_target(found)


@app.command()
def tasks(as_json: JsonOption = False) -> None:
    """List the built-in tasks."""
    from mobo_mpq.objectives.tasks import load_task, task_names

    _print_rows(
        [
            {"name": task.name, "metric": task.metric_name, "direction": str(task.direction), "about": task.about}
            for task in map(load_task, task_names())
        ],
        as_json,
    )


@app.command()
def strategies(as_json: JsonOption = False) -> None:
    """List the search strategies."""
    from mobo_mpq.strategies.registry import describe, strategy_names

    _print_rows([{"name": name, "about": describe(name)} for name in strategy_names()], as_json)


@app.command()
def ui(
    name: NameArgument = None,
    host: Annotated[str, typer.Option(help="To listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="To listen on.")] = 5000,
    tracking_uri: TrackingOption = None,
    home: HomeOption = None,
) -> None:
    """Browse a study's policies in MLflow, until ctrl-C."""
    from mobo_mpq.workflows.ui import serve

    serve(name, home, tracking_uri, host, port)


@app.command()
def doctor(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check that this machine can run a search, and say what is missing."""
    from mobo_mpq.workflows.doctor import examine

    findings = examine(home)
    _print_rows([finding._asdict() for finding in findings], as_json)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"mobo-mpq {__version__}")
        raise typer.Exit


def _whole(flag: str, text: str | None) -> int | None:
    if text is not None and (not text.isdecimal() or int(text) < 1):
        raise InputError(f"{flag} is '{text}'; expected a whole number of at least 1")
    return None if text is None else int(text)


def _print_record(record: Any, as_json: bool, home: Path | None) -> None:
    from mobo_mpq.workflows.reporting import stderr

    _print_table(record, as_json)
    flag = f" --home {home}" if home else ""
    cheapest = "fastest" if "latency_s" in {info.name for info in record.infos} else "cheapest"
    stderr.print(
        f"next: 'mobo-mpq export --study {record.name} --trial best{flag}' writes the {cheapest} policy that loses "
        f"almost nothing; 'mobo-mpq ui {record.name}{flag}' browses them all",
        markup=False,
        soft_wrap=True,
    )


def _print_table(record: Any, as_json: bool) -> None:
    from mobo_mpq.workflows.reporting import dump, pareto_document, pareto_table, stdout

    if as_json:
        print(dump(pareto_document(record)))
    else:
        stdout.print(pareto_table(record))


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    from mobo_mpq.workflows.reporting import dump, rows_table, stdout

    if as_json:
        print(dump(rows))
    else:
        stdout.print(rows_table(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = int(app(given, prog_name="mobo-mpq", standalone_mode=False) or 0)
        return code if code != INTERRUPTED else _interrupted(given)  # typer turns ctrl-C into this code
    except TyperException as error:
        return _fail(_usage(error), 2)
    except InputError as error:
        return _fail(str(error), 2)
    except MoboError as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(given)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left, as 'head' does
        return 0


def _interrupted(given: Sequence[str]) -> int:
    how = "with the same command" if given[:1] == ["compare"] else "with 'mobo-mpq resume'"
    return _fail(f"interrupted; go on {how}", INTERRUPTED)


def _usage(error: TyperException) -> str:
    message = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "mobo-mpq"
    return f"{message.strip().rstrip('.')}; see '{command} --help'"


def _fail(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


def entry_point() -> None:
    """For ``python -m mobo_mpq.workflows.cli``."""
    sys.exit(main())


if __name__ == "__main__":
    entry_point()
