"""From a trial to files that a runtime loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.export.policy_json import write_policy
from mobo_mpq.journal import read_events
from mobo_mpq.trial import Trial
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.checkpoints import Checkpoints
from mobo_mpq.workflows.home import StudyFolder
from mobo_mpq.workflows.record import StudyRecord

if TYPE_CHECKING:
    from mobo_mpq.quant.transform import QuantizedNetwork
    from mobo_mpq.workflows.evaluation import Evaluator
    from mobo_mpq.workflows.preparation import Prepared

FORMATS = ("onnx", "policy")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        trial: whose network it is.
        folder: of the files.
        files: their names.
        agreement: share of validation samples on which the runtime predicts what the network does; ``None`` where
            nothing is run.
        max_abs_difference: between their outputs.
    """

    trial: Trial
    folder: Path
    files: tuple[str, ...]
    agreement: float | None = None
    max_abs_difference: float | None = None

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "schema": 1,
            "trial": self.trial.number,
            "folder": str(self.folder),
            "files": list(self.files),
            "agreement": self.agreement,
            "max_abs_difference": self.max_abs_difference,
        }


def check_format(name: str) -> None:
    """Refuse a format that does not exist, before anything is computed.

    Raises:
        UnknownName: naming those that do.
    """
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)


def export_trial(record: StudyRecord, trial: Trial, form: str, out: Path | None) -> Exported:
    """Write a trial's policy, and for ``onnx`` its network, verified in ONNX Runtime.

    Args:
        record: of the study.
        trial: complete.
        form: one of :data:`FORMATS`.
        out: folder; ``./NAME-NUMBER`` when absent.

    Raises:
        UnknownName: no such format.
        InputError: the folder cannot be written, or the model has changed.
        ExportMismatch: ONNX Runtime predicts something else.
    """
    check_format(form)
    folder = (out or Path(f"{record.name}-{trial.number}")).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        assert trial.policy is not None, "a complete trial has a policy"
        header = record.header
        source = {"model_digest": header["model_digest"], "target": header["target"]}
        write_policy(folder / "policy.json", trial.policy, **source)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    if form == "policy" and not _has_points(record, trial):
        return Exported(trial, folder, ("policy.json",))
    from mobo_mpq.quant.multipoint import points_of

    prepared, evaluator, network = _rebuilt(record.folder, trial)
    write_policy(folder / "policy.json", trial.policy, **source, points=points_of(network))
    if form == "policy":
        return Exported(trial, folder, ("policy.json",))
    return _export_onnx(prepared, evaluator, network, trial, folder)


def _has_points(record: StudyRecord, trial: Trial) -> bool:
    """Whether the policy file says more than the policy, which takes the network to know."""
    from mobo_mpq.training.recipes import adds_points

    return adds_points(trial.recipe.kind if trial.recipe else record.folder.config().recipe)


def _rebuilt(study: StudyFolder, trial: Trial) -> tuple[Prepared, Evaluator, QuantizedNetwork]:
    """The study, and the trial's network on the CPU."""
    environment.prepare()
    from mobo_mpq.workflows.evaluation import Evaluator
    from mobo_mpq.workflows.preparation import prepare
    from mobo_mpq.workflows.study_run import network_of

    prepared = prepare(study.config(), known=read_events(study.journal)[0])
    evaluator = Evaluator(prepared.work, prepared.task)
    checkpoints = Checkpoints(study.checkpoints, prepared.config.checkpoint_megabytes * 1e6)
    return prepared, evaluator, network_of(trial, evaluator, checkpoints).cpu()


def _export_onnx(
    prepared: Prepared, evaluator: Evaluator, network: QuantizedNetwork, trial: Trial, folder: Path
) -> Exported:
    from mobo_mpq.export.onnx_qdq import export_onnx
    from mobo_mpq.export.verify import verify_onnx

    path = folder / "model.onnx"
    export_onnx(network, prepared.task.example, path, model_digest=prepared.digest, target=prepared.target.name)
    checked = verify_onnx(path, network, evaluator.val)
    return Exported(trial, folder, ("model.onnx", "policy.json"), checked.agreement, checked.max_abs_difference)
