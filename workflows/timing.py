"""How long a network's file takes in ONNX Runtime on this machine, and what its profiler says of the layers."""

from __future__ import annotations

import datetime
import json
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Example
from mobo_mpq.layers import LayerSpec
from mobo_mpq.objectives.profiles.onnxruntime_profile import read

WARM_UP = 3
_RESOLUTION_S = 1e-7  # the profiler counts whole microseconds: less than this is not known


def time_file(path: Path, example: Example, *, repeats: int, threads: int = 1) -> float:
    """Median seconds of one inference of one sample, after a warm-up.

    One thread is timed by the processor's time that it gets, so that other work on a shared machine counts little.

    Raises:
        InputError: fewer than one repeat or thread, or no ONNX Runtime.
    """
    check_counts(repeats, threads)
    session = _session(path, threads)
    feeds = _feeds(session, example)
    clock = time.thread_time if threads == 1 else time.perf_counter
    times = []
    for run in range(WARM_UP + repeats):
        start = clock()
        session.run(None, feeds)
        if run >= WARM_UP:
            times.append(clock() - start)
    return float(np.median(times))


def check_counts(repeats: int, threads: int) -> None:
    """Refuse what cannot be timed.

    Raises:
        InputError: fewer than one repeat or thread.
    """
    for flag, count in (("repeats", repeats), ("threads", threads)):
        if count < 1:
            raise InputError(f"--{flag} is {count}; expected a whole number of at least 1")


def onnx_runtime() -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "ONNX Runtime is not installed, which 'profile measure' times layers in; run 'pip install onnxruntime'"
        ) from None
    return onnxruntime


def _session(path: Path, threads: int, profile: str = "") -> Any:
    runtime = onnx_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _feeds(session: Any, example: Example) -> dict[str, Any]:
    """One sample, by the names of the file's inputs."""
    names = [entry.name for entry in session.get_inputs()]
    if isinstance(example, dict):
        leaves = [example[name] for name in names]
    else:
        leaves = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    batch = leaves[0].shape[0]
    one = [leaf[:1] if leaf.ndim and leaf.shape[0] == batch else leaf for leaf in leaves]
    return {name: leaf.detach().cpu().numpy() for name, leaf in zip(names, one, strict=True)}


def profile_file(
    path: Path, example: Example, repeats: int, threads: int, layers: Sequence[LayerSpec]
) -> dict[str, float]:
    """Seconds of each layer in one round, by the profiler."""
    session = _session(path, threads, str(path.with_suffix("")))
    feeds = _feeds(session, example)
    for _ in range(WARM_UP + repeats):
        session.run(None, feeds)
    written = Path(session.end_profiling())
    profile = read(json.loads(written.read_text(encoding="utf-8")), written.name)
    written.unlink()
    return attribute([(entry.name, entry.seconds) for entry in profile.entries], layers)


def attribute(kernels: Sequence[tuple[str, float]], layers: Sequence[LayerSpec]) -> dict[str, float]:
    """Seconds of each layer, whose kernels are called ``LAYER/...``; other kernels count towards the layer after them.

    Args:
        kernels: names and seconds, in the order in which they run.
        layers: of the network.

    Raises:
        InputError: a layer without a kernel, or whose time is not finite.
    """
    seconds: dict[str, float] = {layer.name: 0.0 for layer in layers}
    found: set[str] = set()
    waiting, last = 0.0, ""
    for name, duration in kernels:
        layer = name.partition("/")[0]
        waiting += duration
        if layer in seconds:
            seconds[layer] += waiting
            found.add(layer)
            waiting, last = 0.0, layer
    for layer in seconds:
        if layer not in found:
            raise InputError(
                f"ONNX Runtime's profile has no kernel of layer '{layer}': it fused it with another, or never runs it; "
                "import a profile of your own with 'mobo-mpq profile import --map'"
            )
        if not math.isfinite(seconds[layer]):
            raise InputError(f"layer '{layer}' took {seconds[layer]} s; expected a finite time: measure again")
    seconds[last] += waiting
    return {layer: max(duration, _RESOLUTION_S) for layer, duration in seconds.items()}


def spread(values: Sequence[float]) -> float:
    """The median absolute deviation, scaled to a standard deviation of the normal distribution."""
    return 1.4826 * float(np.median(np.abs(np.asarray(values) - np.median(values))))


def machine() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): text.strip() for key, _, text in (line.partition(":") for line in lines)}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def today() -> str:
    """The date, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
