"""From files to a target that loads: what is taken over, and what is refused."""

import json
from pathlib import Path

import pytest

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.profiles.importing import Measured, measure, target_document, write_target
from mobo_mpq.policy import LayerBits

STEM = LayerSpec("stem", OpKind.CONV, (16, 3, 3, 3), (3, 8, 8), (16, 8, 8))
HEAD = LayerSpec("head", OpKind.LINEAR, (10, 16), (16,), (10,))
LAYERS = (STEM, HEAD)
EIGHT, FOUR = LayerBits(8, 8), LayerBits(4, 8)


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Profiles of two precisions, by trtexec."""
    paths = []
    for name, factor in (("int8", 1.0), ("int4", 0.5)):
        times = {"stem": 10.0, "pool": 2.0, "head": 4.0}
        content = [{"count": 9}, *({"name": k, "averageMs": v * factor / 1000} for k, v in times.items())]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        paths.append(tmp_path / f"{name}.json")
    return paths


def target(measured: Measured, folder: Path, **options):
    document = target_document(measured, name="board", file="board.csv", **options)
    assert write_target(document, measured.rows, folder / "board.toml") == [folder / "board.toml", folder / "board.csv"]
    return load_target(folder / "board.toml")


def test_files_of_several_precisions(files, tmp_path):
    measured = measure(files, [EIGHT, FOUR], LAYERS, source="a board, 2026-03-02")
    board = target(measured, tmp_path)
    assert board.name == "board"
    assert board.pairs_of(STEM) == {(8, 8), (4, 8)}
    assert board.latency.layer_cost(STEM, EIGHT) == pytest.approx(10e-6)
    assert board.latency.layer_cost(HEAD, FOUR) == pytest.approx(2e-6)
    assert measured.profiles[str(files[0])].overhead_s == pytest.approx(2e-6)
    assert measured.bits[str(files[1])] == FOUR
    expected = "measured: a board, 2026-03-02, int8.json; a board, 2026-03-02, int4.json"
    assert board.sources == {"batch": expected, "bit_pairs": expected, "latency": expected}


def test_the_table_serves_other_networks_by_shape(files, tmp_path):
    board = target(measure(files[:1], [EIGHT], LAYERS), tmp_path)
    twin = LayerSpec("another.name", OpKind.CONV, (16, 3, 3, 3), (3, 8, 8), (16, 8, 8))
    assert board.latency.layer_cost(twin, EIGHT) == pytest.approx(10e-6)


def test_a_batch(files, tmp_path):
    board = target(measure(files[:1], [EIGHT], LAYERS, batch=32), tmp_path)
    assert board.batch == 32
    assert board.latency.layer_cost(STEM, EIGHT) == pytest.approx(10e-6)  # of the whole batch


def test_a_table_is_imported_beside_profiles(files, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("layer,w_bits,a_bits,latency_us\nstem,2,8,3\nhead,2,8,1\n")
    board = target(measure([files[0], table], [EIGHT], LAYERS), tmp_path)
    assert board.pairs_of(STEM) == {(2, 8), (8, 8)}
    assert board.latency.layer_cost(STEM, LayerBits(2, 8)) == pytest.approx(3e-6)


def test_constraints_of_another_target_are_taken_over(files, tmp_path):
    (tmp_path / "like.toml").write_text("""\
