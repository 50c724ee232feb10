"""The long table: what is read and written, and what is refused with which words."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.profiles.records import Row, parse_table, read_table, write_table
from mobo_mpq.objectives.profiles.shapes import Shape
from mobo_mpq.policy import LayerBits

HEADER = "layer,w_bits,a_bits,latency_us"
SHAPES = "op,cin,cout,kh,kw,stride,groups,h_out,w_out,batch,w_bits,a_bits,latency_us"


def refusal(*lines: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_table("\n".join(lines) + "\n", "my.csv")
    return str(caught.value)


def test_a_row_by_name():
    (row,) = parse_table(f"{HEADER},energy_uj,std_us,n,source,target\nconv1,4,8,12.5,3.0,0.5,100,a bench,board\n", "t")
    assert row == Row(
        LayerBits(4, 8),
        pytest.approx(12.5e-6),
        "conv1",
        energy_j=pytest.approx(3e-6),
        std_s=pytest.approx(0.5e-6),
        repeats=100,
        source="a bench",
        target="board",
    )
    assert (row.line, row.batch, row.shape, row.subject) == (2, 1, None, "layer 'conv1'")


def test_a_row_by_shape():
    (row,) = parse_table(f"{SHAPES}\nconv,32,64,3,3,2,1,28,28,8,4,4,100\n", "t")
    assert row.shape == Shape(OpKind.CONV, 32, 64, 3, 3, 2, 1, 28, 28)
    assert row.batch == 8
    assert row.subject == "conv of 32 to 64 channels, 3x3, stride 2, 28x28 outputs"


@pytest.mark.parametrize(
    ("cells", "shape"),
    [
        ("fc,512,1000,,,,,,", Shape(OpKind.LINEAR, 512, 1000)),
        ("dw,32,32,3,3,,,7,7", Shape(OpKind.DEPTHWISE, 32, 32, 3, 3, 1, 32, 7, 7)),
        ("conv2d,32,32,3,3,1,32,7,7", Shape(OpKind.DEPTHWISE, 32, 32, 3, 3, 1, 32, 7, 7)),
        ("conv,32,64,3,3,1,4,7,7", Shape(OpKind.CONV, 32, 64, 3, 3, 1, 4, 7, 7)),
    ],
)
def test_words_and_defaults_of_shapes(cells, shape):
    (row,) = parse_table(f"{SHAPES}\n{cells},1,8,8,1\n", "t")
    assert row.shape == shape


@pytest.mark.parametrize(("unit", "factor"), [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])
def test_units_are_in_the_header(unit, factor):
    (row,) = parse_table(f"layer,w_bits,a_bits,latency_{unit}\nc,8,8,2.5\n", "t")
    assert row.latency_s == pytest.approx(2.5 * factor)


def test_a_spreadsheets_byte_order_mark_and_line_ends(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\nc, 8, 8, 1.5\r\n".encode())
    (row,) = read_table(tmp_path / "t.csv")
    assert (row.layer, row.bits) == ("c", (8, 8))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((HEADER,), "has a header and no rows"),
        (("",), "line 1: no column 'w_bits'"),
        (("layer,w_bits,latency_us", "c,8,1"), "line 1: no column 'a_bits'"),
        (("layer,w_bits,a_bits", "c,8,8"), "line 1: no column 'latency_us' or 'latency_ms' or 'latency_s'"),
        (("w_bits,a_bits,latency_us", "8,8,1"), "line 1: no column 'layer' or 'op'"),
        (("layer,w_bits,a_bits,latency_ns", "c,8,8,1"), "column 'latency_ns' is not known; expected columns among"),
        (("layer;w_bits;a_bits;latency_us", "c;8;8;1"), "column 'layer;w_bits;a_bits;latency_us' is not known"),
        (("layer,layer,w_bits,a_bits,latency_us", "c,c,8,8,1"), "line 1: column 'layer' comes twice"),
        (("layer,w_bits,a_bits,latency_us,latency_ms", "c,8,8,1,1"), "columns latency_us and latency_ms say the same"),
        ((HEADER, "c,8,8,1", "d,8,8,-1"), "line 3: latency_us is '-1'; expected a finite number above 0"),
        ((HEADER, "c,8,8,nan"), "line 2: latency_us is 'nan'; expected a finite number above 0"),
        ((HEADER, "c,8,8,inf"), "latency_us is 'inf'"),
        ((HEADER, "c,8,8,0"), "latency_us is '0'"),
        ((HEADER, "c,8,8,fast"), "latency_us is 'fast'"),
        ((HEADER, "c,8,8,"), "line 2: the latency is missing"),
        ((HEADER, "c,64,8,1"), "line 2: w_bits is '64'; expected a whole number from 1 to 32"),
        ((HEADER, "c,8,0,1"), "line 2: a_bits is '0'; expected a whole number from 1 to 32"),
        ((HEADER, "c,1.58,8,1"), "w_bits is '1.58'"),
        ((HEADER, ",8,8,1"), "line 2: neither a layer nor an op"),
        ((HEADER, "c,8,8"), "line 2: fewer cells than the header has columns"),
        ((HEADER, "c,8,8,1,2"), "line 2: more cells than the header has columns"),
        ((HEADER, "c,8,8,1", "d,8,8,1", "c,8,8,2"), "line 4 repeats line 2: layer 'c' at 8 weight and 8 activation"),
        ((f"{HEADER},batch", "c,8,8,1,1", "d,8,8,1,16"), "line 3: batch 16, where line 2 has 1"),
        ((f"{HEADER},target", "c,8,8,1,a", "d,8,8,1,b"), "line 3: target b, where line 2 has a"),
        ((f"{HEADER},energy_uj", "c,8,8,1,2", "d,8,8,1,"), "line 3: no energy, where other rows have one"),
        ((f"{HEADER},std_us", "c,8,8,1,-1"), "line 2: std_us is '-1'; expected a finite number of at least 0"),
        ((f"{HEADER},n", "c,8,8,1,0"), "line 2: n is '0'; expected a whole number of at least 1"),
        ((f"{HEADER},batch", "c,8,8,1,two"), "line 2: batch is 'two'"),
        ((HEADER, 'c"d,8,8,1', '"c,8,8,1'), "correct that line"),
        ((SHAPES, "pool,3,8,3,3,1,1,8,8,1,8,8,1"), "line 2: op is 'pool'; expected conv, depthwise or linear"),
        ((SHAPES, "conv,3,8,,,1,1,8,8,1,8,8,1"), "line 2: kh is ''; expected a whole number of at least 1"),
        ((SHAPES, "conv,3,8,3,3,1,2,8,8,1,8,8,1"), "line 2: 2 groups do not divide 3 and 8 channels"),
        (
            (SHAPES, "conv,3,8,3,3,1,1,8,8,1,8,8,1", "conv2d,3,8,3,3,,,8,8,1,8,8,2"),
            "line 3 repeats line 2: conv of 3 to 8 channels, 3x3, stride 1, 8x8 outputs at 8",
        ),
    ],
)
def test_what_is_refused(lines, words):
    message = refusal(*lines)
    assert message.startswith("table 'my.csv'")
    assert words in message


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"table '.*none.csv' cannot be read \(No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"table '.*binary.csv' cannot be read \(it is not text\)"):
        read_table(tmp_path / "binary.csv")


costs = st.floats(1e-9, 1e3)
rows = st.builds(
    Row,
    st.builds(LayerBits, st.integers(1, 32), st.integers(1, 32)),
    costs,
    st.text("abc.,\"'/@ 0", min_size=1).map(str.strip).filter(bool),
    st.none() | st.just(Shape(OpKind.CONV, 4, 8, 3, 3, 1, 1, 6, 6)),
    std_s=st.none() | costs,
    repeats=st.none() | st.integers(1, 1000),
)


@settings(deadline=None)
@given(st.lists(rows, min_size=1, unique_by=lambda row: (row.layer, row.bits)))
def test_what_is_written_is_read_back(written):
    again = parse_table(write_table(written, "board"), "t")
    for row, before in zip(again, written, strict=True):
        assert (row.layer, row.bits, row.shape, row.repeats) == (
            before.layer,
            before.bits,
            before.shape,
            before.repeats,
        )
        assert math.isclose(row.latency_s, before.latency_s, rel_tol=1e-9)
        assert row.target == "board"


LAYERS = [
    LayerSpec("c", OpKind.CONV, (64, 32, 3, 3), (32, 56, 56), (64, 28, 28), stride=2),
    LayerSpec("g", OpKind.CONV, (64, 8, 3, 3), (32, 28, 28), (64, 28, 28), groups=4),
    LayerSpec("d", OpKind.DEPTHWISE, (32, 1, 5, 5), (32, 14, 14), (32, 14, 14), groups=32),
    LayerSpec("one", OpKind.CONV, (8, 4, 3), (4, 20), (8, 10), stride=2),
    LayerSpec("l", OpKind.LINEAR, (10, 512), (512,), (10,)),
    LayerSpec("tokens", OpKind.LINEAR, (10, 512), (49, 512), (49, 10)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_a_shape_knows_what_decides_the_cost(layer):
    again = Shape.of(layer).layer("again")
    assert (again.macs, again.num_weights, again.kind) == (layer.macs, layer.num_weights, layer.kind)
    assert math.prod(again.output_shape) == math.prod(layer.output_shape)
    assert math.prod(again.input_shape) == math.prod(layer.input_shape)
    assert Shape.of(again) == Shape.of(layer)
