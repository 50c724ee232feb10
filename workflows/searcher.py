"""Ray Tune's view of a study: it asks for trials and hands in results; the study decides and remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.search import Searcher

from mobo_mpq.journal import measurement_from_list, recipe_to_dict
from mobo_mpq.policy import Policy
from mobo_mpq.study import Study
from mobo_mpq.trial import Trial

Finished = Callable[[Trial], None]
Bar = Callable[[Trial], float | None]


class StudySearcher(Searcher):
    """Feeds the trials of a study to Tune.

    Tune logs what a searcher raises and goes on; so an exception is kept in :attr:`failure`, and ends the search.

    Args:
        study: asks its strategy, writes its journal.
        total: trials to end in all.
        concurrency: trials at a time; Tune asks for one more than it has room for, which would be decided too early.
        on_finished: called with every finished trial.
        bar: the early quality from which a trial goes on; asked when it is handed out.
    """

    def __init__(self, study: Study, total: int, concurrency: int, on_finished: Finished, bar: Bar) -> None:
        super().__init__()
        self.study, self.total, self.concurrency = study, total, concurrency
        self.on_finished, self.bar = on_finished, bar
        self._numbers: dict[str, int] = {}
        self._exhausted = False
        self.failure: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher at the start, for a restore that we never ask of it."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial, ``None`` for not now, or ``FINISHED``."""
        started = self.study.evaluated + len(self._numbers)
        if self._exhausted or self.failure is not None or started >= self.total:
            return Searcher.FINISHED
        if len(self._numbers) >= self.concurrency:
            return None
        trials: list[Trial] = []
        bar: float | None = None
        with self._kept():
            trials = self.study.ask(1)
            bar = self.bar(trials[0]) if trials else None
        if not trials:
            self._exhausted = True
            return Searcher.FINISHED
        trial = trials[0]
        self._numbers[trial_id] = trial.number
        return {
            "number": trial.number,
            "seed": trial.seed,
            "policy": trial.policy and listed(trial.policy),
            "recipe": trial.recipe and recipe_to_dict(trial.recipe),
            "learner": trial.learner and recipe_to_dict(trial.learner),
            "bar": bar,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand a result to the study; neither result nor error means that the worker was lost."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        with self._kept():
            self.on_finished(self._tell(number, result or {}))

    def _tell(self, number: int, result: dict[str, Any]) -> Trial:
        known: dict[str, Any] = {key: result.get(key) for key in ("seconds", "cpu_s")}
        known["details"] = dict(result.get("details", []))
        known["early"] = measurement_from_list(result["early"]) if "early" in result else None
        known["policy"] = Policy.of(dict(result["policy"])) if "policy" in result else None
        if "measured" in result:
            values = {self.study.problem.quality.name: measurement_from_list(result["measured"])}
            return self.study.tell(number, values, **known)
        why = result.get("error") or "the worker was lost: out of memory, or its node went away"
        return self.study.tell(number, error=why, pruned=result.get("pruned", False), **known)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the first exception for whoever runs Tune."""
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: a trial has one result, its last."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""


def listed(policy: Policy) -> list[tuple[str, list[int]]]:
    """A policy as one entry: an entry for each layer would end up in the name of a trial's folder."""
    return [(name, list(bits)) for name, bits in policy.items()]
