"""Several strategies on equal terms: what ``mobo-mpq compare`` does, as a function.

Every strategy and seed is an ordinary study, ``NAME-STRATEGY-SEED``: it can be resumed, shown, browsed and exported.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobo_mpq.config import StudyConfig
from mobo_mpq.errors import InputError
from mobo_mpq.strategies.registry import check_strategy
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.comparison import Comparison, Curve
from mobo_mpq.workflows.home import Home, StudyFolder
from mobo_mpq.workflows.preparation import Prepared, prepare, resolve
from mobo_mpq.workflows.record import StudyRecord
from mobo_mpq.workflows.reporting import stderr
from mobo_mpq.workflows.runners import ray_session
from mobo_mpq.workflows.search import begin, resume
from mobo_mpq.workflows.study_run import RunOptions

_FREE = ("schema_version", "trials", "concurrency", "checkpoint_megabytes")
"""Settings that an earlier study may have otherwise: they change how many trials there are, not what one finds."""

_TERMS = {"model_digest": "model", "data": "data", "objectives": "objectives and references"}
"""What studies that are compared have in common, by its key in the journal's first line."""


def compare(
    strategies: str | Sequence[str],
    seeds: int | str,
    *,
    home: str | Path | None = None,
    runner: str = "ray",
    address: str | None = None,
    tracking_uri: str | None = None,
    **settings: Any,
) -> Comparison:
    """Run the studies that are missing or unfinished, then read them all.

    The float model is measured once, as the sensitivities are; an evaluation is never shared.

    Args:
        strategies: names, or one text with commas.
        seeds: how many; they count up from ``seed``.
        home: folder of the studies; ``$MOBO_MPQ_HOME`` or ``./mobo-mpq-home`` when absent.
        runner: ``ray``, or ``serial`` for one trial after the other in this process.
        address: of a Ray cluster; this machine when absent.
        tracking_uri: of an MLflow server; a database in the home when absent.
        **settings: fields of :class:`~mobo_mpq.config.StudyConfig`, for all studies.

    Raises:
        InputError: anything that the user can mend, such as a study of that name with other settings; nothing has been
            run then.
        WorkError: trial after trial of a study failed.
    """
    options = RunOptions(runner, address, tracking_uri)
    environment.prepare(address)
    names, count = _names(strategies), _count(seeds)
    common = resolve(StudyConfig.parse({**settings, "strategy": names[0]}))
    if common.has_proxy:
        raise InputError(
            "strategies are compared on the task itself, but the study file names a proxy; leave out proxy_fraction "
            "and proxy_task, or search with each strategy by itself"
        )
    for name in names:
        check_strategy(name, common.strategy_options)
    place = Home.of(home)
    configs = [_member(common, name, common.seed + k) for k in range(count) for name in names]  # seed by seed
    _run(_Studies(place, configs), options, common.trials)
    curves: dict[str, list[Curve]] = {name: [] for name in names}
    for config in configs:
        curves[config.strategy].append(Curve(StudyRecord.read(place.study(config.name)), config.seed, common.trials))
    return Comparison(common, curves)


def _names(strategies: str | Sequence[str]) -> list[str]:
    words = strategies.split(",") if isinstance(strategies, str) else list(strategies)
    names = [word.strip() for word in words if word.strip()]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"--strategies is '{','.join(words)}'; expected one name or more, each once, such as 'mobo,random'"
        )
    return names


def _count(seeds: int | str) -> int:
    if not str(seeds).isdecimal() or int(seeds) < 1:
        raise InputError(f"--seeds is '{seeds}'; expected a whole number of at least 1")
    return int(seeds)


def _member(common: StudyConfig, strategy: str, seed: int) -> StudyConfig:
    name = f"{common.name}-{strategy}-{seed}"
    return StudyConfig.parse({**common.model_dump(by_alias=True), "name": name, "strategy": strategy, "seed": seed})


class _Studies:
    """The studies of a comparison; those that exist are checked when this is made."""

    def __init__(self, place: Home, configs: Sequence[StudyConfig]) -> None:
        self.place, self.configs = place, configs
        self._prepared: Prepared | None = None
        self._terms: tuple[str, Mapping[str, Any]] | None = None
        for config in configs:
            folder = place.study(config.name)
            if folder.exists:
                _refuse_others(folder, config)
                self._on_equal_terms(folder.name, StudyRecord.read(folder).header)

    def record(self, config: StudyConfig) -> StudyRecord | None:
        """What there is of a study."""
        folder = self.place.study(config.name)
        return StudyRecord.read(folder) if folder.exists else None

    def prepared(self, config: StudyConfig) -> Prepared:
        """A study that is ready to begin: the float model counts as measured where one of the others has done it."""
        if self._prepared is None:
            _say(f"preparing task '{config.task}' for target '{config.target}'")
            known = self._terms and {k: v for k, v in self._terms[1].items() if k != "sensitivity"}
            self._prepared = prepare(config, known=known)
            self._on_equal_terms(config.name, self._prepared.header())
        return self._prepared.for_study(config)

    def _on_equal_terms(self, name: str, header: Mapping[str, Any]) -> None:
        if self._terms is None:
            self._terms = name, header
        first, known = self._terms
        for key, what in _TERMS.items():
            if _as_json(known.get(key)) != _as_json(header.get(key)):
                raise InputError(
                    f"studies '{first}' and '{name}' cannot be compared: their {what} differ, so task or target have "
                    "changed between them; choose another --name to begin anew"
                )


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _refuse_others(folder: StudyFolder, expected: StudyConfig) -> None:
    found = folder.config()
    for field in StudyConfig.model_fields:
        was, wanted = getattr(found, field), getattr(expected, field)
        if field not in _FREE and was != wanted:
            raise InputError(
                f"study '{folder.name}' exists already and has {field} {was!r}, where this comparison has {wanted!r}; "
                "choose another --name, or the same settings"
            )


def _run(studies: _Studies, options: RunOptions, trials: int) -> None:
    """Begin what is missing, and end what was begun."""
    missing = [config for config in studies.configs if not _is_done(studies.record(config), trials)]
    if not missing:
        return
    concurrency = missing[0].concurrency
    with ray_session(options.address, concurrency) if options.runner == "ray" else contextlib.nullcontext():
        for index, config in enumerate(missing, start=1):
            _say(f"study {index} of {len(missing)}: {config.name}")
            record = studies.record(config)
            if record is None:
                begin(studies.place, studies.prepared(config), options)
                continue
            resume(
                config.name,
                trials=None if record.exhausted else trials,
                home=studies.place.path,
                runner=options.runner,
                address=options.address,
                tracking_uri=options.tracking_uri,
                concurrency=concurrency,
            )


def _is_done(record: StudyRecord | None, trials: int) -> bool:
    """Whether a study has all that is compared; one with more trials has what is shown of it."""
    if record is None or (record.evaluated < trials and not record.exhausted):
        return False
    return record.evaluated > trials or (record.is_finished and record.is_tested and record.is_described)


def _say(sentence: str) -> None:
    stderr.print(sentence, markup=False, soft_wrap=True)
