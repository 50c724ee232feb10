"""Mixtures of bits: a tensor is quantized at every choice, and what is used is the weighted mean.

The weights are learned with the network, as in EdMIPS: Cai and Vasconcelos, "Rethinking Differentiable Search for
Mixed-Precision Neural Networks", CVPR 2020, arXiv 2004.05795.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError
from mobo_mpq.quant.base import Site, TensorQuantizer
from mobo_mpq.quant.observers import Observer


class Mixing:
    """How much of each choice is used: a softmax of logits. Tensors whose bits are decided together share one.

    Args:
        choices: bits, at least one number.
        device: where the logits lie.

    Attributes:
        logits: one for each choice, all 0 at first; no parameter of the networks that use them.
        temperature: what they are divided by; the lower, the nearer to one choice alone.
    """

    def __init__(self, choices: tuple[int, ...], device: torch.device | None = None) -> None:
        self.choices = choices
        self.logits = nn.Parameter(torch.zeros(len(choices), device=device))
        self.temperature = 1.0

    def probabilities(self) -> Tensor:
        """Shares of the choices, which sum to 1."""
        return (self.logits / self.temperature).softmax(0)


class MixtureQuantizer(TensorQuantizer):
    """The mean of several quantizers' results, weighted by a :class:`Mixing`.

    Args:
        mixing: of the decision that the tensor belongs to.
        parts: quantizer for each of its choices, for one and the same tensor; None for bits that leave it as it is.
        site: of the tensor.

    Raises:
        InputError: when the parts are of other bits, or all of them leave the tensor as it is.
    """

    def __init__(self, mixing: Mixing, parts: Mapping[int, TensorQuantizer | None], site: Site | None = None) -> None:
        made = [part for part in parts.values() if part is not None]
        if tuple(parts) != mixing.choices or not made:
            raise InputError(
                f"a mixture of {', '.join(map(str, mixing.choices))} bits got quantizers of "
                f"{', '.join(str(part.bits) for part in made) or 'none'}; expected one for each, and one at least"
            )
        super().__init__(made[-1].bits, made[-1].axis)
        self.mixing, self.site = mixing, site
        self._names = {bits: f"of_{bits}" for bits, part in parts.items() if part is not None}
        for bits, name in self._names.items():
            part = parts[bits]
            assert part is not None, "it has a name"
            part.site = site
            self.add_module(name, part)  # a child, which thus is no quantizer of the network by itself

    def part(self, bits: int) -> TensorQuantizer | None:
        """The quantizer of one choice; None where it leaves the tensor as it is."""
        found = getattr(self, self._names[bits]) if bits in self._names else None
        assert found is None or isinstance(found, TensorQuantizer), "added as such"
        return found

    def quantize(self, x: Tensor) -> Tensor:
        """The weighted mean of what the parts make of ``x``, differentiable in the logits, too."""
        total: Tensor | None = None
        for share, bits in zip(self.mixing.probabilities(), self.mixing.choices, strict=True):
            part = self.part(bits)
            term = share * (x if part is None else part.quantize(x))
            total = term if total is None else total + term
        assert total is not None, "there is at least one part"
        return total

    def fit(self, observer: Observer) -> None:
        """Choose the values of every part."""
        for bits in self._names:
            part = self.part(bits)
            assert part is not None, "it has a name"
            part.fit(observer)
            part.calibrated = True
