"""``mobo-mpq profile``: a target of one's own from measurements."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobo_mpq.errors import InputError

if TYPE_CHECKING:
    from mobo_mpq.layers import LayerSpec
    from mobo_mpq.objectives.calibration import Calibration
    from mobo_mpq.objectives.profiles.importing import Measured
    from mobo_mpq.policy import LayerBits

profile_app = typer.Typer(
    name="profile",
    help="Make a target of your own from measurements.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MISSING = ("error", "round_up", "model")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@profile_app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Of a profiler, or our long tables.")],
    bits: Annotated[
        list[str] | None, typer.Option(metavar="W/A", help="Of each profile, in order; tables say theirs.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Whose model was profiled; needed for profiles.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="To write. [NAME.toml]")] = None,
    name: Annotated[str | None, typer.Option(help="Of the target. [that of --out, or 'my-device']")] = None,
    target: Annotated[str | None, typer.Option(help="Whose supported bits to take over, such as hexagon.")] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="LAYER=NAME", help="A layer's operator in the profiles.")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N", help="Images per run of the profiles.")] = "1",
    missing: Annotated[str, typer.Option(help="Pairs without a time: error, round_up, model.")] = "error",
    fallback: Annotated[str | None, typer.Option(metavar="TARGET", help="Whose formula --missing model takes.")] = None,
    source: Annotated[str, typer.Option(metavar="TEXT", help="Device, runtime, date, for the records.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Read profiles of TensorRT, ONNX Runtime or LiteRT, or tables, and write a target."""
    from mobo_mpq.objectives.profiles.importing import check_out, measure, target_document, write_target
    from mobo_mpq.workflows.reporting import dump, rows_table, stdout

    pairs, maps = [pair for text in bits or () for pair in _pairs(text)], _maps(map_ or [])
    images = _count("--batch", batch)
    if missing not in MISSING:
        raise InputError(f"--missing is '{missing}'; expected one of {', '.join(MISSING)}")
    if (missing == "model") != (fallback is not None):
        raise InputError("--missing model and --fallback TARGET belong together; give both, or neither")
    path = out or Path(f"{name or 'my-device'}.toml")
    table = check_out(path)
    layers = None if task is None else _layers(task)
    measured = measure(files, pairs, layers, maps=maps, batch=images, source=source)
    document = target_document(
        measured, name=name or path.stem, file=table.name, like=target, missing=missing, fallback=fallback or ""
    )
    written = write_target(document, measured.rows, path)
    report = _report(measured)
    if as_json:
        print(dump({"schema": 1, "target": document["name"], "files": list(map(str, written)), **report}))
        return
    stdout.print(rows_table(_shown(report["layers"]), document["name"]))
    for file in written:
        print(file)
    _say(report, path, task)


def _pairs(text: str) -> list[LayerBits]:
    """``8/8``, or several with commas."""
    from mobo_mpq.objectives.profiles.records import MOST_BITS
    from mobo_mpq.policy import LayerBits

    pairs = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,3})/(\d{1,3})\s*", word)
        if not found or not all(1 <= int(number) <= MOST_BITS for number in found.groups()):
            raise InputError(
                f"--bits is '{text}'; expected WEIGHT/ACTIVATION bits from 1 to {MOST_BITS}, as in 8/8, once for each "
                "file"
            )
        pairs.append(LayerBits(int(found[1]), int(found[2])))
    return pairs


def _maps(texts: Sequence[str]) -> dict[str, str]:
    maps = {}
    for text in texts:
        layer, equals, name = text.partition("=")
        if not (layer and equals and name):
            raise InputError(f"--map is '{text}'; expected LAYER=NAME, as in 'conv1=Conv_0 + Relu_1'")
        maps[layer.strip()] = name.strip()
    return maps


