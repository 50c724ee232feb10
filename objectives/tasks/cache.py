"""Trained weights of the built-in tasks, kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mobo_mpq.errors import InputError

VARIABLE = "MOBO_MPQ_CACHE"


def cache_dir() -> Path:
    """``$MOBO_MPQ_CACHE``, or the user's cache folder of the operating system."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("mobo-mpq"))


def digest(config: Mapping[str, Any], *sources: str | Path) -> str:
    """SHA-256 over all that trained weights depend on: configuration, torch's version and the source files."""
    total = hashlib.sha256(json.dumps([config, torch.__version__], sort_keys=True).encode())
    for source in sources:
        total.update(hashlib.sha256(Path(source).read_bytes()).digest())
    return total.hexdigest()


def cached_state(name: str, key: str, train: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights kept under ``name`` and ``key``; trained and kept when there are none, or when they are damaged.

    Processes that train at the same time each write a file of their own and rename it, so none reads half a file.

    Raises:
        InputError: when the folder is not writable, said before any training.
    """
    path = cache_dir() / f"{name}-{key[:16]}.safetensors"
    if path.exists():
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            pass  # torn by an older crash: train again
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot keep the trained weights of '{name}' in {path.parent} ({error.strerror}); "
            f"expected a writable folder: set {VARIABLE} to one"
        ) from None
    try:
        state = {key: tensor.detach().clone().contiguous() for key, tensor in train().items()}
        save_file(state, partial)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return state
