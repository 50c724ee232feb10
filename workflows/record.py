"""A study as its journal tells it: enough for tables, plots and tracking, without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mobo_mpq.errors import JournalError
from mobo_mpq.front import complete, pareto_trials, trials_hypervolume
from mobo_mpq.journal import measurement_from_list, read_events, read_trials
from mobo_mpq.objective import Measurement, ObjectiveInfo
from mobo_mpq.trial import Trial
from mobo_mpq.workflows.home import StudyFolder


@dataclass(frozen=True)
class StudyRecord:
    """What a journal holds.

    Attributes:
        folder: of the study.
        infos: the objectives, the measured quality first.
        header: the study event: task, target, layers, digests, float baseline.
        trials: finished ones in the order in which they finished, then those still running.
        tested: trial number -> values on the test split.
        total: number of trials asked for.
        runs: tracking address -> {"parent" or trial number: run id}.
    """

    folder: StudyFolder
    infos: tuple[ObjectiveInfo, ...]
    header: Mapping[str, Any]
    trials: tuple[Trial, ...]
    tested: Mapping[int, Mapping[str, Measurement]] = field(default_factory=dict)
    total: int = 0
    runs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: StudyFolder) -> StudyRecord:
        """Read a study's journal.

        Raises:
            JournalError: when it is broken.
        """
        try:
            record = cls._read(folder)
            _ = record.sensitivity  # an incomplete one is refused now, not later
            missing = [t.number for t in complete(record.trials) if any(i.name not in t.values for i in record.infos)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise JournalError(
                f"{folder.journal} cannot be read ({type(error).__name__}: {error}); restore the file from a copy"
            ) from None
        if missing:
            raise JournalError(
                f"trial {missing[0]} in {folder.journal} is complete but lacks a value; restore the file from a copy"
            )
        return record

    @classmethod
    def _read(cls, folder: StudyFolder) -> StudyRecord:
        events = read_events(folder.journal)
        header = events[0]
        tested: dict[int, dict[str, Measurement]] = {}
        runs: dict[str, dict[str, str]] = {}
        total = int(header["trials"])
        for event in events:
            if event["event"] == "test":
                tested[event["number"]] = measurements(event["values"])
            elif event["event"] == "total":
                total = int(event["trials"])
            elif event["event"] == "tracking":
                runs.setdefault(event["uri"], {})[str(event["of"])] = event["run_id"]
        return cls(
            folder=folder,
            infos=tuple(ObjectiveInfo(**info) for info in header["objectives"]),
            header=header,
            trials=tuple(read_trials(folder.journal, events)),
            tested=tested,
            total=total,
            runs=runs,
        )

    @property
    def name(self) -> str:
        """Of the study."""
        return self.folder.name

    @property
    def quality(self) -> ObjectiveInfo:
        """The measured objective."""
        return self.infos[0]

    @property
    def finished(self) -> Sequence[Trial]:
        """In the order in which they finished."""
        return [trial for trial in self.trials if trial.is_final]

    @property
    def is_finished(self) -> bool:
        """Whether as many trials as were asked for have ended."""
        return self.evaluated >= self.total

    @property
    def evaluated(self) -> int:
        """Trials that ended and were not refused for their budget before they began."""
        return sum(trial.was_evaluated for trial in self.trials)

    @property
    def is_tested(self) -> bool:
        """Whether the whole front has been scored on the test split, where there is one."""
        return not self.float_tested or all(trial.number in self.tested for trial in self.pareto())

    @property
    def sensitivity(self) -> dict[str, Any] | None:
        """What the sensitivities that the study began with had cost; ``None`` where it began without.

        ``evaluation_equivalents`` is their CPU time over the mean time of a complete trial; ``None`` before the first.
        """
        table = self.header.get("sensitivity")
        if table is None:
            return None
        seconds = [trial.seconds for trial in complete(self.trials) if trial.seconds]
        share = table["cpu_s"] * len(seconds) / sum(seconds) if seconds else None
        costs = {key: table[key] for key in ("evaluations", "cpu_s", "cached")}
        return {**costs, "evaluation_equivalents": share}

    @property
    def float_values(self) -> dict[str, Measurement]:
        """Quality (and costs, where the target runs floats) of the unquantized model, on the validation split."""
        return measurements(self.header["float"]["val"])

    @property
    def float_tested(self) -> dict[str, Measurement]:
        """The same on the test split; empty when the task has none."""
        return measurements(self.header["float"].get("test", {}))

    def pareto(self) -> list[Trial]:
        """The set, best quality first."""
        return pareto_trials(self.infos, self.finished)

    def hypervolume(self, count: int | None = None) -> float:
        """Of the whole study, or of the first ``count`` trials that finished."""
        return trials_hypervolume(self.infos, self.finished[:count])

    def run_id(self, number: int) -> str | None:
        """Of a trial, at whichever tracking server it was logged last."""
        return next((runs[str(number)] for runs in reversed(list(self.runs.values())) if str(number) in runs), None)


def measurements(values: Mapping[str, Any]) -> dict[str, Measurement]:
    """Read ``{name: [value, standard error]}``."""
    return {name: measurement_from_list(pair) for name, pair in values.items()}
