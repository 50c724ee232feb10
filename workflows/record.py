"""A study as its journal tells it: enough for tables, plots and tracking, without the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mobo_mpq.errors import JournalError
from mobo_mpq.front import complete, maximised, pareto_trials, trials_hypervolume
from mobo_mpq.journal import measurement_from_list, read_events, read_trials
from mobo_mpq.objective import Measurement, ObjectiveInfo, reference
from mobo_mpq.trial import Trial
from mobo_mpq.workflows.home import StudyFolder


@dataclass(frozen=True)
class Learned:
    """What a strategy had learned when trials ended.

    Attributes:
        trials: that had finished then.
        diagnosis: see :meth:`~mobo_mpq.strategies.base.Strategy.diagnosis`.
        estimates: number of a trial -> denoised quality; see :meth:`~mobo_mpq.strategies.base.Strategy.estimates`.
    """

    trials: int
    diagnosis: Mapping[str, Any]
    estimates: Mapping[int, Measurement]


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
        learned: what the strategy had learned when trials ended last; it may have seen more of them since.
        exhausted: whether it ended before, since the strategy had nothing more to propose; ``total`` says so, too.
    """

    folder: StudyFolder
    infos: tuple[ObjectiveInfo, ...]
    header: Mapping[str, Any]
    trials: tuple[Trial, ...]
    tested: Mapping[int, Mapping[str, Measurement]] = field(default_factory=dict)
    total: int = 0
    runs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    learned: Learned | None = None
    exhausted: bool = False

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
        total, exhausted, learned = int(header["trials"]), False, None
        for event in events:
            if event["event"] == "test":
                tested[event["number"]] = measurements(event["values"])
            elif event["event"] == "total":
                total, exhausted = int(event["trials"]), bool(event.get("exhausted", False))
            elif event["event"] == "tracking":
                runs.setdefault(event["uri"], {})[str(event["of"])] = event["run_id"]
            elif event["event"] == "surrogate":
                learned = _learned(event)
        return cls(
            folder=folder,
            infos=tuple(ObjectiveInfo(**info) for info in header["objectives"]),
            header=header,
            trials=tuple(read_trials(folder.journal, events)),
            tested=tested,
            total=total,
            runs=runs,
            learned=learned,
            exhausted=exhausted,
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
        """Whether the whole front, raw and denoised, has been scored on the test split, where there is one."""
        return not self.float_tested or not self.untested()

    @property
    def is_described(self) -> bool:
        """Whether what the strategy had learned is of all trials, unless it never learned: a process may be killed."""
        return self.learned is None or self.surrogate is not None

    def members(self) -> set[int]:
        """Numbers of the trials on the front, raw or denoised."""
        return {trial.number for trial in (*self.pareto(), *self.denoised())}

    def untested(self) -> list[Trial]:
        """Members of the front, raw or denoised, that have not been scored on the test split."""
        missing = self.members() - self.tested.keys()
        return [trial for trial in self.finished if trial.number in missing]

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

    def of_interest(self) -> list[Trial]:
        """Members of the set that are no worse than the reference in any objective, best quality first."""
        corner = reference(self.infos)
        return [trial for trial in self.pareto() if (maximised(self.infos, [trial]) >= corner).all()]

    @property
    def surrogate(self) -> Learned | None:
        """What the strategy has learned from all trials that have finished; ``None`` while more of them come in."""
        return self.learned if self.learned is not None and self.learned.trials == len(self.finished) else None

    @property
    def estimates(self) -> Mapping[int, Measurement]:
        """Number of a trial -> denoised quality; empty where there is no :attr:`surrogate`."""
        return self.surrogate.estimates if self.surrogate is not None else {}

    def denoised(self) -> list[Trial]:
        """The set by :attr:`estimates`, best quality first: their values have the place of the measured ones."""
        name, estimates = self.quality.name, self.estimates
        known = [trial for trial in complete(self.finished) if trial.number in estimates]
        expected = [replace(trial, values={**trial.values, name: estimates[trial.number]}) for trial in known]
        return pareto_trials(self.infos, expected)

    def hypervolume(self, count: int | None = None) -> float:
        """Of the whole study, or of the first ``count`` trials that finished."""
        return trials_hypervolume(self.infos, self.finished[:count])

    def run_id(self, number: int) -> str | None:
        """Of a trial, at whichever tracking server it was logged last."""
        return next((runs[str(number)] for runs in reversed(list(self.runs.values())) if str(number) in runs), None)


def _learned(event: Mapping[str, Any]) -> Learned:
    estimates = {int(number): measurement_from_list(pair) for number, pair in event["estimates"].items()}
    return Learned(int(event["trials"]), dict(event["diagnosis"]), estimates)


def measurements(values: Mapping[str, Any]) -> dict[str, Measurement]:
    """Read ``{name: [value, standard error]}``."""
    return {name: measurement_from_list(pair) for name, pair in values.items()}
