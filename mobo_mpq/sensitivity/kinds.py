"""The kinds of sensitivity, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mobo_mpq.errors import UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.sensitivity import fisher, hessian, orthogonality, perturbation
from mobo_mpq.sensitivity.table import Provenance, SensitivityTable
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.losses import Loss, default_loss


@dataclass(frozen=True)
class Given:
    """What a search knows when it measures; each kind takes what it needs.

    Attributes:
        loss: of the task.
        biases: whether the recipe corrects biases.
    """

    loss: Loss = default_loss
    biases: bool = False


@dataclass(frozen=True)
class _Kind:
    about: str
    measure: Callable[..., SensitivityTable]
    provenance: Callable[..., Provenance]
    takes: tuple[str, ...] = ()


_KINDS = {
    "perturbation": _Kind(
        "how far the outputs move when one tensor is quantized",
        perturbation.perturb,
        perturbation.provenance,
        ("biases",),
    ),
    "sqnr": _Kind(
        "noise over signal of the outputs when one tensor is quantized (AMP)",
        partial(perturbation.perturb, distance="sqnr"),
        partial(perturbation.provenance, distance="sqnr"),
        ("biases",),
    ),
    "hessian": _Kind(
        "trace of the loss's second derivatives times squared error (HAWQ)",
        hessian.hessian,
        hessian.provenance,
        ("loss",),
    ),
    "fisher": _Kind("squared gradients times squared error (FIT)", fisher.fisher, fisher.provenance, ("loss",)),
    "orthogonality": _Kind(
        "what a layer's outputs do not share with those of others (OMPQ)",
        orthogonality.orthogonality,
        orthogonality.provenance,
    ),
}


def kind_names() -> tuple[str, ...]:
    """Names of the kinds, the default first."""
    return tuple(_KINDS)


def about_kind(name: str) -> str:
    """One line for people.

    Raises:
        UnknownName: when there is no kind of that name.
    """
    return _kind(name).about


def measure(
    name: str, network: Network, space: SearchSpace, batches: Sequence[Any], given: Given | None = None
) -> SensitivityTable:
    """Measure one kind with its options at their defaults.

    Args:
        name: of the kind.
        network: in float; left as it is.
        space: of its policies.
        batches: as loaders yield them.
        given: loss and recipe.

    Raises:
        UnknownName: when there is no kind of that name.
        InputError: when it cannot be measured.
    """
    kind = _kind(name)
    return kind.measure(network, space, batches, **_options(kind, given))


def provenance_of(
    name: str, network: Network, space: SearchSpace, batches: Sequence[Any], given: Given | None = None
) -> Provenance:
    """Digests of what :func:`measure` would measure, without measuring; arguments as there."""
    kind = _kind(name)
    return kind.provenance(network, space, batches, **_options(kind, given))


def _options(kind: _Kind, given: Given | None) -> dict[str, Any]:
    return {name: getattr(given or Given(), name) for name in kind.takes}


def _kind(name: str) -> _Kind:
    if name not in _KINDS:
        raise UnknownName("kind of sensitivity", name, _KINDS)
    return _KINDS[name]
