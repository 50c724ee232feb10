"""Digests of tensors: what was measured, and on what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor


class Digest(Protocol):
    """A hash of :mod:`hashlib`."""

    def update(self, data: Any, /) -> None:
        """Take in more bytes."""
        ...


def add_tensor(digest: Digest, tensor: Tensor, label: str = "") -> None:
    """Take in a tensor's label, type, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{label} {plain.dtype} {tuple(plain.shape)}\n".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)


def add_values(digest: Digest, values: Iterable[Any]) -> None:
    """Take in tensors by their bytes, and all else by its representation."""
    for value in values:
        if isinstance(value, Tensor):
            add_tensor(digest, value)
        else:
            digest.update(f"{value!r}\n".encode())
