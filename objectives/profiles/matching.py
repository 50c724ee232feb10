"""Which of a profiler's operators are which of a network's layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.profiles.entries import Entry, Profile

By = Literal["map", "name", "order"]
Claims = dict[str, tuple[By, list[Entry]]]

_SHOWN = 4
_BLOCKS = (8, 16)
"""Runtimes compute channels in blocks, and pad to whole ones."""


@dataclass(frozen=True, slots=True)
class Match:
    """What one layer took.

    Attributes:
        layer: of the network.
        seconds: of all its operators; of one that does the work of several layers, its share by MACs.
        names: of the operators.
        by: how they were found.
        std_s: of its operator, where it has one that tells.
        repeats: likewise.
    """

    layer: LayerSpec
    seconds: float
    names: tuple[str, ...]
    by: By
    std_s: float | None = None
    repeats: int | None = None


@dataclass(frozen=True, slots=True)
class Matched:
    """A profile, layer by layer.

    Attributes:
        matches: one per layer, in the order of the network.
        rest: operators that no layer claims.
    """

    matches: tuple[Match, ...]
    rest: tuple[Entry, ...]

    @property
    def overhead_s(self) -> float:
        """Time that no layer claims."""
        return sum(entry.seconds for entry in self.rest)


def match(profile: Profile, layers: Sequence[LayerSpec], maps: Mapping[str, str], batch: int = 1) -> Matched:
    """Find every layer's operators.

    First by ``maps``; then an operator whose name, or that of a part of a fused one, begins with the layer's; then what
    is left, if there are as many convolutions and products as layers, by their order and, where known, their shapes.

    Args:
        profile: of one precision.
        layers: of the network.
        maps: layer -> name, or beginning of the name, of its operators.
        batch: of the profile.

    Raises:
        UnknownName: ``maps`` has a layer that the network has not.
        InputError: an operator of ``maps`` does not exist, or a layer is not found.
    """
    claims: Claims = {}
    _by_map(profile, layers, maps, claims)
    mapped = [entry for _, entries in claims.values() for entry in entries]
    free = [layer for layer in layers if layer.name not in claims]
    names = {_path(layer.name): layer.name for layer in free}
    for entry in profile.entries:
        if entry not in mapped:
            for name in _claimants(entry.name, names):
                claims.setdefault(name, ("name", []))[1].append(entry)
    taken = {entry.name for _, entries in claims.values() for entry in entries}
    left = [entry for entry in profile.entries if entry.kinds and entry.name not in taken]
    lost = [layer for layer in layers if layer.name not in claims]
    pairs = _by_order(left, lost, batch)
    if pairs is None:
        raise InputError(_not_found(profile, layers, lost, left, batch))
    claims |= {layer.name: ("order", [entry]) for layer, entry in pairs}
    return _result(profile, layers, claims)


def _by_map(profile: Profile, layers: Sequence[LayerSpec], maps: Mapping[str, str], claims: Claims) -> None:
    known = [layer.name for layer in layers]
    for layer, name in maps.items():
        if layer not in known:
            raise UnknownName("layer", layer, known, "Correct that --map; it is LAYER=NAME.")
        exact = [entry for entry in profile.entries if entry.name == name]
        entries = exact or [entry for entry in profile.entries if entry.name.startswith(name)]
        if not entries:
            raise InputError(
                f"profile '{profile.file}' has no operator '{name}', which --map gives to layer '{layer}'; it has "
                f"{_some(entry.name for entry in profile.entries)}"
            )
        claims[layer] = ("map", entries)


def _path(name: str) -> str:
    """A name as its module's path: ``/block/block.0/Conv`` of torch's older exporter is ``block.0.conv``."""
    parts: list[str] = []
    for part in filter(None, re.split(r"[/:]+", name.strip(" .").lower())):
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()  # a child of a sequence repeats the name of the sequence
        parts.append(part)
    return ".".join(parts)


def _claimants(name: str, names: Mapping[str, str]) -> list[str]:
    """Layers that a name, or a part of a fused one, begins with: the longest for each part."""
    found: dict[str, None] = {}
    for part in re.split(r"\s*(?:\+|\|\||;)\s*", name):
        path = _path(part)
        fitting = [own for own in names if path == own or re.match(re.escape(own) + r"[^a-z0-9]", path)]
        if fitting:
            found[names[max(fitting, key=len)]] = None
    return list(found)


def _by_order(left: Sequence[Entry], lost: Sequence[LayerSpec], batch: int) -> list[tuple[LayerSpec, Entry]] | None:
    """Pairs of layers and operators in the order of both; ``None`` where they do not line up."""
    if not lost:
        return []
    if len(left) != len(lost):
        return None
    free, pairs = list(lost), []
    for entry in left:
        fitting = [layer for layer in free if _fits(entry, layer, batch)]
        # without shapes nothing but the order tells layers apart, so that it must hold strictly
        chosen = fitting[:1] if entry.output_shape else [layer for layer in fitting if layer is free[0]]
        if not chosen:
            return None
        free.remove(chosen[0])
        pairs.append((chosen[0], entry))
    return pairs


def _fits(entry: Entry, layer: LayerSpec, batch: int) -> bool:
    if layer.kind not in entry.kinds:
        return False
    if not entry.output_shape:
        return True
    if layer.kind is OpKind.LINEAR:
        shapes = [(batch, *layer.output_shape)]
    else:
        channels, *space = layer.output_shape
        padded = [channels, *(-(-channels // block) * block for block in _BLOCKS)]
        shapes = [(batch, width, *space) for width in padded]
    return sorted(entry.output_shape) in [sorted(shape) for shape in shapes]


def _result(profile: Profile, layers: Sequence[LayerSpec], claims: Claims) -> Matched:
    macs: dict[str, int] = {}
    for layer in layers:
        for entry in claims[layer.name][1]:
            macs[entry.name] = macs.get(entry.name, 0) + layer.macs
    matches = []
    for layer in layers:
        by, entries = claims[layer.name]
        seconds = sum(entry.seconds * layer.macs / macs[entry.name] for entry in entries)
        if not seconds:
            raise InputError(
                f"profile '{profile.file}': layer '{layer.name}' took no time "
                f"({_some(entry.name for entry in entries)}); profile more runs, or a larger batch"
            )
        alone = entries[0] if len(entries) == 1 and macs[entries[0].name] == layer.macs else None
        names = tuple(entry.name for entry in entries)
        spread = (alone.std_s, alone.repeats) if alone else (None, None)
        matches.append(Match(layer, seconds, names, by, *spread))
    return Matched(tuple(matches), tuple(entry for entry in profile.entries if entry.name not in macs))


def _not_found(
    profile: Profile, layers: Sequence[LayerSpec], lost: Sequence[LayerSpec], left: Sequence[Entry], batch: int
) -> str:
    other = {entry.output_shape[0] for entry in left if len(entry.output_shape) > 1} - {batch}
    if len(other) == 1 and _by_order(left, lost, next(iter(other))) is not None:
        return (
            f"profile '{profile.file}' is of batch {next(iter(other))}, not {batch}; give --batch {next(iter(other))}"
        )
    all_lost = len(lost) == len(layers)
    return (
        f"profile '{profile.file}' has no time for {len(lost)} of {len(layers)} layers: "
        f"{_some(layer.name for layer in lost)}; no operator's name begins with theirs, and its {len(left)} other "
        f"convolutions and products ({_some(entry.name for entry in left)}) do not line up with them in number, kind "
        f"and shape{': it may be of another model' if all_lost else ''}; say which is which by --map LAYER=NAME"
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return (", ".join(f"'{name}'" for name in listed[:_SHOWN]) + more) or "none"