schema = 1
name = "like"
description = "a test"
[[bit_pairs]]
kinds = ["conv", "linear"]
weight = [8]
activation = [8, 16]
[[bit_pairs]]
kinds = ["conv"]
weight = [2, 3]
activation = [8]
carrier = [8, 8]
[size]
containers = [4, 8]
[sources]
bit_pairs = "published: a test"
size = "published: a test"
""")
    board = target(measure(files, [EIGHT, FOUR], LAYERS), tmp_path, like=str(tmp_path / "like.toml"))
    assert board.bit_pairs[OpKind.LINEAR] == {(8, 8)}  # 8/16 was not measured, 4/8 is not supported
    assert board.bit_pairs[OpKind.CONV] == {(8, 8), (2, 8), (3, 8)}
    assert board.latency.layer_cost(STEM, LayerBits(2, 8)) == pytest.approx(10e-6)
    assert board.storage.containers == (4, 8)
    assert board.sources["bit_pairs"] == "published: a test (target 'like')"


def test_a_device_without_a_formula_gets_one(files, tmp_path):
    board = target(measure(files[:1], [EIGHT], LAYERS), tmp_path, like="hexagon")
    assert (8, 8) in board.pairs_of(STEM)
    assert board.latency.layer_cost(STEM, EIGHT) == pytest.approx(10e-6)


def test_rounding_up_opens_the_pairs_of_the_other_target(files, tmp_path):
    board = target(measure(files[:1], [EIGHT], LAYERS), tmp_path, like="mpic", missing="round_up")
    assert (2, 4) in board.pairs_of(STEM)
    assert board.latency.layer_cost(STEM, LayerBits(2, 4)) == pytest.approx(10e-6)


def test_a_model_for_what_was_not_measured(files, tmp_path):
    board = target(measure(files[:1], [EIGHT], LAYERS), tmp_path, missing="model", fallback="t4")
    assert board.latency.layer_cost(STEM, EIGHT) == pytest.approx(10e-6)
    t4 = load_target("t4").latency.formula
    assert board.latency.layer_cost(STEM, LayerBits(4, 4)) == pytest.approx(t4.seconds(STEM, LayerBits(4, 4), 1))
    assert (4, 4) in board.pairs_of(STEM)
    clocked = target(measure(files[:1], [EIGHT], LAYERS), tmp_path, missing="model", fallback="mpic")
    assert clocked.latency.layer_cost(STEM, LayerBits(2, 2)) == pytest.approx(STEM.macs / 6.5 / 250e6)


def test_energy_is_kept(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("layer,w_bits,a_bits,latency_us,energy_uj\nstem,8,8,3,7\nhead,8,8,1,2\n")
    board = target(measure([table], [], LAYERS), tmp_path)
    assert board.energy.layer_cost(STEM, EIGHT) == pytest.approx(7e-6)


def refusal(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        measure(*arguments, **options)
    return str(caught.value)


def test_refusals(files, tmp_path):
    assert "1 different profiles and 0 pairs of bits; a profile is of one" in refusal(files[:1], [], LAYERS)
    assert "2 different profiles and 1 pairs of bits" in refusal(files, [EIGHT], LAYERS)
    assert "1 different profiles and 2 pairs of bits" in refusal([files[0], files[0]], [EIGHT, FOUR], LAYERS)
    assert "needs the layers of its network; give --task" in refusal(files[:1], [EIGHT], None)
    message = refusal(files, [EIGHT, EIGHT], LAYERS)
    assert "repeats line 2: layer 'stem' at 8 weight and 8 activation bits; keep one of them" in message
    table = tmp_path / "other.csv"
    table.write_text("layer,w_bits,a_bits,latency_us\nfeatures.0,8,8,3\n")
    message = refusal([table], [], LAYERS)
    assert "the table has no row for 2 of 2 layers, neither by name nor by shape, the first being 'stem'" in message
    assert "it may be of another model" in message


def test_nothing_in_common_with_the_other_target(files):
    measured = measure(files[:1], [LayerBits(3, 3)], LAYERS)
    with pytest.raises(InputError, match="none of the measured pairs is one that target 'mpic' computes with; it supp"):
        target_document(measured, name="board", file="board.csv", like="mpic")
    with pytest.raises(UnknownName, match="unknown target 'hexagonn'"):
        target_document(measured, name="board", file="board.csv", like="hexagonn")


def test_nothing_is_written_that_would_not_load(files, tmp_path):
    measured = measure(files[:1], [EIGHT], LAYERS)
    document = target_document(measured, name="board", file="board.csv")
    document["bit_pairs"][0]["weight"] = [2]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="allows 2 weight and 8 activation bits, which have no latency"):
        write_target(document, measured.rows, tmp_path / "board.toml")
    assert sorted(tmp_path.iterdir()) == before


def test_places_that_cannot_be_written(files, tmp_path):
    measured = measure(files[:1], [EIGHT], LAYERS)
    document = target_document(measured, name="board", file="board.csv")
    with pytest.raises(InputError, match="--out is '.*board.json'; expected a path that ends in .toml"):
        write_target(document, measured.rows, tmp_path / "board.json")
    with pytest.raises(InputError, match=r"cannot be written \(.*\); give --out another path"):
        write_target(document, measured.rows, files[0] / "board.toml")