def _layers(task: str) -> tuple[LayerSpec, ...]:
    """The layers of a task's network."""
    from mobo_mpq.graph import Network
    from mobo_mpq.objectives.tasks import load_task
    from mobo_mpq.workflows import environment

    environment.prepare()
    loaded = load_task(task)
    return Network.from_model(loaded.model(), loaded.example).layers


def _report(measured: Measured) -> dict[str, Any]:
    """What was found, as data."""
    found = {
        (match.layer.name, measured.bits[file]): match
        for file, profile in measured.profiles.items()
        for match in profile.matches
    }
    layers = []
    for row in measured.rows:
        match = found.get((row.layer, row.bits))
        layers.append(
            {
                "layer": row.layer or str(row.shape),
                "weight": row.bits.weight,
                "activation": row.bits.activation,
                "latency_s": row.latency_s,
                "operators": list(match.names) if match else [],
                "found_by": match.by if match else "table",
            }
        )
    return {
        "layers": layers,
        "profiles": [
            {
                "file": file,
                "bits": list(measured.bits[file]),
                "layers_s": sum(match.seconds for match in profile.matches),
                "fixed_s": profile.overhead_s,
                "unclaimed": [{"name": entry.name, "latency_s": entry.seconds} for entry in profile.rest],
            }
            for file, profile in measured.profiles.items()
        ],
    }


