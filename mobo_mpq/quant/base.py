"""Contracts: schemes say how a tensor is quantized, quantizers do it."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.quant import functional
from mobo_mpq.quant.observers import Observer


@dataclass(frozen=True)
class QParams:
    """The grid of one quantizer: ``value = scale * (integer - zero_point)``.

    Attributes:
        scale: positive; ``()``, or ``(channels,)`` along ``axis``.
        zero_point: whole numbers as int32, of scale's shape.
        qmin: smallest integer.
        qmax: largest integer.
        axis: channel axis of the tensor, None for one scale per tensor.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int
    axis: int | None = None

    def quantize(self, x: Tensor) -> Tensor:
        """Integers of ``x``, in x's floating type."""
        return functional.quantize(x, self.scale, self.zero_point, self.qmin, self.qmax, self.axis)

    def dequantize(self, integers: Tensor) -> Tensor:
        """``scale * (integers - zero_point)``, in scale's type."""
        scale = functional.expand(self.scale, self.axis, integers.ndim)
        zero_point = functional.expand(self.zero_point, self.axis, integers.ndim)
        return scale * (integers - zero_point.to(integers.dtype)).to(scale.dtype)


class Role(StrEnum):
    """What a quantized tensor is."""

    WEIGHT = "weight"
    ACTIVATION = "activation"


@dataclass(frozen=True)
class Site:
    """Where a quantizer sits.

    Attributes:
        role: weight or activation.
        tensor: qualified name of the parameter, or name of the activation's node in the graph.
        layers: names of the layers that read the tensor; empty for an operand or result of an addition that none reads.
        axis: axis of the output channels of a weight; None for an activation.
    """

    role: Role
    tensor: str
    layers: tuple[str, ...]
    axis: int | None = None


class TensorQuantizer(nn.Module, ABC):
    """What sits on one tensor and gives it fewer distinct values.

    Between :meth:`start_observing` and :meth:`stop_observing` it looks at the tensor and passes it on. Its parameters
    and floating buffers are NaN until it is calibrated.

    Args:
        bits: 2 to 8.
        axis: channel axis, None for one grid per tensor.
    """

    site: Site | None = None

    def __init__(self, bits: int, axis: int | None = None) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis
        self.calibrated = False
        self._observer: Observer | None = None

    @abstractmethod
    def quantize(self, x: Tensor) -> Tensor:
        """The quantized ``x``, differentiable."""

    @abstractmethod
    def fit(self, observer: Observer) -> None:
        """Choose the values for the data that ``observer`` has seen."""

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, or, between :meth:`start_observing` and :meth:`stop_observing`, look at it and pass it on.

        Raises:
            InputError: when the quantizer has seen no data yet.
        """
        if self._observer is not None:
            self._observer.observe(x)
            return x
        if not self.calibrated:
            where = f"the {self.site.role} quantizer of '{self.site.tensor}'" if self.site else "this quantizer"
            raise InputError(f"{where} has seen no data yet; run calibrate(network, batches) first")
        return self.quantize(x)

    def calibrate(self, x: Tensor) -> None:
        """Choose the values for ``x`` alone."""
        observer = Observer(self.axis)
        observer.observe(x)
        self.fit(observer)
        self.calibrated = True

    def start_observing(self) -> None:
        """Collect statistics from now on, and let tensors pass unchanged."""
        self._observer = Observer(self.axis)

    def stop_observing(self, *, fit: bool = True) -> None:
        """Choose the values for what was seen since :meth:`start_observing`; ``fit=False`` forgets it."""
        observer, self._observer = self._observer, None
        if fit and observer is not None:
            self.fit(observer)
            self.calibrated = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        tensors = itertools.chain(self.parameters(), self.buffers())
        self.calibrated = all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())

    def extra_repr(self) -> str:
        """Bits and axis."""
        return f"bits={self.bits}, axis={self.axis}"


class Quantizer(TensorQuantizer):
    """Fake quantizer with an even grid, which is what devices compute with.

    Contract, bit for bit: ``forward(x) == scale * (integers(x) - zero_point)`` with those of :meth:`qparams`.
    """

    @abstractmethod
    def qparams(self) -> QParams:
        """The grid as it is now."""

    def integers(self, x: Tensor) -> Tensor:
        """The integers that stand for ``x``, in x's floating type."""
        return self.qparams().quantize(x)


@dataclass(frozen=True)
class Scheme(ABC):
    """How tensors are quantized: frozen, versioned, and kept in study files as JSON.

    Subclasses are frozen dataclasses of plain values, registered by :func:`register_scheme`.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1

    @abstractmethod
    def build(self, bits: int, shape: Sequence[int], axis: int | None) -> TensorQuantizer:
        """A quantizer for a tensor of ``shape`` whose channels lie along ``axis``; see :func:`build_quantizer`."""


_SCHEMES: dict[str, type[Scheme]] = {}
S = TypeVar("S", bound=type[Scheme])


def register_scheme(name: str) -> Callable[[S], S]:
    """Make a scheme known by ``name``, so that files can name it.

    Raises:
        InputError: when another class has the name.
    """

    def register(scheme: S) -> S:
        known = _SCHEMES.get(name)
        if known is not None and known.__qualname__ != scheme.__qualname__:
            raise InputError(f"scheme '{name}' is already {known.__qualname__}; choose another name")
        scheme.name = name
        _SCHEMES[name] = scheme
        return scheme

    return register


def schemes() -> dict[str, type[Scheme]]:
    """Every registered scheme, by name."""
    return dict(_SCHEMES)


def scheme_to_dict(scheme: Scheme) -> dict[str, Any]:
    """Plain values for a JSON document; :func:`scheme_from_dict` is the inverse."""
    return {"scheme": scheme.name, "version": scheme.version, **asdict(scheme)}


def scheme_from_dict(document: Mapping[str, Any]) -> Scheme:
    """The scheme that a document describes.

    Raises:
        UnknownName: when no scheme of that name is registered.
        InputError: for another version, or options that the scheme does not have.
    """
    options = dict(document)
    name, version = options.pop("scheme", None), options.pop("version", 1)
    if name not in _SCHEMES:
        raise UnknownName("scheme", str(name), _SCHEMES)
    scheme = _SCHEMES[name]
    if version != scheme.version:
        raise InputError(
            f"scheme '{name}' is of version {version!r}; this version reads {scheme.version}: "
            "write the study file again, or install the version that wrote it"
        )
    known = {field.name for field in fields(scheme)}
    for option in options:
        if option not in known:
            raise UnknownName(f"option of scheme '{name}'", option, known)
    return scheme(**options)


def build_quantizer(
    scheme: Scheme, bits: int, *, shape: Sequence[int] = (), axis: int | None = None
) -> TensorQuantizer | None:
    """The quantizer of one tensor; None at 16 and 32 bits, which leave it as it is.

    Args:
        scheme: how.
        bits: 2 to 8, 16 or 32.
        shape: of the tensor; only the size of the channel axis is used.
        axis: channel axis of a weight, None for an activation.

    Raises:
        InputError: for other bits, or a scheme with a scale per channel for a tensor without a channel axis.
    """
    if check_off(bits):
        return None
    return scheme.build(bits, tuple(shape), axis)


def check_off(bits: int) -> bool:
    """Whether ``bits`` leave a tensor in float.

    Raises:
        InputError: when no quantizer exists for ``bits``.
    """
    return functional.check_bits(bits) in functional.OFF_BITS
