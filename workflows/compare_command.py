"""``mobo-mpq compare``. Imported by ``--help``, so nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mobo_mpq.workflows.flags import (
    ActivationBitsOption,
    AddressOption,
    ConcurrencyOption,
    HomeOption,
    JsonOption,
    PinOption,
    RunnerOption,
    TargetOption,
    TaskOption,
    TieOption,
    TrackingOption,
    WeightBitsOption,
    settings,
)


def compare(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.toml]", help="What all studies share; flags go before it.")
    ] = None,
    strategies: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Who proposes; see 'mobo-mpq strategies'.")
    ] = "mobo,sensitivity,nsga2,random",
    trials: Annotated[str | None, typer.Option(metavar="N", help="Evaluations of each study. [48]")] = None,
    seeds: Annotated[str, typer.Option(metavar="K", help="Studies of each strategy.")] = "3",
    seed: Annotated[str | None, typer.Option(metavar="N", help="The first one; the others count up. [0]")] = None,
    task: TaskOption = None,
    target: TargetOption = None,
    objectives: Annotated[str | None, typer.Option(help="Costs: latency,energy,size,bops. [latency]")] = None,
    recipe: Annotated[str | None, typer.Option(help="How a policy becomes a network. [qat]")] = None,
    epochs: Annotated[str | None, typer.Option(metavar="X", help="Of the fine-tune. [default: the recipe's]")] = None,
    name: Annotated[str | None, typer.Option(help="Studies are NAME-STRATEGY-SEED. [TASK-TARGET]")] = None,
    weight_bits: WeightBitsOption = None,
    activation_bits: ActivationBitsOption = None,
    pin: PinOption = None,
    tie: TieOption = None,
    budget: Annotated[list[str] | None, typer.Option(metavar="latency_ms<=X", help="A hard limit on a cost.")] = None,
    worst_quality: Annotated[str | None, typer.Option(metavar="X", help="The worst quality still of interest.")] = None,
    concurrency: ConcurrencyOption = None,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    runner: RunnerOption = "ray",
    home: HomeOption = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a .png or .html.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run several strategies on equal terms, with several seeds each, and show what each found at which cost."""
    from mobo_mpq.workflows.comparing import compare as run
    from mobo_mpq.workflows.comparison import comparison_document, comparison_table
    from mobo_mpq.workflows.comparison_plot import check_name, plot_comparison
    from mobo_mpq.workflows.reporting import dump, stderr, stdout

    if out is not None:
        check_name(out)
    flags: dict[str, Any] = dict(task=task, target=target, objectives=objectives, recipe=recipe, epochs=epochs)
    flags |= dict(trials=trials, seed=seed, name=name, weight_bits=weight_bits, activation_bits=activation_bits)
    flags |= dict(pin=pin, tie=tie, budget=budget, worst_quality=worst_quality, concurrency=concurrency)
    where: dict[str, Any] = dict(home=home, runner=runner, address=address, tracking_uri=tracking_uri)
    comparison = run(strategies, seeds, **where, **settings(study, **flags))
    if as_json:
        print(dump(comparison_document(comparison)))
    else:
        stdout.print(comparison_table(comparison))
    if out is not None:
        plot_comparison(comparison, out)
        stderr.print(f"drawn to {out}", markup=False, soft_wrap=True)