def _shown(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for people."""
    return [
        {
            "layer": one["layer"],
            "bits": f"{one['weight']}/{one['activation']}",
            "latency": f"{one['latency_s'] * 1e6:.3f} µs",
            "operators": " ".join(one["operators"]) or "-",
            "found by": one["found_by"],
        }
        for one in layers
    ]


def _say(report: dict[str, Any], path: Path, task: str | None) -> None:
    """Notes for people: what no layer claims, and the next step."""
    for profile in report["profiles"]:
        whole = profile["layers_s"] + profile["fixed_s"]
        names = ", ".join(entry["name"] for entry in profile["unclaimed"]) or "nothing"
        print(
            f"{profile['file']}: {profile['fixed_s'] * 1e6:.3f} µs of {whole * 1e6:.3f} µs belong to no layer, and are "
            f"in no cost: {names}",
            file=sys.stderr,
        )
    ordered = [one["layer"] for one in report["layers"] if one["found_by"] == "order"]
    if ordered:
        print(
            f"found by their order and shapes, since no operator bears their names; check them: {', '.join(ordered)}",
            file=sys.stderr,
        )
    flag = f" --task {task}" if task else ""
    print(f"next: 'mobo-mpq search{flag} --target {path} --dry-run'", file=sys.stderr)


@profile_app.command()
def calibrate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="With a roofline: t4, a100, or a document.")],
    table: Annotated[Path, typer.Argument(metavar="TABLE.csv", help="Measured layers, in our long form.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="To write the fitted target to.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the fitted target. [that of --out]")] = None,
    task: Annotated[str | None, typer.Option(help="Whose layers the table names, where it has no shapes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a roofline to measured layers, and say how well it predicts layers that it has not seen."""
    import tomli_w

    from mobo_mpq.objectives.calibration import calibrate as fit
    from mobo_mpq.objectives.calibration import calibrated_document
    from mobo_mpq.objectives.hardware import load_target, parse_document, read_document
    from mobo_mpq.objectives.profiles.importing import check_out, write_files
    from mobo_mpq.objectives.profiles.records import read_table
    from mobo_mpq.workflows.reporting import dump, rows_table, stdout

    if out is not None:
        check_out(out)
    device, rows = load_target(target), read_table(table)
    calibration = fit(device, rows, () if task is None else _layers(task))
    if out is not None:
        document = calibrated_document(read_document(target), calibration, name=name or out.stem, table=table.name)
        write_files({out: tomli_w.dumps(document)}, lambda folder: parse_document(document, str(out), folder))
    report = calibration_report(calibration)
    if as_json:
        print(dump({"schema": 1, "target": device.name, "file": None if out is None else str(out), **report}))
        return
    stdout.print(rows_table([{"number": key, "fitted": f"{v:.4g}"} for key, v in report["numbers"].items()], "fitted"))
    stdout.print(rows_table([{"errors": key, **_percent(report[key])} for key in ("before", "fitted", "held_out")]))
    print(
        f"{report['rows']} rows; 'held_out': each row predicted from a fit to other rows, in {report['folds']} folds",
        file=sys.stderr,
    )
    if out is not None:
        print(out)


def calibration_report(calibration: Calibration) -> dict[str, Any]:
    """A calibration as data; shares, not percent."""
    errors = {key: asdict(getattr(calibration, key)) for key in ("before", "fitted", "held_out")}
    for one in errors.values():
        one["spearman"] = None if math.isnan(one["spearman"]) else one["spearman"]
    return {"rows": calibration.rows, "folds": calibration.folds, "numbers": dict(calibration.numbers), **errors}


def _percent(errors: dict[str, Any]) -> dict[str, str]:
    shares = {key: f"{100 * errors[key]:.1f} %" for key in ("mean", "median", "worst")}
    return {**shares, "rank correlation": "-" if errors["spearman"] is None else f"{errors['spearman']:.3f}"}


@profile_app.command()
def measure(
    task: Annotated[
        str, typer.Option(help="Whose model to time. Built-in name, FILE.py:NAME or MODULE:NAME.")
    ] = "digits",
    out: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="To write. [NAME.toml]")] = None,
    name: Annotated[str | None, typer.Option(help="Of the target. [that of --out, or 'this-machine']")] = None,
    repeats: Annotated[str, typer.Option(metavar="N", help="Runs of each precision in each of 5 rounds.")] = "30",
    threads: Annotated[str, typer.Option(metavar="N", help="That ONNX Runtime may use.")] = "1",
    as_json: JsonOption = False,
) -> None:
    """Time the layers of a task's model in ONNX Runtime on this machine, and write a target."""
    from mobo_mpq.graph import Network
    from mobo_mpq.objectives.profiles.importing import check_out, write_target
    from mobo_mpq.objectives.tasks import load_task
    from mobo_mpq.workflows import environment
    from mobo_mpq.workflows.measuring import measure_network, measured_document
    from mobo_mpq.workflows.reporting import dump, rows_table, stdout

    runs, cores = _count("--repeats", repeats), _count("--threads", threads)
    path = out or Path(f"{name or 'this-machine'}.toml")
    table = check_out(path)
    environment.prepare()
    loaded = load_task(task)
    network = Network.from_model(loaded.model(), loaded.example)
    timed = measure_network(network, loaded.example, repeats=runs, threads=cores, say=_note)
    document = measured_document(timed, name=name or path.stem, file=table.name)
    written = write_target(document, timed.rows, path)
    report = timed.report()
    if as_json:
        print(dump({"schema": 1, "target": document["name"], "files": list(map(str, written)), **report}))
        return
    for part in ("layers", "networks"):
        stdout.print(rows_table([_in_microseconds(row) for row in report[part]], f"{document['name']}: {part}"))
    for file in written:
        print(file)
    bits = "--weight-bits 8,32 --activation-bits 8,32"
    _note(f"{timed.source}; next: 'mobo-mpq search --task {task} --target {path} {bits}'")


def _count(flag: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{flag} is '{text}'; expected a whole number of at least 1")
    return int(text)


def _note(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _in_microseconds(row: dict[str, Any]) -> dict[str, Any]:
    """A row for people."""
    shown = {key: value for key, value in row.items() if not key.endswith("_s") and key not in ("weight", "activation")}
    times = {key.removesuffix("_s"): f"{value * 1e6:.2f} µs" for key, value in row.items() if key.endswith("_s")}
    return {**shown, "bits": f"{row['weight']}/{row['activation']}", **times}
