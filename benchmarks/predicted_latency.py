"""Predicted against measured latency: whole MobileNetV2 policies of float and 8 bits in ONNX Runtime, on this machine.

    python benchmarks/predicted_latency.py [--image 224] [--rounds 7] [--repeats 15] [--seed 0] [--plot FILE.png]

Twelve policies: both uniform ones; five in which runs of layers have the same bits, as when users tie the layers of a
stage; five in which every layer draws for itself, with a probability of its own for each policy. Each is exported and
timed end to end, in turns, on one thread. Predictions are sums over the layers: of 'mobo-mpq profile measure' (inside
the whole network; the mean of one before and one after, since shared machines drift); of the same layers timed alone,
between QuantizeLinear and DequantizeLinear where they have 8 bits; and of the built-in target 'x86-ort'. Prints a row
for each policy, and for each way of predicting the rank correlation and the error.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper, save
from scipy.stats import spearmanr

from mobo_mpq.graph import Network
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.testing.networks import mobilenet_v2
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.measuring import FLOAT, INT8, export_policy, measure_network
from mobo_mpq.workflows.timing import time_file

Predict = Callable[[Policy], float]


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    environment.prepare()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    example = torch.randn(2, 3, arguments.image, arguments.image)
    network = Network.from_model(mobilenet_v2().eval(), example)
    policies = draw(network.layers, np.random.default_rng(arguments.seed))
    before = measure_network(network, example, repeats=arguments.repeats)
    measured = time_policies(network, policies, example, arguments.rounds, arguments.repeats)
    after = measure_network(network, example, repeats=arguments.repeats)
    for timed in (before, after):
        whole = ", ".join(f"{bits.weight}/{bits.activation}: {1e3 * s:.2f} ms" for bits, s in timed.whole_s.items())
        print(f"{timed.source}; {whole}")
    predictions: dict[str, Predict] = {
        "measure": lambda policy: (before.latency_s(policy) + after.latency_s(policy)) / 2,
        "alone": summed(network.layers, alone()),
        "x86-ort": summed(network.layers, load_target("x86-ort").latency.layer_cost),
    }
    report(policies, measured, predictions)
    if arguments.plot:
        draw_plot(policies, measured, predictions["measure"], arguments.plot)


def draw(layers: Sequence[LayerSpec], rng: np.random.Generator) -> dict[str, Policy]:
    """The policies, by names that say how they were drawn; layers that share activation bits are drawn together."""
    ties = list(dict.fromkeys(layer.activation_tie for layer in layers))

    def policy(quantized: Sequence[bool]) -> Policy:
        chosen = dict(zip(ties, quantized, strict=True))
        return Policy.of({layer.name: INT8 if chosen[layer.activation_tie] else FLOAT for layer in layers})

    policies = {"uniform 32/32": policy([False] * len(ties)), "uniform 8/8": policy([True] * len(ties))}
    for number in range(1, 6):
        cuts = np.sort(rng.choice(np.arange(1, len(ties)), size=rng.integers(1, 4), replace=False))
        first = bool(rng.integers(2))
        policies[f"runs {number}"] = policy(
            [bool(np.searchsorted(cuts, i, "right") % 2) ^ first for i in range(len(ties))]
        )
    for number in range(1, 6):
        share = rng.random()
        policies[f"layers {number}"] = policy((rng.random(len(ties)) < share).tolist())
    return policies


def time_policies(
    network: Network, policies: dict[str, Policy], example: torch.Tensor, rounds: int, repeats: int
) -> dict[str, float]:
    """Median over the rounds of each policy's median, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(policies)}
        for name, policy in policies.items():
            export_policy(network, policy, example, files[name])
        times: dict[str, list[float]] = {name: [] for name in policies}
        for _ in range(rounds):
            for name, file in files.items():
                times[name].append(time_file(file, example, repeats=repeats))
    return {name: float(np.median(values)) for name, values in times.items()}


def summed(layers: Sequence[LayerSpec], cost: Callable[[LayerSpec, LayerBits], float]) -> Predict:
    """A prediction from the costs of layers."""
    return lambda policy: sum(cost(layer, policy[layer.name]) for layer in layers)


