"""Targets that are tables of measurements: which row prices a layer, and what happens where there is none."""

from pathlib import Path

import pytest
import tomli_w

from mobo_mpq.errors import InputError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.policy import LayerBits
from mobo_mpq.space import SearchSpace

STEM = LayerSpec("stem", OpKind.CONV, (16, 3, 3, 3), (3, 32, 32), (16, 32, 32))
BODY = LayerSpec("body", OpKind.CONV, (16, 16, 3, 3), (16, 32, 32), (16, 32, 32))
TWIN = LayerSpec("twin", OpKind.CONV, (16, 16, 3, 3), (16, 32, 32), (16, 32, 32))
HEAD = LayerSpec("head", OpKind.LINEAR, (10, 16), (16,), (10,))
OTHER = LayerSpec("features.0", OpKind.CONV, (32, 3, 7, 7), (3, 64, 64), (32, 32, 32), stride=2)

NAMED = """\
layer,w_bits,a_bits,latency_us
stem,8,8,50
body,8,8,100
body,4,4,60
body,4,8,70
head,8,8,5
head,2,8,3
"""
SHAPED = """\
layer,op,cin,cout,kh,kw,stride,groups,h_out,w_out,w_bits,a_bits,latency_us
body,conv,16,16,3,3,1,1,32,32,8,8,100
later,conv,16,16,3,3,1,1,32,32,8,8,140
,linear,16,10,,,,,,,8,8,5
"""


def target(folder: Path, text: str = NAMED, *, pairs=((4, 8), (4, 8)), **latency):
    (folder / "my.csv").write_text(text)
    document = {
        "schema": 1,
        "name": "board",
        "description": "a test",
        "bit_pairs": [{"kinds": ["conv", "linear"], "weight": pairs[0], "activation": pairs[1]}],
        "latency": {"model": "table", "file": "my.csv"} | latency,
        "sources": {"bit_pairs": "published: a test", "latency": "measured: a test"},
    }
    (folder / "board.toml").write_text(tomli_w.dumps(document))
    return load_target(folder / "board.toml")


def test_rows_by_name(tmp_path):
    model = target(tmp_path, pairs=([8], [8])).latency
    assert model.layer_cost(STEM, LayerBits(8, 8)) == pytest.approx(50e-6)
    assert model.layer_cost(BODY, LayerBits(4, 8)) == pytest.approx(70e-6)


def test_a_layer_has_the_pairs_that_were_measured_on_it(tmp_path):
    board = target(tmp_path, pairs=([4, 8], [4, 8]), missing="round_up")
    (tmp_path / "my.csv").write_text(NAMED)
    bare = load_target(tmp_path / "my.csv")
    assert bare.pairs_of(STEM) == {(8, 8)}
    assert bare.pairs_of(BODY) == {(4, 4), (4, 8), (8, 8)}
    assert bare.pairs_of(HEAD) == {(2, 8), (8, 8)}
    assert board.pairs_of(STEM) == {(4, 4), (4, 8), (8, 4), (8, 8)}
    assert SearchSpace.from_layers([STEM, BODY, HEAD], bare).cardinality == 1 * 3 * 2


def test_rows_by_shape_stand_in_by_their_mean_unless_one_has_no_name(tmp_path):
    model = target(tmp_path, SHAPED, pairs=([8], [8])).latency
    assert model.layer_cost(BODY, LayerBits(8, 8)) == pytest.approx(100e-6)
    assert model.layer_cost(TWIN, LayerBits(8, 8)) == pytest.approx(120e-6)
    assert model.layer_cost(HEAD, LayerBits(8, 8)) == pytest.approx(5e-6)
    nameless = SHAPED + ",conv,16,16,3,3,1,1,32,32,8,8,90\n"
    model = target(tmp_path, nameless, pairs=([8], [8])).latency
    assert model.layer_cost(TWIN, LayerBits(8, 8)) == pytest.approx(90e-6)


def test_a_missing_pair_is_refused(tmp_path):
    model = target(tmp_path, pairs=([8], [8])).latency
    with pytest.raises(
        InputError,
        match=r"target 'board' has no cost for layer 'body' at 2 weight and 8 activation bits; 'my.csv' has it at "
        r"4/4, 4/8, 8/8 \(weight/activation\)",
    ):
        model.layer_cost(BODY, LayerBits(2, 8))


@pytest.mark.parametrize(
    ("bits", "microseconds"),
    [((2, 2), 60), ((3, 4), 60), ((4, 5), 70), ((5, 4), 100), ((4, 4), 60), ((8, 8), 100)],
)
def test_rounding_up_takes_the_next_wider_pair(tmp_path, bits, microseconds):
    model = target(tmp_path, missing="round_up").latency
    assert model.layer_cost(BODY, LayerBits(*bits)) == pytest.approx(microseconds * 1e-6)


def test_rounding_up_ends_at_the_widest_pair(tmp_path):
    model = target(tmp_path, missing="round_up").latency
    with pytest.raises(InputError, match="layer 'stem' at 16 weight and 8 activation bits; 'my.csv' has it at 8/8"):
        model.layer_cost(STEM, LayerBits(16, 8))


