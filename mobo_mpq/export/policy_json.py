"""The policy file, which other tools read too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobo_mpq.errors import PolicyError
from mobo_mpq.layers import LayerSpec
from mobo_mpq.policy import SCHEMA, Policy


@dataclass(frozen=True)
class PolicyDocument:
    """What a policy file holds.

    Attributes:
        policy: bits of every layer.
        model_digest: of the model that the policy was found for.
        target: name of the device that it was found for.
        points: layer -> number of points of each channel of its weight, where one has more than one: see
            :mod:`mobo_mpq.quant.multipoint`.
    """

    policy: Policy
    model_digest: str
    target: str
    points: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of the file."""
        layers: dict[str, dict[str, int | list[int]]] = {
            name: {**bits, **({"points": [*self.points[name]]} if name in self.points else {})}
            for name, bits in self.policy.to_dict().items()
        }
        document = {
            "schema": SCHEMA,
            "model_digest": self.model_digest,
            "target": self.target,
            "layers": layers,
        }
        return json.dumps(document, indent=2) + "\n"


def write_policy(
    path: str | Path,
    policy: Policy,
    *,
    model_digest: str,
    target: str,
    points: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write a policy file; arguments as the attributes of :class:`PolicyDocument`.

    Raises:
        PolicyError: when the file cannot be written.
    """
    try:
        Path(path).write_text(PolicyDocument(policy, model_digest, target, points or {}).to_json(), encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"policy file '{path}' cannot be written ({error}); choose another folder") from None


def read_policy(
    path: str | Path, layers: Sequence[LayerSpec] | None = None, *, model_digest: str | None = None
) -> PolicyDocument:
    """Read a policy file, and check that it fits a model.

    Args:
        path: of the file.
        layers: of the model that the policy is for; every one must be in the file, and no other.
        model_digest: of that model, when it must be the very one.

    Raises:
        PolicyError: when the file is missing, torn, of another schema, or of another model.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"policy file '{path}' cannot be read ({error}); expected a file written by 'mobo-mpq export'"
        ) from None
    try:
        policy = Policy.from_json(text)
    except PolicyError as error:
        raise PolicyError(f"policy file '{path}': {error}") from None
    document = json.loads(text)
    for key in ("model_digest", "target"):
        if not isinstance(document.get(key), str):
            raise PolicyError(
                f"policy file '{path}': \"{key}\" is {document.get(key)!r}; expected a text: export the policy again"
            )
    if layers is not None:
        _check_layers(path, policy, [layer.name for layer in layers])
    if model_digest is not None and document["model_digest"] != model_digest:
        raise PolicyError(
            f"policy file '{path}' is for the model of digest '{document['model_digest'][:12]}', this one has "
            f"'{model_digest[:12]}'; give the model that it was found for, or search again"
        )
    points = {name: entry["points"] for name, entry in document["layers"].items() if "points" in entry}
    for name, counts in points.items():
        if not isinstance(counts, list) or not all(type(count) is int and count > 0 for count in counts):
            raise PolicyError(
                f"policy file '{path}': \"points\" of layer '{name}' is {counts!r}; expected a list of whole numbers "
                f"above 0, one for each channel: export the policy again"
            )
    return PolicyDocument(policy, document["model_digest"], document["target"], points)


def _check_layers(path: str | Path, policy: Policy, names: Sequence[str]) -> None:
    for name in policy:
        if name not in names:
            raise PolicyError(
                f"policy file '{path}' has a layer '{name}', which the model does not; its layers are "
                f"{', '.join(names)}: give the model that the policy was found for"
            )
    for name in names:
        if name not in policy:
            raise PolicyError(
                f"policy file '{path}' has no bits for layer '{name}' of the model: "
                "give the model that the policy was found for"
            )
