"""Pictures of a study: the front as a PNG for papers, or as an HTML page to hover over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mobo_mpq.errors import InputError
from mobo_mpq.front import complete, maximised
from mobo_mpq.objective import ObjectiveInfo
from mobo_mpq.pareto import non_dominated
from mobo_mpq.trial import Trial
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import is_share, scale_of

FRONT, OTHERS, FLOAT = "#0b6e4f", "#b8b8b8", "#c1440e"
DENOISED = "Pareto set, denoised"
COLOURS = "viridis"
"""Scale of the quality, where there are several costs: a trial has one colour in all panels."""


def plot(record: StudyRecord, out: Path) -> None:
    """Draw the front: quality against every cost, with the trials behind it and the float model's quality.

    Where the strategy has estimates, the denoised front is drawn beside the raw one, thin and hollow. Several costs are
    drawn against each other as well, in the colour of the quality: in pairs as a PNG, as parallel coordinates in HTML.

    Args:
        record: of the study.
        out: ends in ``.png`` or ``.html``.

    Raises:
        InputError: another ending, a folder that cannot be written, or no complete trial.
    """
    if out.suffix not in (".png", ".html"):
        raise InputError(f"cannot plot to '{out.name}'; expected a name that ends in .png or .html")
    if not record.pareto():
        raise InputError(f"study '{record.name}' has no complete trial yet; go on with 'mobo-mpq resume {record.name}'")
    from mobo_mpq.workflows import plotting_html, plotting_png  # each imports a library of its own

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        (plotting_png.draw if out.suffix == ".png" else plotting_html.draw)(Picture(record), out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; choose another --out") from None


@dataclass(frozen=True)
class Axis:
    """One objective in the unit that suits the study's largest value.

    Attributes:
        info: of the objective.
        factor: from that unit to SI.
        title: of the axis.
    """

    info: ObjectiveInfo
    factor: float
    title: str

    @classmethod
    def of(cls, info: ObjectiveInfo, trials: Sequence[Trial]) -> Axis:
        """For the values of some trials."""
        if is_share(info):
            return cls(info, 0.01, f"{info.name}, %")
        if not info.unit:
            return cls(info, 1.0, info.name.replace("_", " "))
        factor, unit = scale_of(info.unit, max((abs(t.values[info.name].value) for t in trials), default=1.0))
        return cls(info, factor, f"{info.name.rsplit('_', 1)[0]}, {unit}")

    def values(self, trials: Sequence[Trial]) -> list[float]:
        """Of complete trials."""
        return [self.show(trial.values[self.info.name].value) for trial in trials]

    def show(self, value: float) -> float:
        """A value in SI, in the unit of the axis."""
        return value / self.factor

    def limits(self, shown: Sequence[float]) -> tuple[float, float]:
        """Ends of an axis on which these values lie."""
        pad = 0.06 * (max(shown) - min(shown) or abs(max(shown)) or 1.0)
        return min(shown) - pad, max(shown) + pad


class Picture:
    """What both kinds of pictures show of a study that has a complete trial."""

    def __init__(self, record: StudyRecord) -> None:
        self.record = record
        every = complete(record.finished)
        self.quality, *self.costs = (Axis.of(info, every) for info in record.infos)
        self.front = record.pareto()
        numbers = {trial.number for trial in self.front}
        self.others = [trial for trial in every if trial.number not in numbers]
        self.denoised = record.denoised()
        self.float_quality = self.quality.show(record.float_values[record.quality.name].value)

    @property
    def title(self) -> str:
        """Of the whole picture."""
        return f"{self.record.name}: {len(self.record.finished)} trials"

    @property
    def has_several_costs(self) -> bool:
        """Whether the front is more than a line."""
        return len(self.costs) > 1

    @cached_property
    def shown(self) -> list[Trial]:
        """Members of the front that the axes are made for: two-bit disasters beyond the reference would flatten it."""
        return self.record.of_interest() or self.front

    @cached_property
    def quality_limits(self) -> tuple[float, float]:
        """Ends of the quality's axis: the front of interest, the float model and the worst of interest."""
        values = [
            *self.quality.values(self.shown),
            self.float_quality,
            self.quality.show(self.record.quality.reference),
        ]
        return self.quality.limits(values)

    def cost_limits(self, cost: Axis) -> tuple[float, float]:
        """Ends of a cost's axis: the front of interest, and the highest bits."""
        return cost.limits([*cost.values(self.shown), cost.show(cost.info.reference)])

    def line(self, cost: Axis, trials: Sequence[Trial]) -> list[Trial]:
        """Those that no other one beats in the quality and this cost alone, by cost: the steps of one panel."""
        if not trials:
            return []
        best = non_dominated(maximised((self.quality.info, cost.info), trials))
        kept = [trial for trial, good in zip(trials, best, strict=True) if good]
        return sorted(kept, key=lambda trial: trial.values[cost.info.name].value)