def test_a_model_prices_the_missing_pairs(tmp_path):
    fallback = {"model": "roofline", "bytes_per_s": 1e9, "pairs": {"2/8": {"macs_per_s": 1e9}}}
    model = target(tmp_path, pairs=([2, 8], [8]), missing="model", fallback=fallback).latency
    assert model.layer_cost(BODY, LayerBits(8, 8)) == pytest.approx(100e-6)
    assert model.layer_cost(BODY, LayerBits(2, 8)) == pytest.approx(BODY.macs / 1e9)
    assert model.layer_cost(HEAD, LayerBits(2, 8)) == pytest.approx(3e-6)  # measured
    with pytest.raises(InputError, match="layer 'body' at 3 weight and 8 activation bits; it covers 2/8"):
        model.layer_cost(BODY, LayerBits(3, 8))


@pytest.mark.parametrize("missing", ["error", "round_up", "model"])
def test_a_table_of_another_model_is_refused(tmp_path, missing):
    rates = {str(pair): {"macs_per_s": 1e9} for pair in ("4/4", "4/8", "8/4", "8/8")}
    fallback = {"fallback": {"model": "roofline", "bytes_per_s": 1e9, "pairs": rates}} if missing == "model" else {}
    pairs = ([8], [8]) if missing == "error" else ((4, 8), (4, 8))
    board = target(tmp_path, pairs=pairs, missing=missing, **fallback)
    with pytest.raises(
        InputError, match=r"'features.0'.* no row of 'my.csv' has its name, or its shape \(conv of 3 to"
    ):
        board.pairs_of(OTHER)


def test_a_table_alone_is_a_target(tmp_path):
    (tmp_path / "my.csv").write_text(NAMED)
    board = load_target(str(tmp_path / "my.csv"))
    assert (board.name, board.batch, board.energy) == ("my", 1, None)
    assert board.latency.layer_cost(BODY, LayerBits(4, 4)) == pytest.approx(60e-6)
    assert board.sources["latency"] == "measured: the rows of my.csv"


def test_kinds_of_a_table_by_shape(tmp_path):
    (tmp_path / "my.csv").write_text(SHAPED)
    board = load_target(tmp_path / "my.csv")
    assert board.bit_pairs == {OpKind.CONV: {(8, 8)}, OpKind.LINEAR: {(8, 8)}}


def test_energy_beside_the_latency(tmp_path):
    (tmp_path / "my.csv").write_text("layer,w_bits,a_bits,latency_us,energy_uj\nbody,8,8,100,7\nbody,4,8,60,5\n")
    board = load_target(tmp_path / "my.csv")
    assert board.energy.layer_cost(BODY, LayerBits(4, 8)) == pytest.approx(5e-6)
    with pytest.raises(InputError, match="layer 'body' at 2 weight"):
        board.energy.layer_cost(BODY, LayerBits(2, 8))


def test_energy_that_nobody_measured(tmp_path):
    target(tmp_path, pairs=([8], [8]))
    path = tmp_path / "board.toml"
    path.write_text(path.read_text() + '\n[energy]\nmodel = "table"\n')
    with pytest.raises(InputError, match="target 'board' has no measured energy for layer 'body' at 8 weight and 8"):
        load_target(path).energy.layer_cost(BODY, LayerBits(8, 8))


@pytest.mark.parametrize(
    ("latency", "words"),
    [
        ({"missing": "guess"}, "field 'latency.missing': Input should be 'error', 'round_up' or 'model'"),
        ({"missing": "model"}, 'missing = "model" and a table [latency.fallback] belong together'),
        ({"fallback": {"model": "roofline"}}, 'missing = "model" and a table [latency.fallback] belong together'),
        ({"missing": "model", "fallback": {"model": "oracle"}}, "fallback.model is 'oracle'; expected one of"),
        ({"missing": "model", "fallback": {"model": "roofline"}}, "fallback.pairs: Field required"),
        (
            {"missing": "model", "fallback": {"model": "mac_rate", "macs_per_cycle": {"2/2": 1.0}}},
            "fallback.model 'mac_rate' gives cycles, and the document has no clock_hz",
        ),
        ({"file": "none.csv"}, "none.csv' cannot be read (No such file"),
        ({"file": ""}, "field 'latency.file': String should have at least 1 character"),
    ],
)
def test_malformed_documents(tmp_path, latency, words):
    with pytest.raises(InputError) as caught:
        target(tmp_path, pairs=([8], [8]), **latency)
    assert words in str(caught.value)


def test_a_broken_row_names_the_table_and_the_line(tmp_path):
    with pytest.raises(InputError, match=r"^table '.*my.csv', line 2: latency_us is '-5'"):
        target(tmp_path, "layer,w_bits,a_bits,latency_us\nstem,8,8,-5\n", pairs=([8], [8]))


def test_a_table_of_another_batch(tmp_path):
    with pytest.raises(InputError, match="line 2: batch 16, where the target document has batch 1; make them equal"):
        target(tmp_path, "layer,w_bits,a_bits,latency_us,batch\nstem,8,8,5,16\n", pairs=([8], [8]))


def test_the_pairs_of_a_document_have_to_be_in_the_table(tmp_path):
    with pytest.raises(InputError, match="allows 2 weight and 2 activation bits, which have no latency; it covers 2/8"):
        target(tmp_path, pairs=([2], [2]))


def test_a_table_needs_a_source(tmp_path):
    target(tmp_path, pairs=([8], [8]))
    path = tmp_path / "board.toml"
    path.write_text(path.read_text().replace('latency = "measured: a test"\n', ""))
    with pytest.raises(InputError, match=r"field 'latency.file' has no source; say in \[sources\]"):
        load_target(path)


def test_a_table_that_is_not_there():
    with pytest.raises(InputError, match="table 'board.csv' cannot be read .No such file or directory.; give the path"):
        load_target("board.csv")
