"""From a trial to files that a runtime loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.export.policy_json import write_policy
from mobo_mpq.journal import read_events
from mobo_mpq.trial import Trial
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.checkpoints import Checkpoints
from mobo_mpq.workflows.home import StudyFolder
from mobo_mpq.workflows.record import StudyRecord

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
        write_policy(folder / "policy.json", trial.policy, model_digest=header["model_digest"], target=header["target"])
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    if form == "policy":
        return Exported(trial, folder, ("policy.json",))
    return _export_onnx(record.folder, trial, folder)


def _export_onnx(study: StudyFolder, trial: Trial, folder: Path) -> Exported:
    environment.prepare()
    from mobo_mpq.export.onnx_qdq import export_onnx
    from mobo_mpq.export.verify import verify_onnx
    from mobo_mpq.workflows.evaluation import Evaluator
    from mobo_mpq.workflows.preparation import prepare
    from mobo_mpq.workflows.search import network_of

    prepared = prepare(study.config(), known=read_events(study.journal)[0])
    evaluator = Evaluator(prepared.work, prepared.task)
    checkpoints = Checkpoints(study.checkpoints, prepared.config.checkpoint_megabytes * 1e6)
    network = network_of(trial, evaluator, checkpoints).cpu()
    path = folder / "model.onnx"
    export_onnx(network, prepared.task.example, path, model_digest=prepared.digest, target=prepared.target.name)
    checked = verify_onnx(path, network, evaluator.val)
    return Exported(trial, folder, ("model.onnx", "policy.json"), checked.agreement, checked.max_abs_difference)
