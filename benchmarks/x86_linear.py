"""The rates of linear layers of target 'x86-ort': ONNX Runtime's matrix products on this machine, and a fit to them.

    python benchmarks/x86_linear.py

Each product of M x K activations and K x N weights is timed at each precision, on one thread, in turns: in float; W8A8
with its QuantizeLinear; weights of 8, 4 and 2 bits (n8, n4, n2) next to activations that the kernel quantizes itself
(MatMulNBits, accuracy level 4). The least median of three rounds counts. Prints the times and, for each precision, the
fit of ``overhead + MACs / rate + bytes / bandwidth`` with the least squared logarithm of the error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import least_squares

SHAPES = [(1, 256, 256), (1, 512, 2048), (1, 1024, 1024), (1, 2048, 2048), (1, 1024, 4096), (1, 4096, 4096)]
SHAPES += [(m, k, n) for m in (16, 64, 196) for k, n in ((192, 768), (768, 768), (1024, 2048))]
ROUNDS, REPEATS, BLOCK = 3, 15, 32


def main() -> None:
    """Print times and fits."""
    timed: dict[str, list[tuple[float, float, float]]] = {name: [] for name in GRAPHS}
    print(f"{'M x K x N':18}" + "".join(f"{name:>10}" for name in GRAPHS) + "   microseconds")
    for m, k, n in SHAPES:
        x = np.random.default_rng(0).normal(size=(m, k)).astype(np.float32)
        sessions = {name: session(graph(k, n)) for name, (graph, _) in GRAPHS.items()}
        best = dict.fromkeys(GRAPHS, np.inf)
        for _ in range(ROUNDS):
            for name, loaded in sessions.items():
                best[name] = min(best[name], median(partial(loaded.run, None, {"x": x})))
        for name, (_, bits) in GRAPHS.items():
            moved = (m * k * (32 if bits == 32 else 8) + m * n * (32 if bits == 32 else 8) + k * n * bits) / 8
            timed[name].append((m * k * n, moved, best[name]))
        print(f"{f'{m} x {k} x {n}':18}" + "".join(f"{1e6 * value:10.1f}" for value in best.values()))
    for name, rows in timed.items():
        report(name, np.array(rows))


def report(name: str, rows: np.ndarray[Any, Any]) -> None:
    """Fit the three numbers of one precision, and print them with the error."""
    macs, moved, seconds = rows.T

    def predict(log: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        overhead, rate, bandwidth = np.exp(log)
        return overhead + macs / rate + moved / bandwidth

    fit = least_squares(
        lambda log: np.log(predict(log) / seconds), np.log([3e-6, 2e11, 4e10]), loss="soft_l1", f_scale=0.2
    )
    overhead, rate, bandwidth = np.exp(fit.x)
    error = 100 * np.mean(np.abs(predict(fit.x) / seconds - 1))
    print(
        f"{name:6} overhead {1e6 * overhead:.1f} us, {rate / 1e9:.0f} GMAC/s, {bandwidth / 1e9:.1f} GB/s; "
        f"mean error {error:.0f} %"
    )


def median(run: Callable[[], Any]) -> float:
    """Seconds of one call, after a warm-up."""
    run(), run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def session(graph: Any) -> Any:
    """Loaded, for one thread."""
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def graph_of(nodes: list[Any], arrays: dict[str, np.ndarray[Any, Any]], k: int, n: int) -> Any:
    """A graph from 'x' to 'y'."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("m", k))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("m", n))
    return helper.make_graph(
        nodes, "product", [x], [y], [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    )


def float_graph(k: int, n: int) -> Any:
    """In float."""
    weight = np.random.default_rng(1).normal(size=(k, n)).astype(np.float32)
    return graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, k, n)


def int8_graph(k: int, n: int) -> Any:
    """W8A8, as 'mobo-mpq export' writes it."""
    arrays = {
        "w": np.random.default_rng(1).integers(-127, 128, (k, n)).astype(np.int8),
        "w_scale": np.full(n, 0.01, np.float32),
        "w_zero": np.zeros(n, np.int8),
        "scale": np.float32(0.03),
        "zero": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["dequantized"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["weight"], axis=1),
        helper.make_node("MatMul", ["dequantized", "weight"], ["y"]),
    ]
    return graph_of(nodes, {name: np.asarray(array) for name, array in arrays.items()}, k, n)


def few_bits(bits: int) -> Callable[[int, int], Any]:
    """Weights of few bits, in blocks with a scale each."""

    def graph(k: int, n: int) -> Any:
        blocks = k // BLOCK
        packed = np.random.default_rng(1).integers(0, 256, (n, blocks, BLOCK * bits // 8)).astype(np.uint8)
        node = helper.make_node(
            "MatMulNBits", ["x", "w", "scales"], ["y"], domain="com.microsoft",
            K=k, N=n, bits=bits, block_size=BLOCK, accuracy_level=4,
        )  # fmt: skip
        return graph_of([node], {"w": packed, "scales": np.full(n * blocks, 0.01, np.float32)}, k, n)

    return graph


GRAPHS: dict[str, tuple[Callable[[int, int], Any], int]] = {
    "32/32": (float_graph, 32),
    "8/8": (int8_graph, 8),
    "n8": (few_bits(8), 8),
    "n4": (few_bits(4), 4),
    "n2": (few_bits(2), 2),
}

if __name__ == "__main__":
    main()
