"""How the choices of every decision follow from the target, the ties and the pins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec
from mobo_mpq.policy import Policy

Pairs = frozenset[tuple[int, int]]
Role = Literal["weight", "activation"]
ROLES: tuple[Role, Role] = ("weight", "activation")


@dataclass(frozen=True, slots=True)
class Variable:
    """One ordinal decision: the bits of one tensor, or of several tied ones.

    Attributes:
        name: ``layer1.0.conv1.weight``: the first of its layers, and the role.
        role: which bits of the layers it sets.
        choices: bits, strictly increasing.
        layers: names of the layers that it decides for.
    """

    name: str
    role: Role
    choices: tuple[int, ...]
    layers: tuple[str, ...]


def check_supported(
    target: HardwareTarget, layers: Sequence[LayerSpec], bits: frozenset[int] | None, role: Role
) -> None:
    """Refuse bits that no layer of the network can have on the target: they are a mistake, not a restriction."""
    if bits is None:
        return
    column = 0 if role == "weight" else 1
    known = {pair[column] for layer in layers for pair in target.pairs_of(layer)}
    for number in sorted(bits - known):
        raise InputError(
            f"target '{target.name}' does not support {number} {role} bits; "
            f"it supports {', '.join(map(str, sorted(known)))}: change --{role}-bits"
        )


def layer_pairs(
    layer: LayerSpec,
    target: HardwareTarget,
    weights: frozenset[int] | None,
    activations: frozenset[int] | None,
    pin: tuple[int, int] | None,
) -> Pairs:
    """Legal (weight, activation) bits of one layer."""
    supported = target.pairs_of(layer)
    if not supported:
        raise InputError(
            f"target '{target.name}' does not run layers of kind '{layer.kind}', such as '{layer.name}'; "
            f"it runs {', '.join(sorted(target.bit_pairs))}"
        )
    if pin is not None:
        if tuple(pin) not in supported:
            raise InputError(
                f"layer '{layer.name}' is pinned to {pin[0]}/{pin[1]} bits, which target '{target.name}' does not "
                f"support; it supports {', '.join(f'{w}/{a}' for w, a in sorted(supported))}"
            )
        return frozenset({(int(pin[0]), int(pin[1]))})
    pairs = frozenset(
        (w, a)
        for w, a in supported
        if (w in weights if weights is not None else w >= 2)
        and (a in activations if activations is not None else a >= 2)
    )
    if not pairs:
        raise InputError(
            f"none of the bits asked for fits layer '{layer.name}' on target '{target.name}'; it supports "
            f"{', '.join(f'{w}/{a}' for w, a in sorted(supported))} (weight/activation) for '{layer.kind}'"
        )
    return pairs


def merge(keys: Sequence[str], names: Sequence[str], ties: Iterable[Sequence[str]]) -> list[str]:
    """One key per layer, such that layers that share a key, or are tied by name, end with the same one."""
    merged = list(keys)
    position = {name: i for i, name in enumerate(names)}
    for group in ties:
        wanted = {merged[position[name]] for name in group}
        merged = [merged[position[group[0]]] if key in wanted else key for key in merged]
    return merged


def decide(
    names: tuple[str, ...], pairs: Sequence[Pairs], keys: Mapping[Role, list[str]]
) -> tuple[tuple[Pairs, ...], tuple[Variable, ...]]:
    """Make the decisions, with only those choices that some legal policy takes for the layer's own pair."""
    live = list(pairs)
    while True:  # dropping a choice of one decision may take away the last partner of another's
        choices: dict[tuple[Role, str], frozenset[int]] = {}
        for column, role in enumerate(ROLES):
            for i, key in enumerate(keys[role]):
                mine = frozenset(pair[column] for pair in live[i])
                choices[role, key] = choices.get((role, key), mine) & mine
                if not choices[role, key]:
                    group = [name for name, other in zip(names, keys[role], strict=True) if other == key]
                    raise InputError(
                        f"layers {', '.join(group)} share their {role} bits, but no number of bits suits them all; "
                        "pin them alike, or change the bits asked for"
                    )
        kept = [
            frozenset(
                p
                for p in live[i]
                if p[0] in choices["weight", keys["weight"][i]] and p[1] in choices["activation", keys["activation"][i]]
            )
            for i in range(len(names))
        ]
        if kept == live:
            break
        live = kept
    decisions = []
    for i, name in enumerate(names):
        for role in ROLES:
            key = keys[role][i]
            if key in keys[role][:i]:
                continue
            members = tuple(other for other, k in zip(names, keys[role], strict=True) if k == key)
            decisions.append(Variable(f"{name}.{role}", role, tuple(sorted(choices[role, key])), members))
    return tuple(live), tuple(decisions)


def why_illegal(policy: Policy, names: Sequence[str], pairs: Sequence[Pairs], decisions: Sequence[Variable]) -> str:
    """What is wrong with a policy of these layers that is none of the space, for messages."""
    for variable in decisions:
        first = getattr(policy[variable.layers[0]], variable.role)
        if first not in variable.choices:
            return (
                f"layer '{variable.layers[0]}' has {first} {variable.role} bits; "
                f"expected one of {', '.join(map(str, variable.choices))}"
            )
        bits = {getattr(policy[name], variable.role) for name in variable.layers}
        if len(bits) > 1:
            return (
                f"layers {', '.join(variable.layers)} share their {variable.role} bits, but the policy gives them "
                f"{', '.join(map(str, sorted(bits)))}; expected one number"
            )
    name, legal = next((name, own) for name, own in zip(names, pairs, strict=True) if tuple(policy[name]) not in own)
    return (
        f"layer '{name}' has {policy[name].weight}/{policy[name].activation} bits; expected one of "
        f"{', '.join(f'{w}/{a}' for w, a in sorted(legal))} (weight/activation)"
    )
