"""Shared by all tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share two cores

from mobo_mpq.workflows import environment  # noqa: E402

environment.prepare()
