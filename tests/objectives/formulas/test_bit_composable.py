"""Bit Fusion against its simulator: hsharma35/bitfusion@04ec1c8, results/bitfusion-eyeriss-sim-sweep.csv."""

import math

import numpy as np
import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.formulas.bit_composable import BitComposable
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits

# ResNet-18 of WRPN, batch 16; columns of the array, DRAM bits per cycle, layer, bits, compute and total cycles
PUBLISHED = [
    (32, 192, (3, 128, 112, 7), 8, 8028160, 9793537),
    (32, 192, (128, 128, 56, 1), 4, 401408, 2274988),
    (32, 192, (128, 128, 56, 3), 4, 3612672, 3613708),
    (32, 192, (256, 256, 28, 1), 4, 401408, 1138689),
    (32, 192, (256, 512, 14, 1), 4, 200704, 571393),
    (32, 192, (512, 512, 14, 3), 4, 3612672, 4330838),
    (32, 192, (1024, 1024, 7, 3), 4, 3612672, 3614180),
    (32, 4096, (512, 1024, 7, 1), 4, 200704, 200716),
    (64, 4096, (3, 128, 112, 7), 8, 4014080, 4014123),
    (64, 4096, (256, 512, 14, 1), 4, 100352, 100495),
    (128, 4096, (128, 128, 56, 1), 4, 100352, 106640),
    (256, 4096, (128, 128, 56, 1), 4, 100352, 206992),
    (256, 4096, (256, 256, 28, 1), 4, 50176, 53376),
    (256, 4096, (1024, 1024, 7, 3), 4, 451584, 451819),
]


def conv(cin: int, cout: int, hw: int, size: int, stride: int = 1) -> LayerSpec:
    return LayerSpec("c", OpKind.CONV, (cout, cin, size, size), (cin, hw * stride, hw * stride), (cout, hw, hw))


def array(columns: int = 32, width: float = 192.0) -> BitComposable:
    built_in = load_target("bitfusion").latency.formula
    return built_in.model_copy(update={"columns": columns, "dram_bits_per_cycle": width})


@pytest.mark.parametrize(("columns", "width", "shape", "bits", "compute", "total"), PUBLISHED)
def test_compute_cycles_of_the_simulator_are_exact(columns, width, shape, bits, compute, total):
    assert array(columns, width).compute_cycles(conv(*shape), LayerBits(bits, bits), 16) == compute


def test_totals_lack_what_the_tiles_of_the_simulator_move_twice():
    errors = [
        array(columns, width).cycles(conv(*shape), LayerBits(bits, bits), 16) / total - 1
        for columns, width, shape, bits, _, total in PUBLISHED
    ]
    assert max(errors) <= 1e-6  # never above: every tensor is moved at least once
    assert np.median(np.abs(errors)) < 1e-3
    assert min(errors) > -0.49  # the layer whose tiles do not fit, on the widest array
    built_in = [error for error, row in zip(errors, PUBLISHED, strict=True) if row[:2] == (32, 192)]
    assert min(built_in) > -0.17


def test_a_row_of_the_table_of_apq_that_is_bound_by_dram():
    # mit-han-lab/apq@428190a: 96 -> 456 channels, 14 x 14, 1 x 1, 4/4 bits: 0.062192 ms at 500 MHz, batch 1
    target = load_target("bitfusion")
    assert target.latency.layer_cost(conv(96, 456, 14, 1), LayerBits(4, 4)) == pytest.approx(0.062192e-3, rel=1e-9)


@pytest.mark.parametrize(
    ("bits", "pairs"), [((8, 8), 1), ((5, 7), 1), ((4, 4), 4), ((3, 4), 4), ((2, 8), 4), ((2, 2), 16), ((1, 1), 16)]
)
def test_a_unit_fuses_pairs_of_fewer_bits(bits, pairs):
    assert array().pairs_per_unit(LayerBits(*bits)) == pairs


def test_images_are_unrolled_and_nothing_else():
    eight = LayerBits(8, 8)
    for channels in (1, 3, 4):
        rows = math.ceil(channels * 9 / 16)
        assert array().compute_cycles(conv(channels, 32, 10, 3), eight, 1) == 100 * rows
    assert array().compute_cycles(conv(5, 32, 10, 3), eight, 1) == 100 * 9
    depthwise = LayerSpec("d", OpKind.DEPTHWISE, (6, 1, 3, 3), (6, 10, 10), (6, 10, 10), groups=6)
    assert array().compute_cycles(depthwise, eight, 1) == 6 * 100 * 9


def test_a_strided_layer_reads_its_whole_input():
    layer = conv(32, 64, 7, 1, stride=2)
    assert array().dram_bits(layer, LayerBits(8, 4), 1) == 64 * 64 * 49 + 32 * 64 * 8 + 32 * 196 * 4


def test_energy_of_the_array_and_of_dram():
    target = load_target("bitfusion")
    layer, bits = conv(64, 64, 14, 3), LayerBits(4, 8)
    # every unit is busy: MACs / pairs per unit at 0.459 pJ, which is one 8 x 8 MAC or two of 4 x 8
    compute = layer.macs / 2 * 0.459e-12
    dram = (64 * 14 * 14 * 64 + layer.num_weights * 4 + 64 * 14 * 14 * 8) * 15e-12
    assert target.energy.layer_cost(layer, bits) == pytest.approx(compute + dram)


def test_sixteen_bits_are_refused():
    with pytest.raises(InputError, match="target 'bitfusion' .* 'c' at 16 weight and 8 .* it covers 1 to 8 bits"):
        load_target("bitfusion").latency.layer_cost(conv(16, 16, 8, 3), LayerBits(16, 8))
