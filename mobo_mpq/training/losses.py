"""What a fine-tune minimises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mobo_mpq.errors import InputError
from mobo_mpq.training.data import logits_of

Loss = Callable[[Any, Any], Tensor]
"""``loss(output, target)``: a scalar."""


def class_axis(logits: Tensor, target: Any) -> int | None:
    """Where the classes lie in ``logits``: axis 1, as torch has it, or the last one, as in sequences.

    Axis 1 where both fit the target's shape; ``None`` where neither does, or the target holds no class indices.
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or logits.ndim != target.ndim + 1:
        return None
    for axis in (1, -1):
        if tuple(logits.movedim(axis, -1).shape[:-1]) == tuple(target.shape):
            return axis
    return None


def default_loss(output: Any, target: Any) -> Tensor:
    """The network's own loss where its output has one, else what the type of its output asks for.

    That is cross-entropy of the logits, and targets of -100 do not count. Outputs of Hugging Face's models are told by
    the name of their type, and get the loss that the model itself would compute from labels:

    * a causal language model (``CausalLMOutput`` and its kin) predicts the next token, so the logits at a position are
      compared with the label one further; shapes cannot tell it from a masked language model, where nothing shifts;
    * a classifier with floating targets (``SequenceClassifierOutput``, ``ImageClassifierOutput``) is a regression by
      squared error when it has one output, and a multi-label one by binary cross-entropy when it has more.

    Args:
        output: a tensor, or what :func:`~mobo_mpq.training.data.logits_of` finds logits in.
        target: class indices, or floats of the logits' shape.

    Raises:
        InputError: when there is neither a loss in the output nor a target that cross-entropy takes.
    """
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    logits = logits_of(output)
    if not isinstance(target, Tensor):
        raise InputError(
            f"the target of a batch is {type(target).__name__}, and the network's output holds no loss; expected "
            "batches (inputs, target), or 'labels' in a mapping: give the task a 'loss' of its own"
        )
    kind = type(output).__name__
    if target.is_floating_point() and "Classifier" in kind and logits.numel() == target.numel():
        if logits.shape[-1] == 1:
            return F.mse_loss(logits.flatten(), target.flatten())
        return F.binary_cross_entropy_with_logits(logits, target)
    if "CausalLM" in kind and logits.shape[:-1] == target.shape:
        return F.cross_entropy(logits[:, :-1].flatten(0, -2), target[:, 1:].flatten())
    if target.is_floating_point() and target.shape == logits.shape:
        return F.cross_entropy(logits, target)
    axis = class_axis(logits, target)
    if axis is None:
        raise InputError(
            f"logits of shape {tuple(logits.shape)} and a target of shape {tuple(target.shape)}, {target.dtype}, "
            "do not suit cross-entropy; expected one class index per prediction: give the task a 'loss' of its own"
        )
    return F.cross_entropy(logits.movedim(axis, -1).flatten(0, -2), target.flatten())


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0, axis: int = -1) -> Tensor:
    """Divergence of softened predictions, times ``temperature`` squared (Hinton, Vinyals and Dean 2015, section 2.1).

    The factor keeps the size of the gradients when the temperature changes. The mean is over predictions.

    Args:
        student: logits of any shape.
        teacher: likewise; no gradient flows into it.
        temperature: above 0.
        axis: of the classes.
    """
    log_p = F.log_softmax(teacher.detach() / temperature, dim=axis)
    log_q = F.log_softmax(student / temperature, dim=axis)
    return (log_p.exp() * (log_p - log_q)).sum(axis).mean() * temperature**2
