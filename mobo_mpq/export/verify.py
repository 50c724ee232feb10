"""Does an exported file compute what the network computes?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mobo_mpq.errors import ExportMismatch, InputError
from mobo_mpq.graph import Example, call
from mobo_mpq.training.data import accepted_by, device_of, logits_of, split_batch, to_device
from mobo_mpq.training.losses import class_axis

AGREEMENT = 0.995
"""Share of equal predictions below which a file is refused."""

SAME = 0.01
"""Difference, relative to the largest value of a batch, up to which outputs without classes count as equal."""


@dataclass(frozen=True)
class Verification:
    """What a comparison found.

    Attributes:
        agreement: share of predictions that are equal.
        max_abs_difference: the largest, between any two outputs.
        samples: predictions that were compared: one per image, or one per position of a sequence.
    """

    agreement: float
    max_abs_difference: float
    samples: int


def verify_onnx(
    path: str | Path, network: nn.Module, batches: Iterable[Any], *, agreement: float = AGREEMENT
) -> Verification:
    """Load a file in ONNX Runtime, and compare its predictions with the network's.

    A prediction is the largest value along the classes of the logits. Where the batch holds its target, that tells
    their axis (see :func:`~mobo_mpq.training.losses.class_axis`); else it is axis 1 of four or more, as in maps of
    classes, and the last one of fewer. Outputs of one class are equal when they differ by at most 1 % of the largest
    in the batch.

    Args:
        path: of the ONNX file.
        network: what the file was written from.
        batches: a loader's, or inputs alone: tensors, tuples or dicts.
        agreement: the least share of equal predictions.

    Raises:
        ExportMismatch: when fewer predictions agree, or the file does not take a batch that the network takes.
        InputError: when the file cannot be loaded, or there is no batch.
    """
    session = _load(path)
    names = [entry.name for entry in session.get_inputs()]
    equal = samples = 0
    worst = 0.0
    device = device_of(network)
    for batch in batches:
        inputs, target = _parts(batch, names)
        with torch.no_grad():
            outputs = call(network, to_device(inputs, device))
        expected = logits_of(outputs)
        index = next(i for i, leaf in enumerate(pytree.tree_leaves(outputs)) if leaf is expected)
        found = torch.from_numpy(_run(session, path, _feeds(inputs, names))[index])
        expected = expected.float().cpu()
        _check_shapes(path, expected, found)
        worst = max(worst, float((found - expected).abs().max()))
        same = _same(expected, found, class_axis(expected, target))
        equal, samples = equal + int(same.sum()), samples + same.numel()
    if not samples:
        raise InputError("verify_onnx() got no batch; pass at least one batch of inputs")
    result = Verification(equal / samples, worst, samples)
    if not result.agreement >= agreement:
        raise ExportMismatch(
            f"'{path}' agrees with the network on {result.agreement:.2%} of {samples} predictions, expected at least "
            f"{agreement:.2%} (largest difference {worst:.3g}); do not use the file: export the policy with --format "
            "policy, and report the model and the version of ONNX Runtime"
        )
    return result


def _load(path: str | Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: warnings are about fusions that did not happen
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a family of types of its own, none of them public
        reason = str(error).splitlines()[0]
        raise InputError(f"'{path}' cannot be loaded by ONNX Runtime ({reason}); export it again") from error


def _run(session: Any, path: str | Path, feeds: dict[str, Any]) -> Any:
    try:
        return session.run(None, feeds)
    except Exception as error:  # a family of types of its own, none of them public
        reason = str(error).splitlines()[0]
        got = ", ".join(f"'{name}' {array.shape} {array.dtype}" for name, array in feeds.items())
        taken = ", ".join(f"'{entry.name}' {tuple(entry.shape)} {entry.type}" for entry in session.get_inputs())
        raise ExportMismatch(
            f"'{path}' does not take a batch that the network takes: got {got}, expected {taken} ({reason}); export "
            "the network again with an example shaped like the batches, or pad them all to the file's shape"
        ) from error


def _check_shapes(path: str | Path, expected: Tensor, found: Tensor) -> None:
    if found.shape != expected.shape:
        raise ExportMismatch(
            f"'{path}' gives an output of shape {tuple(found.shape)} where the network gives "
            f"{tuple(expected.shape)}; export the network again, with an example shaped like the batches"
        )


def _parts(batch: Any, names: Sequence[str]) -> tuple[Example, Any]:
    """The inputs called ``names`` and the target: a tuple that holds more ends with it, a mapping may hold labels."""
    if isinstance(batch, tuple | list) and len(batch) == len(names) > 1:
        return tuple(batch), None
    inputs, target = split_batch(batch)
    return accepted_by(inputs, names), target.cpu() if isinstance(target, Tensor) else target


def _feeds(inputs: Example, names: Sequence[str]) -> dict[str, Any]:
    """Arrays by the names of the file's inputs: those of keyword arguments, or in the order of positional ones."""
    if isinstance(inputs, dict):
        return {name: inputs[name].cpu().numpy() for name in names}
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return {name: leaf.cpu().numpy() for name, leaf in zip(names, leaves, strict=True)}


def _same(expected: Tensor, found: Tensor, axis: int | None) -> Tensor:
    """Whether predictions are equal: a boolean per prediction."""
    if axis is None:
        axis = 1 if expected.ndim > 3 else -1
    if expected.ndim and expected.shape[axis] > 1:
        return expected.argmax(axis) == found.argmax(axis)
    return (expected - found).abs() <= SAME * expected.abs().max()
