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


def default_loss(output: Any, target: Any) -> Tensor:
    """The network's own loss where its output has one, else cross-entropy on its logits.

    Logits may hold their classes on axis 1, as torch has it, or on the last axis, as sequence models do; where both
    fit the target's shape, axis 1 is meant.

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
    if target.is_floating_point() and target.shape == logits.shape:
        return F.cross_entropy(logits, target)
    by_torch = logits.ndim > 1 and (logits.shape[0], *logits.shape[2:]) == tuple(target.shape)
    if not by_torch and tuple(logits.shape[:-1]) == tuple(target.shape):
        logits = logits.flatten(0, -2)
        target = target.flatten()
        by_torch = True
    if not by_torch or target.is_floating_point():
        raise InputError(
            f"logits of shape {tuple(logits.shape)} and a target of shape {tuple(target.shape)}, {target.dtype}, "
            "do not suit cross-entropy; expected one class index per prediction: give the task a 'loss' of its own"
        )
    return F.cross_entropy(logits, target)


def distillation(student: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
    """Divergence of softened predictions, times ``temperature`` squared (Hinton, Vinyals and Dean 2015, section 2.1).

    The factor keeps the size of the gradients when the temperature changes. Classes lie on axis 1, or on the last
    axis of sequences; the mean is over predictions.

    Args:
        student: output with logits of any shape, classes on the last axis.
        teacher: likewise; no gradient flows into it.
        temperature: above 0.
    """
    s, t = logits_of(student), logits_of(teacher).detach()
    log_p = F.log_softmax(t / temperature, dim=-1)
    log_q = F.log_softmax(s / temperature, dim=-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    return divergence * temperature**2
