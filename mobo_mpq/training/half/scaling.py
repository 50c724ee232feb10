"""Arithmetic of a fine-tune: float32, or float16 with one of four ways to scale the loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from mobo_mpq.errors import InputError, TrainingDiverged, UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.options import is_whole
from mobo_mpq.training.data import device_of
from mobo_mpq.training.half.ledger import Ledger, Tally
from mobo_mpq.training.half.network import in_half
from mobo_mpq.training.half.rule import power_of_two

PRECISIONS = ("fp32", "fp16")
LOSS_SCALINGS = ("adaptive", "dynamic", "static", "none")
AUTO = "auto"
"""Loss scaling of a recipe that names none: adaptive in fp16."""

COUNT_INTERVAL = 10
"""Steps from one whose gradients are counted to the next: counting takes time."""
PATIENCE = 24
"""Steps that may overflow in a row: from its first scale on, ``dynamic`` halves it down to 1/256."""

_FIRST_SCALES = {"adaptive": 1.0, "dynamic": 2.0**16, "static": 2.0**10, "none": 1.0}


class HalfSettings(Protocol):
    """The part of a fine-tune's settings that is read here; see :class:`mobo_mpq.training.loop.Settings`."""

    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def loss_scaling(self) -> str: ...  # noqa: D102
    @property
    def loss_scale(self) -> float: ...  # noqa: D102
    @property
    def scale_interval(self) -> float: ...  # noqa: D102


def check_half(settings: HalfSettings) -> None:
    """Whether precision and loss scaling are known, and go together.

    Raises:
        UnknownName: for a word that is not known.
        InputError: for a scale that is no power of two, an interval below 1, or an option that would change nothing.
    """
    if settings.precision not in PRECISIONS:
        raise UnknownName("precision", settings.precision, PRECISIONS)
    if settings.loss_scaling not in (*LOSS_SCALINGS, AUTO):
        raise UnknownName("loss scaling", settings.loss_scaling, (*LOSS_SCALINGS, AUTO))
    if settings.precision == "fp32" and settings.loss_scaling != AUTO:
        raise InputError(
            f"loss scaling '{settings.loss_scaling}' is for precision 'fp16', and this fine-tune is in 'fp32'; "
            "add --precision fp16, or leave --loss-scaling out"
        )
    scale, interval = settings.loss_scale, settings.scale_interval
    if scale and (not 0.0 < scale < math.inf or scale != power_of_two(scale)):
        raise InputError(
            f"option 'loss_scale' of the fine-tune is {scale!r}; expected a power of two, such as 1024, or 0 for the "
            "default of the loss scaling"
        )
    if not is_whole(interval, 1):
        raise InputError(
            f"option 'scale_interval' of the fine-tune is {interval!r}; expected a whole number of at least 1"
        )
    if scale:
        _check_used("loss_scale", scale, settings, ("adaptive", "dynamic", "static"))
    if interval != 1:
        _check_used("scale_interval", interval, settings, ("adaptive",))


def _check_used(name: str, value: float, settings: HalfSettings, scalings: Sequence[str]) -> None:
    """Refuse an option that changes nothing, since precision or loss scaling is another."""
    given = f"option '{name}' of the fine-tune is {value!r}"
    if settings.precision == "fp32":
        raise InputError(f"{given}, but this fine-tune is in 'fp32'; add --precision fp16, or leave '{name}' out")
    if settings.loss_scaling not in (AUTO, *scalings):
        raise InputError(
            f"{given}, which loss scaling '{settings.loss_scaling}' does not use; take --loss-scaling "
            f"{' or '.join(scalings)}, or leave '{name}' out"
        )


