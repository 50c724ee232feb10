"""Bit Fusion against its simulator: hsharma35/bitfusion@04ec1c8, results/bitfusion-eyeriss-sim-sweep.csv."""

import math
from importlib.resources import files

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


BUFFERS = ("weight_buffer_bytes", "input_buffer_bytes", "output_buffer_bytes")


def array(columns: int = 32, width: float = 192.0, *, buffers: bool = True) -> BitComposable:
    """The built-in array, with other columns and the buffers of the published sweep, which grow with them."""
    built_in = load_target("bitfusion").latency.formula.model_dump()
    sizes = {name: built_in[name] * columns // 32 if buffers else None for name in BUFFERS}
    return BitComposable(**built_in | sizes | {"columns": columns, "dram_bits_per_cycle": width})


@pytest.mark.parametrize(("columns", "width", "shape", "bits", "compute", "total"), PUBLISHED)
def test_compute_cycles_of_the_simulator_are_exact(columns, width, shape, bits, compute, total):
    assert array(columns, width).compute_cycles(conv(*shape), LayerBits(bits, bits), 16) == compute


def errors_of_totals(*, buffers: bool) -> np.ndarray:
    return np.array(
        [
            array(columns, width, buffers=buffers).cycles(conv(*shape), LayerBits(bits, bits), 16) / total - 1
            for columns, width, shape, bits, _, total in PUBLISHED
        ]
    )


def test_totals_of_the_simulator_from_shapes_alone():
    errors = np.abs(errors_of_totals(buffers=True))
    assert np.median(errors) < 1e-4
    assert errors.max() < 0.003
    built_in = [error for error, row in zip(errors, PUBLISHED, strict=True) if row[:2] == (32, 192)]
    assert max(built_in) < 5e-4


def test_without_buffers_totals_lack_what_tiles_move_twice():
    errors = errors_of_totals(buffers=False)
    assert max(errors) <= 1e-6  # never above: every tensor is moved at least once
    assert np.median(np.abs(errors)) < 1e-3
    assert min(errors) > -0.49


def test_totals_follow_from_the_traffic_of_the_simulator():
    # bits read and written, of the rows of PUBLISHED that wait for them
    traffic = {1: 436797440, 3: 218628096, 4: 109707264, 5: 831520768, 10: 436797440, 11: 847839232, 12: 218628096}
    for row, moved in traffic.items():
        _, width, _, _, compute, total = PUBLISHED[row]
        assert max(compute, moved / width) == pytest.approx(total, rel=1e-3)


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


def test_what_a_tile_reads():
    # all weights and one column of inputs fit: everything is moved once, and of the strided image what is needed
    once = 64 * 64 * 49 + 32 * 64 * 8 + 32 * 49 * 4
    assert array().dram_bits(conv(32, 64, 7, 1, stride=2), LayerBits(8, 4), 1) == once
    # 3x3 windows of tiles of 16 x 16 outputs: 18 x 18 inputs each, 4 times, for each channel
    depthwise = LayerSpec("d", OpKind.DEPTHWISE, (6, 1, 3, 3), (6, 32, 32), (6, 32, 32), groups=6)
    tile = array().model_copy(update={"output_buffer_bytes": 2 * 16 * 16 * 4})
    assert tile.dram_bits(depthwise, LayerBits(4, 8), 2) == 6 * (64 * 2 * 1024 + 9 * 4 + 2 * 4 * 18 * 18 * 8)
    # a layer of 10 outputs moves the sums of all 32 columns
    assert array().dram_bits(conv(64, 10, 4, 1), LayerBits(8, 8), 1) == 64 * 32 * 16 + 64 * 32 * 8 + 64 * 16 * 8
    # without buffers: the whole image, and what there is of sums
    unlimited = array(buffers=False)
    assert unlimited.dram_bits(conv(32, 64, 7, 1, stride=2), LayerBits(8, 4), 1) == once + 32 * 147 * 4


def test_layers_whose_windows_do_not_fit_are_refused(tmp_path):
    text = (files("mobo_mpq.objectives.targets") / "bitfusion.toml").read_text()
    own = tmp_path / "small.toml"
    own.write_text(text.replace("output_buffer_bytes = 16384", "output_buffer_bytes = 200"))
    with pytest.raises(InputError, match="'c' at 8 weight .*; its buffers cannot hold one window of the layer's input"):
        load_target(own).latency.layer_cost(conv(64, 64, 14, 3), LayerBits(8, 8))
    own.write_text(text.replace("output_buffer_bytes = 16384\n", ""))
    with pytest.raises(
        InputError, match="input_buffer_bytes and output_buffer_bytes belong together: give all or none"
    ):
        load_target(own)


def test_energy_of_the_array_and_of_dram():
    target = load_target("bitfusion")
    layer, bits = conv(64, 64, 14, 1), LayerBits(4, 8)
    # every unit is busy: MACs / pairs per unit at 0.459 pJ, which is one 8 x 8 MAC or two of 4 x 8
    compute = layer.macs / 2 * 0.459e-12
    dram = (64 * 14 * 14 * 64 + layer.num_weights * 4 + 64 * 14 * 14 * 8) * 15e-12
    assert target.energy.layer_cost(layer, bits) == pytest.approx(compute + dram)


def test_sixteen_bits_are_refused():
    with pytest.raises(InputError, match="target 'bitfusion' .* 'c' at 16 weight and 8 .* it covers 1 to 8 bits"):
        load_target("bitfusion").latency.layer_cost(conv(16, 16, 8, 3), LayerBits(16, 8))