def alone() -> Callable[[LayerSpec, LayerBits], float]:
    """Seconds of a layer by itself; layers of one shape are timed once."""

    @cache
    def seconds(shape: Shape, bits: LayerBits) -> float:
        layer = shape.layer()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            save(single(layer, bits), path)
            return min(time_file(path, torch.randn(1, *layer.input_shape), repeats=20) for _ in range(3))

    return lambda layer, bits: seconds(Shape.of(layer), LayerBits(*bits))


def single(layer: LayerSpec, bits: LayerBits) -> Any:
    """A model of one layer, its input and output quantized at 8 bits."""
    rng = np.random.default_rng(0)
    linear = layer.kind is OpKind.LINEAR
    shape = layer.weight_shape[::-1] if linear else layer.weight_shape
    channels, axis = layer.weight_shape[0], 1 if linear else 0
    arrays: dict[str, Any] = {"bias": np.zeros(channels, np.float32)}
    nodes, data, weight, result = [], "x", "w", "y"
    if bits == INT8:
        arrays |= {"w_integers": rng.integers(-127, 128, shape).astype(np.int8), "scale": np.float32(0.03)}
        arrays |= {"w_scale": np.full(channels, 0.01, np.float32), "w_zero": np.zeros(channels, np.int8)}
        arrays |= {"zero": np.uint8(128)}
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_integers"]),
            helper.make_node("DequantizeLinear", ["x_integers", "scale", "zero"], ["dequantized"]),
            helper.make_node("DequantizeLinear", ["w_integers", "w_scale", "w_zero"], ["w"], axis=axis),
        ]
        data, result = "dequantized", "result"
    else:
        arrays["w"] = rng.normal(size=shape).astype(np.float32)
    if linear:
        nodes.append(helper.make_node("MatMul", [data, weight], [result]))
    else:
        pads, strides = [layer.weight_shape[2] // 2] * 4, [layer.stride] * 2
        nodes.append(
            helper.make_node("Conv", [data, weight, "bias"], [result], pads=pads, strides=strides, group=layer.groups)
        )
    if bits == INT8:
        nodes.append(helper.make_node("QuantizeLinear", [result, "scale", "zero"], ["y_integers"]))
        nodes.append(helper.make_node("DequantizeLinear", ["y_integers", "scale", "zero"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *layer.input_shape))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, *layer.output_shape))
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def report(policies: dict[str, Policy], measured: dict[str, float], predictions: dict[str, Predict]) -> None:
    """Print every policy, then every way of predicting."""
    print(
        f"{'policy':16}{'8-bit layers':>14}{'measured':>11}" + "".join(f"{name:>11}" for name in predictions) + "   ms"
    )
    for name, policy in policies.items():
        quantized = sum(bits == INT8 for bits in policy.values())
        row = [measured[name], *(predict(policy) for predict in predictions.values())]
        print(f"{name:16}{quantized:>11}/{len(policy)}" + "".join(f"{1e3 * value:11.2f}" for value in row))
    groups = {
        "all 12": list(policies),
        "uniform and runs": [name for name in policies if not name.startswith("layers")],
        "layers": [name for name in policies if name.startswith("layers")],
    }
    for way, predict in predictions.items():
        for group, names in groups.items():
            found, expected = np.array([predict(policies[n]) for n in names]), np.array([measured[n] for n in names])
            error = found / expected - 1
            print(
                f"{way:8} {group:17} rank correlation {spearmanr(found, expected)[0]:.3f}, mean error "
                f"{100 * np.abs(error).mean():.1f} %, worst {100 * error[np.abs(error).argmax()]:+.0f} %"
            )


def draw_plot(policies: dict[str, Policy], measured: dict[str, float], predict: Predict, path: Path) -> None:
    """Predicted over measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
    for kind, marker in (("uniform", "o"), ("runs", "s"), ("layers", "x")):
        names = [name for name in policies if name.startswith(kind)]
        axes.scatter(
            [1e3 * measured[n] for n in names], [1e3 * predict(policies[n]) for n in names], marker=marker, label=kind
        )
    ends = [0.9e3 * min(measured.values()), 1.05e3 * max(measured.values())]
    axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="measured, ms", ylabel="predicted, ms", title="MobileNetV2 in ONNX Runtime, 1 thread")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