class Arithmetic(ABC):
    """Goes forwards and backwards for a fine-tune.

    Attributes:
        network: to be called in training; has the parameters that are trained.
    """

    network: Network

    @abstractmethod
    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Give all parameters the gradient of ``loss``."""

    @abstractmethod
    def skips(self, loss: float) -> bool:
        """Whether a step whose gradient is not finite is left out, and the fine-tune goes on.

        Raises:
            TrainingDiverged: when too many were.
        """

    def took(self) -> None:  # noqa: B027 - float32 has nothing to do
        """A step was taken."""

    def finish(self) -> Mapping[str, float]:
        """What is to be told of the whole fine-tune: name -> number.

        Raises:
            TrainingDiverged: when no step was taken.
        """
        return {}


class Single(Arithmetic):
    """Float32: no scales, and nothing is forgiven."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """See :class:`Arithmetic`."""
        loss.backward()

    def skips(self, loss: float) -> bool:
        """Never."""
        return False


class Half(Arithmetic):
    """Float16 with master parameters in float32 (Micikevicius et al., ICLR 2018).

    Args:
        network: calibrated; its parameters are trained.
        settings: of the fine-tune.
        dtype: float16; float32 serves comparisons.
        count_interval: steps from one whose gradients are counted to the next.
    """

    def __init__(
        self,
        network: Network,
        settings: HalfSettings,
        dtype: torch.dtype = torch.float16,
        *,
        count_interval: int = COUNT_INTERVAL,
    ) -> None:
        self.scaling = "adaptive" if settings.loss_scaling == AUTO else settings.loss_scaling
        self.interval, self.count_interval = int(settings.scale_interval), count_interval
        self.ledger = Ledger(dtype, adaptive=self.scaling == "adaptive")
        self.network = in_half(network, self.ledger)
        first = settings.loss_scale or _FIRST_SCALES[self.scaling]
        self._scaler: torch.amp.GradScaler | None = None
        if self.scaling == "dynamic":
            self._scaler = torch.amp.GradScaler(device_of(network).type, init_scale=first)
        else:
            self.ledger.loss_scale = first
        self._steps, self._skipped, self._in_a_row = 0, 0, 0

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """Zeros and losses in the gradients of every layer, of the steps that were counted."""
        return self.ledger.tallies

    @property
    def loss_scale(self) -> float:
        """That the loss is multiplied by now."""
        return self.ledger.loss_scale if self._scaler is None else float(self._scaler.get_scale())

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """See :class:`Arithmetic`."""
        self.ledger.fresh = self._in_a_row > 0 or self._steps % self.interval == 0
        self.ledger.counting = self._steps % self.count_interval == 0
        self._steps += 1
        if self._scaler is None:
            loss.backward()
            return
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimizer)
        self._scaler.update()  # the loop leaves the step out

    def skips(self, loss: float) -> bool:
        """Unless the loss itself is not finite, which no scale mends."""
        if not math.isfinite(loss):
            return False
        self._skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= PATIENCE:
            raise TrainingDiverged(self._overflowed(f"{self._in_a_row} steps in a row, up to step {self._steps}"))
        return True

    def took(self) -> None:
        """See :class:`Arithmetic`."""
        self._in_a_row = 0

    def finish(self) -> Mapping[str, float]:
        """Counts of the fine-tune.

        ``overflow_steps``: left out, since a gradient was not finite. ``underflows`` and ``underflow_share``: elements
        of gradients of layers' inputs and of the network's outputs that became 0, and are not in float32.
        ``zero_gradient_share``: of the elements of gradients of layers' outputs. ``loss_scale``: of the loss, at the
        end. ``largest_scale``: that any gradient had. All but the first and the scale of the loss are of one step in
        :data:`COUNT_INTERVAL`.
        """
        if self._steps == self._skipped:
            raise TrainingDiverged(self._overflowed(f"all of its {self._steps} steps"))
        total = self.ledger.total()
        found = {
            "overflow_steps": self._skipped,
            "underflow_share": total.underflow_share,
            "underflows": total.lost,
            "zero_gradient_share": total.zero_share,
            "loss_scale": self.loss_scale,
            "largest_scale": total.largest_scale if self._scaler is None else self.loss_scale,
        }
        return {name: float(number) for name, number in found.items()}

    def _overflowed(self, when: str) -> str:
        smaller = (
            "take --loss-scaling static with an option 'loss_scale' below 1"
            if self.scaling == "none"
            else "lower the option 'loss_scale', choose another --loss-scaling"
        )
        return (
            f"the fine-tune overflowed float16 in {when}, with {self.scaling} loss scaling and the loss times "
            f"{self.loss_scale:g}: {smaller}, or train with --precision fp32"
        )


def arithmetic_of(network: Network, settings: HalfSettings) -> Arithmetic:
    """What a fine-tune with these settings computes in."""
    return Single(network) if settings.precision == "fp32" else Half(network, settings)
