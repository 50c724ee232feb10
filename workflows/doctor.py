"""Is this machine fit to search?"""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from mobo_mpq import __version__
from mobo_mpq.errors import InputError
from mobo_mpq.workflows.home import Home, check_writable

_PACKAGES = ("torch", "botorch", "optuna", "ray", "mlflow", "onnx", "onnxruntime", "pandas")


class Finding(NamedTuple):
    """One thing that was looked at: ``ok``, ``note`` or ``missing``."""

    what: str
    state: str
    detail: str


def examine(home: Path | None = None) -> list[Finding]:
    """Look at the interpreter, the packages, the machine and the home."""
    findings = [Finding("mobo-mpq", "ok", __version__), Finding("python", "ok", platform.python_version())]
    findings += [_package(name) for name in _PACKAGES]
    findings.append(Finding("cores", "ok", str(os.cpu_count())))
    findings += [_memory(), _shared_memory(), _gpus(), _home(Home.of(home).path)]
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MOBO_MPQ_HOME"):
        if name in os.environ:
            findings.append(Finding(name, "note", f"set to {os.environ[name]}"))
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", "not installed; run 'pip install mobo-mpq' again")


def _memory() -> Finding:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Finding("memory", "ok" if gigabytes >= 4 else "note", f"{gigabytes:.1f} GB; a search takes about 2")


def _shared_memory() -> Finding:
    """Ray keeps its object store there; without room it falls back on slower files."""
    if not Path("/dev/shm").exists():
        return Finding("shared memory", "note", "no /dev/shm; Ray will keep its objects in files")
    free = shutil.disk_usage("/dev/shm").free / 1e9
    return Finding("shared memory", "ok" if free > 0.5 else "note", f"{free:.1f} GB free in /dev/shm")


def _gpus() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("gpu", "missing", "torch cannot be imported; see the README on choosing a build of it")
    if not torch.cuda.is_available():
        return Finding("gpu", "note", "none; trials run on the CPU")
    return Finding("gpu", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")


def _home(path: Path) -> Finding:
    try:
        check_writable(path, path)
    except InputError as error:
        return Finding("home", "missing", str(error))
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return Finding("home", "ok", f"{path}, {shutil.disk_usage(existing).free / 1e9:.0f} GB free")
