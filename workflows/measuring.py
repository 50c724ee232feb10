"""Time the layers of a network in ONNX Runtime, on the machine that this runs on.

Each layer is timed where it works: inside the whole network, exported in float and at 8 bits, by ONNX Runtime's own
profile. A layer alone would have its input in another cache and layout, and its quantization unfused;
``benchmarks/predicted_latency.py`` compares. What belongs to no layer (quantizing, reordering, pooling, adding) counts
towards the layer after it, and all layers together are scaled to what the network takes without the profiler.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobo_mpq.errors import InputError
from mobo_mpq.export.onnx_qdq import export_onnx
from mobo_mpq.graph import Example, Network
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.profiles.document import KINDS, bit_pairs, table_document
from mobo_mpq.objectives.profiles.records import Row
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.quant.transform import apply_policy, calibrate, quantizers
from mobo_mpq.workflows.timing import check_counts, machine, onnx_runtime, profile_file, spread, time_file, today

FLOAT, INT8 = LayerBits(32, 32), LayerBits(8, 8)
PRECISIONS = (FLOAT, INT8)
"""Pairs that ONNX Runtime has kernels for."""

CARRIED = (2, 3, 4, 5, 6, 7)
"""Bits of weights that an exported file stores and computes as 8."""

ROUNDS = 5
"""Each times every precision; the median round counts, so that a disturbance of seconds does no harm."""


@dataclass(frozen=True)
class Timed:
    """What a network takes.

    Attributes:
        rows: one per layer and precision; their sum over the layers is ``whole_s``.
        whole_s: of the network at each precision, without the profiler; medians.
        spread_s: of those, over the rounds: the median absolute deviation, times 1.48.
        kernels_s: sum of all kernels by the profiler.
        source: machine, runtime, date, repeats.
    """

    rows: tuple[Row, ...]
    whole_s: Mapping[LayerBits, float]
    spread_s: Mapping[LayerBits, float]
    kernels_s: Mapping[LayerBits, float]
    source: str

    def report(self) -> dict[str, Any]:
        """For ``--json``."""
        layers = [
            {
                "layer": row.layer,
                "weight": row.bits.weight,
                "activation": row.bits.activation,
                "latency_s": row.latency_s,
                "spread_s": row.std_s,
            }
            for row in self.rows
        ]
        networks = [
            {
                "weight": bits.weight,
                "activation": bits.activation,
                "latency_s": seconds,
                "spread_s": self.spread_s[bits],
                "kernels_s": self.kernels_s[bits],
            }
            for bits, seconds in self.whole_s.items()
        ]
        return {"source": self.source, "layers": layers, "networks": networks}

    def latency_s(self, policy: Mapping[str, LayerBits]) -> float:
        """What the rows predict for a policy of the measured precisions."""
        seconds = {(row.layer, row.bits): row.latency_s for row in self.rows}
        return sum(seconds[name, LayerBits(*bits)] for name, bits in policy.items())


def measure_network(
    network: Network,
    example: Example,
    *,
    repeats: int = 30,
    threads: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
) -> Timed:
    """Time every layer at every precision.

    Args:
        network: in float.
        example: inputs; one sample of them is what the network is timed with, all of them calibrate it.
        repeats: runs of each precision in each round, with the profiler and without.
        threads: that ONNX Runtime may use.
        say: told what is being done.

    Raises:
        InputError: fewer than one repeat or thread, no ONNX Runtime, a network that cannot be exported, or a layer that
            the profile does not know.
    """
    check_counts(repeats, threads)
    runtime = onnx_runtime()
    rounds: dict[LayerBits, list[dict[str, float]]] = {bits: [] for bits in PRECISIONS}
    wholes: dict[LayerBits, list[float]] = {bits: [] for bits in PRECISIONS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {}
        for bits in PRECISIONS:
            say(f"exporting the network at {bits.weight}/{bits.activation} bits")
            files[bits] = folder / f"{bits.weight}.onnx"
            export_policy(network, Policy.uniform(network.layers, *bits), example, files[bits])
        say(f"timing: {ROUNDS} rounds of {repeats} runs at each precision, with the profiler and without")
        for _ in range(ROUNDS):
            for bits, file in files.items():  # in turns, so that the clock's frequency is alike for both
                wholes[bits].append(time_file(file, example, repeats=repeats, threads=threads))
                rounds[bits].append(profile_file(file, example, repeats, threads, network.layers))
    whole_s = {bits: float(np.median(times)) for bits, times in wholes.items()}
    source = f"{machine()}, ONNX Runtime {runtime.__version__}, {threads} thread{'s' * (threads > 1)}, {today()}"
    source += f", median of {ROUNDS} rounds of {repeats} runs"
    kernels_s = {bits: float(np.median([sum(one.values()) for one in timed])) for bits, timed in rounds.items()}
    rows = [
        row
        for bits, timed in rounds.items()
        for row in _rows(network.layers, bits, timed, whole_s[bits], ROUNDS * repeats, source)
    ]
    spread_s = {bits: spread(times) for bits, times in wholes.items()}
    return Timed(tuple(rows), whole_s, spread_s, kernels_s, source)


def export_policy(network: Network, policy: Policy, example: Example, path: Path) -> None:
    """Quantize by ``ptq``, calibrated on ``example`` alone, and export: the values do not matter to latency.

    Raises:
        InputError: when the network cannot be exported.
    """
    quantized = apply_policy(network, policy)
    if quantizers(quantized):
        calibrate(quantized, [example])
    try:
        export_onnx(quantized, example, path)
    except InputError:
        raise
    except Exception as error:  # dozens of the exporter's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"the network cannot be exported to ONNX ({reason}); measure its layers in the device's own runtime, and "
            "use 'mobo-mpq profile import'"
        ) from error


def measured_document(timed: Timed, *, name: str, file: str) -> dict[str, Any]:
    """The target document of a measurement, for a table of that name beside it.

    Weights of 2 to 7 bits are carried by 8: they are stored and computed so, and only smaller when compressed.
    """
    document = table_document(timed.rows, name=name, file=file, source=timed.source)
    document["description"] = f"measured layers of one network: {timed.source}"
    measured = {row.shape.op for row in timed.rows if row.shape is not None}
    narrow = frozenset((weight, INT8.activation) for weight in CARRIED)
    document["bit_pairs"] += bit_pairs(
        {kind: narrow for kind in KINDS if kind in measured}, (INT8.weight, INT8.activation)
    )
    return document


def _rows(
    layers: Sequence[LayerSpec],
    bits: LayerBits,
    rounds: Sequence[Mapping[str, float]],
    whole_s: float,
    repeats: int,
    source: str,
) -> list[Row]:
    """Medians over the rounds, scaled to the whole network's time."""
    medians = {layer.name: float(np.median([one[layer.name] for one in rounds])) for layer in layers}
    scale = whole_s / sum(medians.values())
    return [
        Row(
            bits,
            scale * medians[layer.name],
            layer.name,
            Shape.of(layer),
            std_s=scale * spread([one[layer.name] for one in rounds]),
            repeats=repeats,
            source=source,
        )
        for layer in layers
        if layer.kind is not OpKind.MATMUL
    ]
