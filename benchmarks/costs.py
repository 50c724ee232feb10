"""Cost models: how fast they are, and how far they agree with what was published.

    python benchmarks/costs.py [--bitfusion FILE]

Prints CPU milliseconds of the cost table of MobileNetV2 at 224 x 224 (53 layers, those of 49 bit pairs that the target
computes with, nothing cached) for every built-in target; CPU seconds to price 100,000 policies through one table; and
the errors of ``bismo-cloud`` by kind of layer, against HAQ's look-up table (tests/data).

The results of Bit Fusion's simulator have no licence, so they are not in the repository. ``--bitfusion`` takes rows of
its sweep as CSV, with the columns N, M, if_width_bits_per_cycle, wbuf_bytes, ibuf_bytes, obuf_bytes, batch, in_ch,
out_ch, out_hw, kernel, a_bits, w_bits, im2col, compute_cycles_published, total_cycles, dram_read_bits and
dram_write_bits.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobo_mpq.hardware import HardwareTarget, Unpriced, cost_table
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective
from mobo_mpq.objectives.formulas.bit_composable import BitComposable
from mobo_mpq.objectives.hardware import load_target, target_names
from mobo_mpq.objectives.latency import LatencyModel
from mobo_mpq.policy import LayerBits
from mobo_mpq.seeding import rng
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.networks import mobilenet_v2, traced

HAQ = Path(__file__).parent.parent / "tests" / "data" / "haq_bit_serial_cycles_layers0to26.csv"
PAIRS = tuple(LayerBits(*pair) for pair in itertools.product(range(2, 9), repeat=2))
POLICIES = 100_000


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitfusion", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    layers = traced(mobilenet_v2, 3, 224, 224).layers
    report_tables(layers)
    report_policies(layers)
    report_haq()
    if arguments.bitfusion:
        report_bitfusion(arguments.bitfusion)


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def report_tables(layers: Sequence[LayerSpec]) -> None:
    """Time of a cost table, by target."""
    print("target          pairs  CPU ms of the cost table of MobileNetV2")
    for name in target_names():
        target = load_target(name)
        pairs = priced(target, layers)
        if pairs:
            print(f"{name:15} {len(pairs):5}  {1e3 * cpu_s(partial(cost_table, target.latency, layers, pairs)):.1f}")


def priced(target: HardwareTarget, layers: Sequence[LayerSpec]) -> list[LayerBits]:
    """Those of the 49 pairs that all layers can have; none where the target is only known after measurements."""
    if isinstance(target.latency, Unpriced):
        return []
    common = frozenset.intersection(*(target.bit_pairs.get(layer.kind, frozenset()) for layer in layers))
    return [pair for pair in PAIRS if pair in common]


def report_policies(layers: Sequence[LayerSpec]) -> None:
    """Time to price many policies."""
    target = load_target("bismo-cloud")
    space = SearchSpace.from_layers(layers, target)
    cost = CostObjective.from_model(target.latency, layers, space)
    levels = rng(0, "costs").integers(0, space.sizes, size=(POLICIES, len(space.sizes)))
    print(f"\n{POLICIES} policies of {len(layers)} layers on {target.name}")
    print(f"priced from their levels: {cpu_s(lambda: cost.of_levels(levels)):.3f} CPU s")
    policies = space.to_policies(levels)
    print(f"priced as objects:        {cpu_s(lambda: cost.of_levels(space.to_levels(policies))):.3f} CPU s")


def report_haq() -> None:
    """Errors of the bit-serial formula, by kind of layer."""
    target = load_target("bismo-cloud")
    assert isinstance(target.latency, LatencyModel) and target.clock_hz
    errors: dict[str, list[float]] = {}
    for row in rows_of(HAQ):
        cin, cout, size, hw, groups = (int(row[key]) for key in ("cin", "cout", "ksize", "out_hw", "groups"))
        kind = OpKind.DEPTHWISE if row["kind"] == "dw" else OpKind.CONV
        layer = LayerSpec("c", kind, (cout, cin // groups, size, size), (cin, hw, hw), (cout, hw, hw), groups)
        seconds = target.latency.layer_cost(layer, LayerBits(int(row["w_bits"]), int(row["a_bits"])))
        errors.setdefault(row["kind"], []).append(seconds * target.clock_hz / int(row["cycles"]) - 1)
    print("\nbismo-cloud against HAQ, layers 0 to 26: entries, median and worst error, exact within rounding")
    for kind, found in errors.items():
        print(f"{kind:5} {len(found):5}  {summary(found)}  {np.mean(np.abs(found) < 1e-12):.1%}")


def report_bitfusion(path: Path) -> None:
    """Errors of the bit-composable formula: compute cycles, totals from shapes, and totals from given traffic."""
    compute, shapes, traffic = [], [], []
    for row in rows_of(path):
        batch, cin, cout, hw, size = (int(row[key]) for key in ("batch", "in_ch", "out_ch", "out_hw", "kernel"))
        layer = LayerSpec("c", OpKind.CONV, (cout, cin, size, size), (cin, hw, hw), (cout, hw, hw))
        bits, array, total = LayerBits(int(row["w_bits"]), int(row["a_bits"])), array_of(row), int(row["total_cycles"])
        cycles = array.compute_cycles(layer, bits, batch)
        moved = int(row["dram_read_bits"]) + int(row["dram_write_bits"])
        compute.append(cycles / int(row["compute_cycles_published"]) - 1)
        shapes.append(array.cycles(layer, bits, batch) / total - 1)
        traffic.append(max(cycles, moved / array.dram_bits_per_cycle) / total - 1)
    print(f"\nbitfusion against its simulator, {len(compute)} rows: median and worst error")
    for name, found in {"compute": compute, "totals from shapes": shapes, "totals from given traffic": traffic}.items():
        print(f"{name:25}  {summary(found)}")


def array_of(row: dict[str, str]) -> BitComposable:
    """The array that a row of the sweep was simulated on."""
    formula = load_target("bitfusion").latency
    assert isinstance(formula, LatencyModel)
    return BitComposable(
        **formula.formula.model_dump()
        | {
            "rows": int(row["N"]),
            "columns": int(row["M"]),
            "dram_bits_per_cycle": float(row["if_width_bits_per_cycle"]),
            "weight_buffer_bytes": int(row["wbuf_bytes"]),
            "input_buffer_bytes": int(row["ibuf_bytes"]),
            "output_buffer_bytes": int(row["obuf_bytes"]),
            "im2col_channels": 4 if row["im2col"] == "1" else 1,
        }
    )


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8") as file:
        yield from csv.DictReader(file)


def summary(errors: Sequence[float]) -> str:
    """Median and largest magnitude."""
    sizes: NDArray[np.float64] = np.abs(np.array(errors))
    return f"{np.median(sizes):8.4%} {sizes.max():8.4%}"


if __name__ == "__main__":
    main()
