"""Arguments and flags that several commands share. Imported by ``--help``, so nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of the studies. [default: $MOBO_MPQ_HOME or ./mobo-mpq-home]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NameArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the study. [default: the newest]")]
AddressOption = Annotated[str | None, typer.Option(metavar="RAY", help="Of a Ray cluster; 'auto' finds one here.")]
TrackingOption = Annotated[str | None, typer.Option(metavar="URI", help="MLflow server. [default: HOME/mlflow.db]")]
# Numbers come as text: our own checks name the value that was wrong, which the parser's do not.
ConcurrencyOption = Annotated[str | None, typer.Option(metavar="N", help="Trials at a time. [default: cores]")]
RunnerOption = Annotated[str, typer.Option(help="'ray', or 'serial': one trial after the other in this process.")]

TaskOption = Annotated[str | None, typer.Option(help="Built-in name, FILE.py:NAME or MODULE:NAME. [digits]")]
TargetOption = Annotated[str | None, typer.Option(help="Built-in device, or a TOML file. [mpic]")]
WeightBitsOption = Annotated[str | None, typer.Option(metavar="2,4,8", help="Choices for weights. [2,4,8]")]
ActivationBitsOption = Annotated[str | None, typer.Option(metavar="2,4,8", help="Choices for inputs. [2,4,8]")]
PrecisionOption = Annotated[str | None, typer.Option(help="Of the fine-tune: fp32, fp16. [fp32]")]
LossScalingOption = Annotated[
    str | None, typer.Option(metavar="WORD", help="In fp16: adaptive, dynamic, static, none. [adaptive]")
]
ProxyFractionOption = Annotated[
    str | None, typer.Option(metavar="F", help="Search on this share of the training data. [1]")
]
ProxyEpochsOption = Annotated[
    str | None, typer.Option(metavar="X", help="Of each fine-tune on the proxy. [default: as on the task]")
]
ProxyTaskOption = Annotated[
    str | None, typer.Option(metavar="TASK", help="Search on another task, with a network of the same layers.")
]
PinOption = Annotated[list[str] | None, typer.Option(metavar="LAYER=W/A", help="Bits that are not searched.")]
TieOption = Annotated[list[str] | None, typer.Option(metavar="LAYER,LAYER", help="Layers with the same bits.")]


def settings(study: Path | None, **flags: Any) -> dict[str, Any]:
    """What a study file says, and over it the flags that were given.

    Raises:
        InputError: when the file cannot be read, or is malformed by itself.
    """
    from mobo_mpq.config import StudyConfig

    values = StudyConfig.read(study) if study else {}
    StudyConfig.parse(values, source=str(study or ""))
    # an option that may be repeated is an empty list when it is not given
    return values | {key: value for key, value in flags.items() if value is not None and value != []}
