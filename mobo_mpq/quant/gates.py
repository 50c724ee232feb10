"""Gates: a number of bits as ordered switches that training can turn, and what they do to a vector of levels.

Zhang et al., "Differentiable Dynamic Quantization with Mixed Precision and Adaptive Resolution", ICML 2021, arXiv
2106.02295. There a vector of ``2^b`` levels is multiplied by ``U / Z_U``, with ``U = U_1 x ... x U_b`` (Kronecker) and
``U_j = g_j I + (1 - g_j) 11^T``. Where all gates that are on come first, that replaces each block of ``2^(b - sum g)``
neighbours by their mean. Other orders would average levels that lie far apart, so the gates here are ordered: one
counts as on only if all gates before it are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError

MOST_BITS = 8
"""Beyond it a tensor is left as it is."""


def block_means(levels: Tensor, bits: int) -> Tensor:  # 2^b -> 2^bits
    """``q^T U / Z_U`` with ``bits`` gates on, each distinct entry once: means of blocks of neighbouring levels."""
    return levels.reshape(2**bits, -1).mean(1)


class Gates(nn.Module):
    """The bits of one decision, shared by all tensors that it decides for.

    Gate ``j`` leads from the precision ``j`` to the next one. Between two precisions that a device has, the paper's
    gates would be several; here they are one, so that what is found is always a precision of the device.

    Args:
        precisions: bits, increasing.

    Raises:
        InputError: when they do not increase.
    """

    logits: nn.Parameter
    """``precisions - 1``: a gate is on from 0 up."""

    def __init__(self, precisions: Sequence[int]) -> None:
        super().__init__()
        if not precisions or any(low >= high for low, high in zip(precisions, precisions[1:], strict=False)):
            raise InputError(f"precisions are {', '.join(map(str, precisions))}; expected at least one, increasing")
        self.precisions = tuple(precisions)
        gates = len(precisions) - 1
        self.logits = nn.Parameter(torch.arange(gates, 0, -1, dtype=torch.float32) / max(gates, 1))

    @property
    def level(self) -> int:
        """Index of the precision in use: the number of gates on before the first that is off."""
        return int((self.logits.detach() >= 0).cumprod(0).sum())

    @property
    def bits(self) -> int:
        """The precision in use."""
        return self.precisions[self.level]

    @property
    def learning(self) -> bool:
        """Whether gates exist, and are trained."""
        return len(self.precisions) > 1 and self.logits.requires_grad and torch.is_grad_enabled()

    def opened(self) -> Tensor:  # gates
        """1 for gates that are on, and 0; the gradient is that of a sigmoid: a straight-through estimate."""
        soft = torch.sigmoid(self.logits)
        hard = (self.logits >= 0).to(soft.dtype)
        return (hard + (soft - soft.detach())).cumprod(0)

    def effective_bits(self) -> Tensor:
        """The precision in use as a scalar that can be differentiated."""
        steps = [float(high - low) for low, high in zip(self.precisions, self.precisions[1:], strict=False)]
        return self.precisions[0] + (self.opened() * self.logits.new_tensor(steps)).sum()

    @torch.no_grad()
    def settle(self, bits: int) -> None:
        """Fix the precision; nothing is learned from then on.

        Raises:
            InputError: when it is none of the precisions.
        """
        if bits not in self.precisions:
            raise InputError(f"{bits} bits are none of the precisions {', '.join(map(str, self.precisions))}")
        level = self.precisions.index(bits)
        self.logits[:level], self.logits[level:] = 1.0, -1.0
        self.logits.requires_grad_(False)

    def extra_repr(self) -> str:
        """Precisions."""
        return f"precisions={self.precisions}"


class Gated(torch.autograd.Function):
    """Passes on what a tensor is at the precision in use, and tells the gates what the others would change.

    With ordered gates the quantized tensor is ``Q_0 + sum_j g_1 ... g_j (Q_j - Q_{j-1})``, where ``Q_j`` is the tensor
    at the precision ``j``: for gates of 0 and 1 the same as by ``U``, and linear in each gate between. The derivative
    by ``g_1 ... g_j`` is thus the inner product of the gradient with ``Q_j - Q_{j-1}``.
    """

    @staticmethod
    def forward(
        ctx: Any, quantized: Tensor, opened: Tensor, x: Tensor, at: Callable[[Tensor, int], Tensor], level: int
    ) -> Tensor:
        """``quantized``, of x's shape, which is ``at(x, level)``; ``at`` takes the index of any precision."""
        ctx.save_for_backward(quantized, opened, x)
        ctx.at, ctx.level = at, level
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """As the class says; nothing for ``x``, which ``quantized`` has passed on already."""
        quantized, opened, x = ctx.saved_tensors
        with torch.no_grad():
            values = (quantized if i == ctx.level else ctx.at(x, i) for i in range(len(opened) + 1))
            products = torch.stack([torch.vdot(gradient.flatten(), value.flatten()) for value in values])
        return gradient, products.diff().to(opened.dtype), None, None, None
