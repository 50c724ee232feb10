"""Fits of a roofline: exact on what a roofline made, and within 20 % on kernels of a T4 that they have not seen."""

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.calibration import Errors, calibrate, calibrated_document
from mobo_mpq.objectives.hardware import load_target, parse_document, read_document
from mobo_mpq.objectives.profiles.records import Row
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.policy import LayerBits

DATA = Path(__file__).parents[1] / "data" / "t4_kernels_resnet18.csv"


def kernels() -> list[Row]:
    """The tensor-core kernels of the log: data as padded HxWxNxC, weights as HxWxOxI."""
    rows = []
    with DATA.open() as file:
        for row in csv.DictReader(file):
            if "HWNC" not in row["task"]:
                continue
            height, width, batch, _ = map(int, row["data_shape"].split("x"))
            kh, kw, outputs, inputs = map(int, row["weight_shape"].split("x"))
            stride = json.loads(row["stride"])[0]
            space = ((height - kh) // stride + 1, (width - kw) // stride + 1)
            bits = 4 if row["weight_dtype"] == "int4" else 8
            shape = Shape(OpKind.CONV, inputs, outputs, kh, kw, stride, 1, *space)
            rows.append(Row(LayerBits(bits, bits), float(row["best_latency_us"]) * 1e-6, shape=shape, batch=batch))
    return rows


def uncalibrated(**latency):
    """The T4 as its data sheet has it."""
    document = read_document("t4")
    document["latency"] |= {"bandwidth_efficiency": 1.0, "overhead_s": 0.0} | latency
    document["latency"]["pairs"] = {
        pair: {"macs_per_s": rates["macs_per_s"]} for pair, rates in document["latency"]["pairs"].items()
    }
    document["sources"] = {key: "published: a test" for key in ("batch", "bit_pairs", "latency")}
    return parse_document(document, "t4.toml", Path())


def mean_error(formula, rows) -> float:
    errors = [formula.seconds(row.shape.layer(), row.bits, row.batch) / row.latency_s - 1 for row in rows]
    return float(np.abs(errors).mean())


# --- the T4 -----------------------------------------------------------------------------------------------------------


def test_the_published_kernels():
    rows = kernels()
    assert len(rows) == 20
    macs = {row.shape.layer().macs for row in rows}
    assert macs == {115_605_504, 57_802_752, 6_422_528}  # those of ResNet-18's layers in HAWQ-V3's tables


def test_cross_validated_error_on_the_t4():
    calibration = calibrate(uncalibrated(), kernels())
    assert calibration.before.mean == pytest.approx(0.83, abs=0.005)  # peaks alone say little
    assert calibration.fitted.mean == pytest.approx(0.08, abs=0.005)
    assert calibration.held_out.mean == pytest.approx(0.107, abs=0.005)
    assert calibration.held_out.median < 0.10
    assert calibration.held_out.spearman == pytest.approx(0.90, abs=0.005)
    assert calibration.folds == 5


@pytest.mark.parametrize("seed", range(8))
def test_a_part_of_the_kernels_predicts_the_rest(seed):
    rows = kernels()
    order = np.random.default_rng(seed).permutation(len(rows))
    seen, unseen = [rows[i] for i in order[:14]], [rows[i] for i in order[14:]]
    assert mean_error(calibrate(uncalibrated(), seen).formula, unseen) < 0.20


def test_whole_layers_that_were_never_seen():
    """Both precisions of a layer are left out together, so that neither tells the other."""
    rows = kernels()
    errors = []
    for shape in {row.shape for row in rows}:
        formula = calibrate(uncalibrated(), [row for row in rows if row.shape != shape]).formula
        errors.append(mean_error(formula, [row for row in rows if row.shape == shape]))
    assert np.mean(errors) == pytest.approx(0.11, abs=0.005)


def test_the_built_in_t4_is_this_fit():
    formula, built_in = calibrate(uncalibrated(), kernels()).formula, load_target("t4").latency.formula
    for pair, rates in formula.pairs.items():
        assert built_in.pairs[pair].efficiency == pytest.approx(rates.efficiency, rel=2e-3)
    assert built_in.overhead_s == pytest.approx(formula.overhead_s, rel=2e-3)
    assert built_in.bandwidth_efficiency == pytest.approx(formula.bandwidth_efficiency, rel=2e-3)
    assert load_target("t4").batch == 8


def test_an_outlier_bends_little():
    rows = kernels()
    wild = [replace(rows[0], latency_s=20 * rows[0].latency_s), *rows[1:]]
    assert mean_error(calibrate(uncalibrated(), wild).formula, rows) < 0.15


# --- what a roofline made ---------------------------------------------------------------------------------------------

SHAPES = [
    Shape(OpKind.CONV, cin, cout, k, k, 1, 1, size, size)
    for (cin, cout), k, size in itertools.product([(16, 32), (64, 64), (256, 512)], (1, 3), (7, 28, 112))
]
DEPTHWISE = [Shape(OpKind.DEPTHWISE, c, c, 3, 3, 1, c, size, size) for c in (32, 256) for size in (7, 28, 112)]


def synthetic(target, shapes, measured, **changes) -> list[Row]:
    formula = target.latency.formula.model_copy(update=changes)
    return [
        Row(LayerBits(*pair), formula.seconds(shape.layer(), LayerBits(*pair), 4), shape=shape, batch=4)
        for shape in shapes
        for pair in measured
    ]


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_a_rooflines_own_numbers_are_found(combine):
    target = uncalibrated(combine=combine)
    pairs = {name: rates.model_copy(update={"efficiency": 0.3}) for name, rates in target.latency.formula.pairs.items()}
    pairs["4/4"] = pairs["4/4"].model_copy(update={"efficiency": 0.12})
    truth = {"pairs": pairs, "bandwidth_efficiency": 0.55, "overhead_s": 4e-6}
    found = calibrate(target, synthetic(target, SHAPES, [(8, 8), (4, 4)], **truth))
    assert found.numbers["pairs.8/8.efficiency"] == pytest.approx(0.3, rel=1e-2)
    assert found.numbers["pairs.4/4.efficiency"] == pytest.approx(0.12, rel=1e-2)
    assert found.numbers["bandwidth_efficiency"] == pytest.approx(0.55, rel=1e-2)
    assert found.numbers["overhead_s"] == pytest.approx(4e-6, rel=1e-2)
    assert found.held_out.worst < 0.02
    # pairs that nobody measured must not be left at the peak
    assert found.formula.pairs["16/16"].efficiency == pytest.approx(math.sqrt(0.3 * 0.12), rel=1e-2)


def test_depthwise_layers_get_a_rate_of_their_own():
    target = uncalibrated()
    rates = target.latency.formula.pairs["8/8"]
    pairs = {"8/8": rates.model_copy(update={"efficiency": 0.2, "depthwise_macs_per_s": 5e10})}
    found = calibrate(target, synthetic(target, SHAPES + DEPTHWISE, [(8, 8)], pairs=pairs, overhead_s=2e-6))
    assert found.numbers["pairs.8/8.depthwise_macs_per_s"] == pytest.approx(5e10, rel=1e-2)
    assert found.numbers["pairs.8/8.efficiency"] == pytest.approx(0.2, rel=1e-2)


def test_pairs_may_have_their_own_overhead():
    document = read_document("t4")
    document["latency"]["pairs"]["8/8"]["overhead_s"] = 1e-6
    document["sources"]["latency.pairs.8/8.overhead_s"] = "assumed: a test"
    target = parse_document(document, "t4.toml", Path())
    pairs = dict(target.latency.formula.pairs)
    pairs["8/8"] = pairs["8/8"].model_copy(update={"overhead_s": 9e-6})
    found = calibrate(target, synthetic(target, SHAPES, [(8, 8), (4, 4)], pairs=pairs))
    assert found.numbers["pairs.8/8.overhead_s"] == pytest.approx(9e-6, rel=1e-2)
    assert found.numbers["overhead_s"] == pytest.approx(2.96e-6, rel=1e-2)


def test_what_no_row_tells_stays():
    """Layers that move next to nothing say nothing of the bandwidth."""
    target = uncalibrated(bandwidth_efficiency=0.7)
    shapes = [Shape(OpKind.CONV, 4096, 4096, 3, 3, 1, 1, size, size) for size in (64, 96, 128, 192, 256)]
    pairs = {"8/8": target.latency.formula.pairs["8/8"].model_copy(update={"efficiency": 0.2})}
    found = calibrate(target, synthetic(target, shapes, [(8, 8)], pairs=pairs))
    assert found.numbers["bandwidth_efficiency"] == pytest.approx(0.7, rel=1e-2)


# --- documents and refusals -------------------------------------------------------------------------------------------


def test_the_document_says_how_its_numbers_came_about():
    calibration = calibrate(load_target("a100"), kernels())
    document = calibrated_document(read_document("a100"), calibration, name="mine", table="kernels.csv")
    target = parse_document(document, "mine.toml", Path())
    assert (target.name, target.latency.formula) == ("mine", calibration.formula)
    assert "fitted to 20 rows of kernels.csv; cross-validated in 5 folds" in target.sources["latency.overhead_s"]
    assert target.sources["latency.pairs.16/16.efficiency"] == "assumed: the mean of the fitted pairs"
    assert target.sources["latency.bytes_per_s"].startswith("published: 2039 GB/s")


def test_names_of_a_networks_layers_stand_for_shapes():
    rows = kernels()
    layers = [row.shape.layer(f"layer{i}") for i, row in enumerate(rows)]
    named = [replace(row, layer=f"layer{i}", shape=None, line=i + 2) for i, row in enumerate(rows)]
    assert calibrate(uncalibrated(), named, layers).numbers == calibrate(uncalibrated(), rows).numbers
    with pytest.raises(InputError, match="line 2 of the table has layer 'layer0' without a shape; add the columns op,"):
        calibrate(uncalibrated(), named)


def test_refusals():
    rows = kernels()
    with pytest.raises(InputError, match="target 'mpic' has no roofline, so that there is nothing to fit"):
        calibrate(load_target("mpic"), rows)
    with pytest.raises(InputError, match="target 'edge-tpu' has no roofline"):
        calibrate(load_target("edge-tpu"), rows)
    with pytest.raises(InputError, match="2 rows are too few .1 of 4/4, 1 of 8/8.; expected at least 5 in all, and 3"):
        calibrate(uncalibrated(), [rows[0], rows[-1]])
    with pytest.raises(
        InputError, match="5 weight and 8 activation bits for a layer of kind 'conv', which target 't4'"
    ):
        calibrate(uncalibrated(), [replace(rows[0], bits=LayerBits(5, 8)), *rows])
    with pytest.raises(
        InputError, match="20 of 20 rows are faster than the peaks of target 't4' allow; check the unit"
    ):
        calibrate(uncalibrated(), [replace(row, latency_s=row.latency_s / 1000) for row in rows])


def test_errors_by_hand():
    errors = Errors.of(np.array([1.1, 2.0, 2.0]), np.array([1.0, 2.0, 4.0]))
    assert (errors.mean, errors.median, errors.worst) == pytest.approx((0.2, 0.1, 0.5))
    assert math.isnan(Errors.of(np.array([1.0, 1.0]), np.array([1.0, 2.0])).spearman)


# --- the other GPUs ---------------------------------------------------------------------------------------------------

BIG = LayerSpec("big", OpKind.LINEAR, (8192, 8192), (8192, 8192), (8192, 8192))
THIN = LayerSpec("thin", OpKind.LINEAR, (8192, 8192), (8192,), (8192,))
PEAKS = {  # dense tera-operations per second at INT8 and INT4, gigabytes per second
    "a100": (624, 1248, 2039),
    "h100": (1978.9, None, 3350),
    "h200": (1978.9, None, 4800),
    "rtx4090": (660.6, 1321.2, 1008),
    "orin": (85, 170, 204.8),
}


@pytest.mark.parametrize("name", PEAKS)
def test_peaks_of_data_sheets(name):
    int8, int4, bandwidth = PEAKS[name]
    target = load_target(name)
    seconds = target.latency.layer_cost(BIG, LayerBits(8, 8))
    assert 2 * BIG.macs / seconds == pytest.approx(int8 * 1e12, rel=1e-3)
    moved = THIN.num_weights + 2 * 8192  # one position: as fast as the memory
    assert moved / target.latency.layer_cost(THIN, LayerBits(8, 8)) == pytest.approx(bandwidth * 1e9, rel=1e-3)
    assert ((4, 4) in target.pairs_of(BIG)) == (int4 is not None)
    if int4:
        assert 2 * BIG.macs / target.latency.layer_cost(BIG, LayerBits(4, 4)) == pytest.approx(int4 * 1e12, rel=1e-3)


def test_without_four_bit_cores_weights_only_move_faster():
    model = load_target("h100").latency
    assert model.layer_cost(BIG, LayerBits(4, 8)) == model.layer_cost(BIG, LayerBits(8, 8))
    ratio = model.layer_cost(THIN, LayerBits(4, 8)) / model.layer_cost(THIN, LayerBits(8, 8))
    assert ratio == pytest.approx(0.5, rel=1e-2)
    conv = LayerSpec("c", OpKind.CONV, (64, 64, 3, 3), (64, 8, 8), (64, 8, 8))
    assert model.layer_cost(conv, LayerBits(4, 8)) == model.layer_cost(conv, LayerBits(8, 8))
