"""What a task is, and the checks between a user's task and everything else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from mobo_mpq.errors import TaskError
from mobo_mpq.objective import Direction, Measurement
from mobo_mpq.training.data import Inputs, split_batch, without_labels
from mobo_mpq.training.losses import Loss, default_loss

REQUIRED = ("model", "train", "val", "metric", "metric_name", "direction")


class Task(Protocol):
    """What a user writes for a network of their own: an object, or a class or function that makes one.

    Optional members: ``test`` (a loader, for the final front), ``loss`` (``loss(output, target)``, a scalar; default:
    :func:`~mobo_mpq.training.losses.default_loss`), ``example`` (a tensor, tuple or mapping that the network takes;
    default: the inputs of the first batch of ``val``, without ``labels``: give an example with them where the network
    cannot do without), ``measure`` (like ``metric``, but returns the value and its standard
    error) and ``manifest`` (name of a file -> its hash).
    """

    train: Iterable[Any]
    val: Iterable[Any]
    metric_name: str
    direction: str

    def model(self) -> nn.Module:
        """The trained network, in float."""
        ...

    def metric(self, model: nn.Module, loader: Iterable[Any]) -> float:
        """Score a network, float or quantized, on a loader."""
        ...


def one_line(error: BaseException) -> str:
    """An exception's type and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A task that has been checked, its optional members filled in.

    Attributes:
        address: loads the same task in another process.
        name: for people and file names, "digits".
        source: the object that the user wrote.
        metric_name: of the quality, "accuracy".
        direction: which way the metric is better.
        train: batches for fine-tunes and calibration.
        val: what a search scores on.
        test: what the Pareto set is scored on, once; ``None`` when there is none.
        loss: of the network's output and the target.
        manifest: name of a data file -> its hash, where the task gives it.
    """

    address: str
    name: str
    source: Any
    metric_name: str
    direction: Direction
    train: Iterable[Any]
    val: Iterable[Any]
    test: Iterable[Any] | None = None
    loss: Loss = default_loss
    manifest: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Any, address: str, name: str) -> LoadedTask:
        """Check an object's members.

        Raises:
            TaskError: naming the members that are missing or unusable.
        """
        present = {key: _read(source, key, name) for key in (*REQUIRED, "test", "loss", "measure", "manifest")}
        missing = [key for key in REQUIRED if present[key] is None]
        if missing:
            raise TaskError(
                f"task '{name}' lacks {', '.join(map(repr, missing))}; expected an object with {', '.join(REQUIRED)}: "
                "add what is missing"
            )
        for key in ("model", "metric", "measure", "loss"):
            if present[key] is not None and not callable(present[key]):
                raise TaskError(f"'{key}' of task '{name}' is {present[key]!r}; expected a function or method")
        for key in ("train", "val", "test"):
            if present[key] is not None and not isinstance(present[key], Iterable):
                raise TaskError(
                    f"'{key}' of task '{name}' is a {type(present[key]).__name__}; expected batches, as a DataLoader"
                )
        try:
            direction = Direction(present["direction"])
        except ValueError:
            raise TaskError(
                f"task '{name}' has direction {present['direction']!r}; expected 'maximize' or 'minimize'"
            ) from None
        return cls(
            address=address,
            name=name,
            source=source,
            metric_name=str(present["metric_name"]),
            direction=direction,
            train=present["train"],
            val=present["val"],
            test=present["test"],
            loss=present["loss"] or default_loss,
            manifest=dict(present["manifest"] or {}),
        )

    def model(self) -> nn.Module:
        """The trained float network, in evaluation mode.

        Raises:
            TaskError: when making it fails, or gives something else.
        """
        try:
            network = self.source.model()
        except Exception as error:
            raise TaskError(
                f"model() of task '{self.name}' raised {one_line(error)}; expected a trained torch module"
            ) from error
        if not isinstance(network, nn.Module):
            raise TaskError(
                f"model() of task '{self.name}' returned a {type(network).__name__}; expected a trained torch.nn.Module"
            )
        return network.eval()

    @property
    def about(self) -> str:
        """The first line of the task's own docstring."""
        return (inspect.getdoc(self.source) or "").partition("\n")[0]

    @cached_property
    def example(self) -> Inputs:
        """What the network is traced with: the task's own example, or the inputs of the first batch of ``val``.

        Labels of a mapping are left out: they would become an input of every file that is exported.

        Raises:
            TaskError: when ``val`` yields nothing that a network takes.
        """
        own = _read(self.source, "example", self.name)
        if own is not None:
            if isinstance(own, Mapping):  # tokenizers give mappings that are no dicts
                return dict(own)
            return tuple(own) if isinstance(own, list) else own
        try:
            return without_labels(split_batch(next(iter(self.val)))[0])
        except StopIteration:
            raise TaskError(f"'val' of task '{self.name}' is empty; expected at least one batch") from None
        except Exception as error:
            raise TaskError(
                f"the first batch of 'val' of task '{self.name}' failed with {one_line(error)}; expected "
                "(inputs, target), or give the task an 'example'"
            ) from error

    def metric(self, model: nn.Module, loader: Iterable[Any]) -> float:
        """The value of :meth:`measure` alone."""
        return self.measure(model, loader).value

    def measure(self, model: nn.Module, loader: Iterable[Any]) -> Measurement:
        """Score a network, with the standard error where the task knows it; no gradients, evaluation mode.

        Raises:
            TaskError: when the metric raises, or is no finite number.
        """
        function = getattr(self.source, "measure", None)
        called, score = ("metric", self.source.metric) if function is None else ("measure", function)
        result = self._call(called, score, model, loader)
        if function is None:
            return Measurement(self._number(result, result))
        if isinstance(result, Measurement):
            result = (result.value, result.stderr)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TaskError(f"measure() of task '{self.name}' returned {result!r}; expected (value, standard error)")
        error = None if result[1] is None else self._number(result[1], result)
        if error is not None and error < 0:
            raise TaskError(
                f"measure() of task '{self.name}' returned {result!r}; expected a standard error of 0 or more"
            )
        return Measurement(self._number(result[0], result), error)

    def _call(self, called: str, score: Callable[..., Any], model: nn.Module, loader: Iterable[Any]) -> Any:
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                return score(model, loader)
        except Exception as error:
            raise TaskError(
                f"{called}() of task '{self.name}' raised {one_line(error)}; expected the "
                f"{self.metric_name} of the network as a finite float"
            ) from error
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _number(self, value: Any, shown: Any) -> float:
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if not math.isfinite(number):
            raise TaskError(
                f"metric '{self.metric_name}' of task '{self.name}' returned {shown!r}; expected a finite float"
            )
        return number


def _read(source: Any, key: str, name: str) -> Any:
    """A member, or ``None``; a property that fails says so by its own exception."""
    try:
        return getattr(source, key)
    except AttributeError:
        if hasattr(type(source), key):  # a property whose code lacks an attribute, not a missing member
            return _failing(source, key, name)
        return None
    except Exception as error:
        raise TaskError(f"reading '{key}' of task '{name}' raised {one_line(error)}; expected a value") from error


def _failing(source: Any, key: str, name: str) -> Any:
    try:
        return getattr(source, key)
    except AttributeError as error:
        raise TaskError(f"reading '{key}' of task '{name}' raised {one_line(error)}; expected a value") from error
