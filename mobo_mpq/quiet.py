"""Silence for a while: libraries that talk about their own insides."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_STDOUT = 1


@contextmanager
def quiet(names: Sequence[str]) -> Iterator[None]:
    """Let the named loggers say errors alone; afterwards they are as they were."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def native_output_dropped() -> Iterator[None]:
    """Without what compiled code prints to stdout, which is for data. It holds for all threads, so be short.

    Where stdout is closed nothing is done.
    """
    try:
        saved = os.dup(_STDOUT)
    except OSError:
        yield
        return
    flush = ctypes.CDLL(None).fflush
    with suppress(OSError, ValueError):  # what was written before still goes where it belongs
        sys.stdout.flush()
    flush(None)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), _STDOUT)
    try:
        yield
    finally:
        flush(None)
        os.dup2(saved, _STDOUT)
        os.close(saved)
