"""The study file: everything that defines a search, as a validated TOML document."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mobo_mpq.errors import InputError

SCHEMA = 1

_SCALES = {  # a display unit, as users write it in a budget: (name of the cost, factor to SI)
    "latency_s": ("latency_s", 1.0),
    "latency_ms": ("latency_s", 1e-3),
    "latency_us": ("latency_s", 1e-6),
    "energy_j": ("energy_j", 1.0),
    "energy_mj": ("energy_j", 1e-3),
    "energy_uj": ("energy_j", 1e-6),
    "size_bytes": ("size_bytes", 1.0),
    "size_kb": ("size_bytes", 1e3),
    "size_kib": ("size_bytes", 1024.0),
    "size_mb": ("size_bytes", 1e6),
    "size_mib": ("size_bytes", 1024.0**2),
    "bops": ("bops", 1.0),
    "gbops": ("bops", 1e9),
}

Bits = Annotated[int, Field(ge=1, le=32)]


class StudyConfig(BaseModel):
    """What is searched, how, and for how long. Field for field the flags of ``mobo-mpq search``.

    Attributes:
        name: of the study; ``<task>-<target>`` when empty.
        task: a built-in name, ``path/to/file.py:name`` or ``package.module:name``.
        target: a built-in name, or the path of a TOML document.
        objectives: costs to trade quality against: latency, energy, size, bops.
        recipe: how a policy becomes a network: ptq, multipoint, kmeans, qat.
        epochs: of the recipe; its own default when absent.
        recipe_options: further options of the recipe.
        precision: of the fine-tune's arithmetic, fp32 or fp16; the recipe's own when absent.
        loss_scaling: of a fine-tune in fp16: adaptive, dynamic, static, none; the recipe's own when absent.
        proxy_fraction: share of the training data that policies are searched on; all of it when 1.
        proxy_epochs: of each fine-tune in a search on a proxy; as on the task when absent.
        proxy_task: another task that policies are searched on, with a network of the same layers.
        strategy: who proposes.
        strategy_options: further options of the strategy.
        sensitivity: whether layers' sensitivities are measured first, for strategies that use them.
        sensitivity_kind: perturbation, sqnr, hessian, fisher or orthogonality; the strategy's own when absent.
        trials: evaluations in all.
        concurrency: trials at a time; the number of cores when absent.
        seed: of everything random.
        weight_bits: choices for the weights; when not given, those of the default that the target supports.
        activation_bits: choices for the inputs.
        pin: ``LAYER=W/A``.
        tie: ``LAYER,LAYER,...``: the same bits for all of them.
        budget: ``latency_ms<=X`` and the like.
        worst_quality: reference of the quality; 10 points below the float model, or 1.2 times its value, when absent.
        gpus_per_trial: share of a GPU that each trial reserves.
        futility: whether trials that cannot pay off stop after a quarter of their fine-tune.
        checkpoint_megabytes: cap on the checkpoints kept for the front.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    name: str = ""
    task: str = "digits"
    target: str = "mpic"
    objectives: tuple[str, ...] = ("latency",)
    recipe: str = "qat"
    epochs: Annotated[float, Field(gt=0)] | None = None
    recipe_options: dict[str, float | str] = Field(default_factory=dict)
    precision: str | None = None
    loss_scaling: str | None = None
    proxy_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    proxy_epochs: Annotated[float, Field(gt=0)] | None = None
    proxy_task: str | None = None
    strategy: str = "mobo"
    strategy_options: dict[str, float | str] = Field(default_factory=dict)
    sensitivity: bool = True
    sensitivity_kind: str | None = None
    trials: Annotated[int, Field(ge=1)] = 48
    concurrency: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    weight_bits: tuple[Bits, ...] = (2, 4, 8)
    activation_bits: tuple[Bits, ...] = (2, 4, 8)
    pin: tuple[str, ...] = ()
    tie: tuple[str, ...] = ()
    budget: tuple[str, ...] = ()
    worst_quality: float | None = None
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    futility: bool = False
    checkpoint_megabytes: Annotated[float, Field(ge=0)] = 256.0

    @field_validator("schema_version")
    @classmethod
    def _known_schema(cls, value: int) -> int:
        if value != SCHEMA:
            raise ValueError(f"this version reads schema {SCHEMA}")
        return value

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("expected letters, digits, dots, dashes and underscores, beginning with a letter or digit")
        return value

    @field_validator("weight_bits", "activation_bits", "objectives", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        """Flags come as ``2,4,8``."""
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value

    @field_validator("weight_bits", "activation_bits", "objectives")
    @classmethod
    def _not_empty(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("expected at least one")
        if len(set(value)) != len(value):
            raise ValueError("expected each one once")
        return value

    @property
    def has_proxy(self) -> bool:
        """Whether policies are searched on other data than those that they are evaluated on."""
        return self.proxy_fraction < 1.0 or self.proxy_task is not None

    @property
    def pins(self) -> dict[str, tuple[int, int]]:
        """Layer -> (weight, activation) bits."""
        pins: dict[str, tuple[int, int]] = {}
        for text in self.pin:
            match = re.fullmatch(r"(.+)=(\d+)/(\d+)", text)
            if match is None:
                raise InputError(f"pin '{text}' is not understood; expected LAYER=W/A, such as 'conv1=8/8'")
            bits = (int(match[2]), int(match[3]))
            if pins.setdefault(match[1], bits) != bits:
                raise InputError(f"layer '{match[1]}' is pinned to different bits; pin it once")
        return pins

    @property
    def ties(self) -> list[tuple[str, ...]]:
        """Groups of layer names."""
        groups = [tuple(name.strip() for name in text.split(",") if name.strip()) for text in self.tie]
        for text, group in zip(self.tie, groups, strict=True):
            if len(group) < 2:
                raise InputError(f"tie '{text}' names fewer than two layers; expected LAYER,LAYER")
        return groups

    @property
    def budgets(self) -> dict[str, float]:
        """Name of a cost -> largest value, in SI units."""
        return {name: limit for name, limit, _, _ in self._budgets()}

    def as_written(self, name: str) -> tuple[str, float]:
        """The name that the user gave a budget, and the factor from its unit to SI."""
        return next((written, factor) for cost, _, written, factor in self._budgets() if cost == name)

    def _budgets(self) -> list[tuple[str, float, str, float]]:
        """Cost, limit in SI units, name as written, and the factor between."""
        budgets: list[tuple[str, float, str, float]] = []
        for text in self.budget:
            match = re.fullmatch(r"\s*(\w+)\s*<=\s*(\S+)\s*", text)
            name, factor = _SCALES.get(match[1].lower(), ("", 0.0)) if match else ("", 0.0)
            try:
                limit = float(match[2]) * factor if match and name else float("nan")
            except ValueError:
                limit = float("nan")
            if not 0 < limit < float("inf"):
                raise InputError(
                    f"budget '{text}' is not understood; expected NAME<=NUMBER with a number above 0 and a name among "
                    f"{', '.join(_SCALES)}"
                )
            assert match is not None, "a limit was found"
            if any(name == other for other, *_ in budgets):
                raise InputError(f"budget '{text}' is one of two on {name}; give the smaller one alone")
            budgets.append((name, limit, match[1], factor))
        return budgets

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "") -> Self:
        """Validate plain values.

        Raises:
            InputError: one sentence about the first thing that is wrong.
        """
        try:
            config = cls.model_validate(dict(values))
        except ValidationError as error:
            raise InputError(_first_problem(error, source)) from None
        _ = config.pins, config.ties, config.budgets  # malformed ones are refused now, not later
        return config

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """The values of a study file; :meth:`parse` validates them once flags are laid over.

        Raises:
            InputError: the file cannot be read, or is no TOML.
        """
        try:
            with path.open("rb") as file:
                return tomllib.load(file)
        except OSError as error:
            raise InputError(f"cannot read the study file {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"the study file {path} is not TOML: {error}") from None

    def to_toml(self) -> str:
        """The document that :meth:`read` reads back."""
        return tomli_w.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True))


def _first_problem(error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][:1]) or "the document"
    flag = f"--{field.replace('_', '-')}" if not source else f"'{field}' in {source}"
    if first["type"] == "extra_forbidden":
        return f"unknown setting {flag}; known ones are {', '.join(StudyConfig.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{flag} is {first['input']!r}: {message[0].lower()}{message[1:]}"
