"""Which trial users mean by ``best``, ``knee`` or a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.front import maximised
from mobo_mpq.hardware import CostModel, Storage
from mobo_mpq.layers import LayerSpec
from mobo_mpq.objective import Direction, Measurement
from mobo_mpq.objectives.quality import PERCENT_FROM
from mobo_mpq.objectives.size import SizeModel
from mobo_mpq.trial import Recipe, Trial, TrialState
from mobo_mpq.workflows.record import StudyRecord

CHOICES = ("best", "knee", "accurate", "fastest", "smallest")


@dataclass(frozen=True)
class Selection:
    """A trial, and what users should know about how it was chosen."""

    trial: Trial
    note: str = ""


def select(record: StudyRecord, choice: str, max_drop: float = 1.0) -> Selection:
    """The trial that a user means.

    Args:
        record: of the study.
        choice: ``best``: the fastest within ``max_drop`` of the float baseline; ``knee``: the front's member farthest
            above the line between its ends, quality counting as much as all costs together; ``accurate``; ``fastest``:
            of least latency, or of the least first cost where latency is no objective; ``smallest``: of the fewest
            bytes of weights, whether an objective or not; or a number. Among equals the most accurate one.
        max_drop: in percentage points of a metric that is maximised, in percent of one that is minimised.

    Raises:
        InputError: there is no complete trial, the number's trial is not complete, or ``max_drop`` is negative.
        UnknownName: no such choice or trial.
    """
    if not 0 <= max_drop < float("inf"):
        raise InputError(f"--max-drop is {max_drop}; expected a number of 0 or more")
    if choice.isdecimal():
        return Selection(_by_number(record, int(choice)))
    if choice not in CHOICES:
        raise UnknownName("trial", choice, CHOICES, "Or give the number of a trial.")
    front = record.pareto()
    if not front:
        raise InputError(f"study '{record.name}' has no complete trial yet; go on with 'mobo-mpq resume {record.name}'")
    if choice == "best":
        return _best(record, front, max_drop)
    if choice == "knee":
        return Selection(_knee(record))
    if choice == "accurate":
        return Selection(front[0])
    return _smallest(record, front) if choice == "smallest" else _fastest(record, front)


def _allowed(baseline: float, direction: Direction, max_drop: float) -> float:
    """The worst quality within ``max_drop`` of the float baseline."""
    if direction is Direction.MINIMIZE:
        return baseline + abs(baseline) * max_drop / 100
    points = 1.0 if abs(baseline) > PERCENT_FROM else 0.01  # accuracies come as 0..100 or as 0..1
    return baseline - max_drop * points


def _best(record: StudyRecord, front: list[Trial], max_drop: float) -> Selection:
    quality = record.quality
    allowed = _allowed(record.float_values[quality.name].value, quality.direction, max_drop)
    good = [t for t in front if quality.sign * t.values[quality.name].value >= quality.sign * allowed]
    if good:
        fastest = _fastest(record, good)
        notes = (fastest.note, _doubt(record, fastest.trial, max_drop))
        return Selection(fastest.trial, "; ".join(note for note in notes if note))
    return Selection(
        front[0],
        f"no trial is within {max_drop:g} {'%' if quality.direction is Direction.MINIMIZE else 'points'} of the float "
        f"model's {quality.name}; this is the most accurate one",
    )


def _doubt(record: StudyRecord, trial: Trial, max_drop: float) -> str:
    """A front is chosen on validation data, where it looks better than it is."""
    quality = record.quality

    def fails(found: Measurement | None, baseline: Measurement | None) -> bool:
        if found is None or baseline is None:
            return False
        allowed = _allowed(baseline.value, quality.direction, max_drop)
        return quality.sign * found.value < quality.sign * allowed

    tested, estimate = record.tested.get(trial.number, {}).get(quality.name), record.estimates.get(trial.number)
    where = ["on the test split"] if fails(tested, record.float_tested.get(quality.name)) else []
    if fails(estimate, record.float_values[quality.name]):
        where.append(f"by its denoised {quality.name}")
    if not where:
        return ""
    return f"{' and '.join(where)} it loses more than --max-drop {max_drop:g}, see 'mobo-mpq pareto {record.name}'"


def _knee(record: StudyRecord) -> Trial:
    """Farthest from the line between the front's ends, in units of its own extent, among the members of interest.

    With several costs, the mean of what they gain stands against the quality: costs go together, and would outvote it.
    """
    front = record.of_interest() or record.pareto()
    points = maximised(record.infos, front)
    extent = points.max(axis=0) - points.min(axis=0)
    scaled = (points - points.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    return front[int((scaled[:, 0] + scaled[:, 1:].mean(axis=1)).argmax())]


def _fastest(record: StudyRecord, trials: list[Trial]) -> Selection:
    """The least latency, or the least of the first cost where the study does not have it; trials are best first."""
    has_it = "latency_s" in {info.name for info in record.infos}
    name = "latency_s" if has_it else record.infos[1].name
    least = min(trials, key=lambda trial: trial.values[name].value)
    return Selection(least, "" if has_it else f"the study has no objective latency_s; this is the least {name}")


def _smallest(record: StudyRecord, front: list[Trial]) -> Selection:
    """The fewest bytes of weights, from the policies where they are no objective; trials are best first."""
    if "size_bytes" in {info.name for info in record.infos}:
        return Selection(min(front, key=lambda trial: trial.values["size_bytes"].value))
    layers = [LayerSpec(**layer) for layer in record.header["layers"]]
    model: CostModel = SizeModel(layers, Storage(**record.header.get("storage", {})))  # older journals: packed
    if recipe := record.header.get("recipe"):
        from mobo_mpq.training.recipes import RecipeCost  # heavy

        model = RecipeCost(model, Recipe(recipe["name"], options=recipe["options"]))

    def size(trial: Trial) -> float:
        assert trial.policy is not None, "a complete trial has a policy"
        return sum(model.layer_cost(layer, trial.policy[layer.name]) for layer in layers)

    least = min(front, key=size)
    return Selection(
        least, f"the study has no objective size_bytes; this policy's weights take {size(least):.0f} bytes"
    )


def _by_number(record: StudyRecord, number: int) -> Trial:
    trial = next((one for one in record.trials if one.number == number), None)
    if trial is None:
        raise UnknownName("trial", str(number), [f"0 to {len(record.trials) - 1}"])
    if trial.state is not TrialState.COMPLETE:
        raise InputError(
            f"trial {number} is {trial.state}{f' ({trial.error})' if trial.error else ''}; choose a complete one, "
            f"see 'mobo-mpq pareto {record.name}'"
        )
    return trial
