import gzip
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from exhaustive import load_table, table_names

from mobo_mpq.errors import InputError, PolicyError, UnknownName
from mobo_mpq.testing.toys import Toy, make_toy


@pytest.fixture(scope="module")
def toy() -> Toy:
    """Depthwise layers take other pairs, so that some options are not legal, and two layers are tied."""
    return make_toy(3, activation_bits=(4, 8), depthwise_pairs=[(4, 4), (8, 8)], tie=[["layer0", "layer2"]])


def write(folder: Path, toy: Toy, *, rows: slice = slice(None), sensitivity: bool = False) -> None:
    """A table in the format of make_tables.py."""
    problem = toy.problem
    space, cost = problem.space, problem.costs[0]
    document = {
        "layers": [{**asdict(layer), "kind": str(layer.kind)} for layer in problem.layers],
        "names": space.names,
        "pairs": [sorted(pairs) for pairs in space.pairs],
        "decisions": [asdict(variable) for variable in space.decisions],
        "quality": {**asdict(problem.quality), "direction": str(problem.quality.direction)},
        "cost": {**asdict(cost.info), "direction": str(cost.info.direction)},
        "cost_table": np.nan_to_num(cost.table, nan=-1.0).tolist(),
        "evaluation_cpu_s": 0.5,
        "float_quality": 0.95,
    }
    if sensitivity:
        document["sensitivity"] = {"values": np.ones_like(cost.table).tolist(), "cpu_s": 1.2}
    (folder / "small.json").write_text(json.dumps(document))
    lines = ["levels,quality,divergence"]
    for levels, policy in zip(space.grid(), space.to_policies(space.grid()), strict=True):
        lines.append(f"{''.join(map(str, levels))},{toy.quality(policy)!r},{0.95 - toy.quality(policy)!r}")
    with gzip.open(folder / "small.csv.gz", "wt") as file:
        file.write("\n".join([lines[0], *lines[1:][rows]]) + "\n")


def test_a_table_is_read_back_as_the_problem_that_it_was_made_from(tmp_path: Path, toy: Toy) -> None:
    write(tmp_path, toy)
    table = load_table("small", tmp_path)
    space = table.problem.space
    assert (space.names, space.pairs, space.decisions) == (
        toy.problem.space.names,
        toy.problem.space.pairs,
        toy.problem.space.decisions,
    )
    assert table.problem.layers == toy.problem.layers
    assert table.float_quality == 0.95
    assert table.problem.infos == toy.problem.infos
    np.testing.assert_array_equal(table.problem.costs[0].table, toy.problem.costs[0].table)
    assert np.isnan(table.problem.costs[0].table).any()
    for policy in toy.everything:
        assert table.evaluate(policy).value == toy.quality(policy)
        assert table.evaluate(policy).stderr is None
        assert table.evaluate(policy).divergence == pytest.approx(0.95 - toy.quality(policy))


def test_the_best_hypervolume_is_that_of_every_policy(tmp_path: Path, toy: Toy) -> None:
    write(tmp_path, toy)
    table = load_table("small", tmp_path)
    assert table.best_hypervolume == pytest.approx(toy.best_hypervolume, rel=1e-12)
    assert table.hypervolume(toy.front) == pytest.approx(toy.best_hypervolume, rel=1e-12)
    assert table.hypervolume(toy.front[:2]) < toy.best_hypervolume


def test_sensitivities_are_paid_for_in_evaluations(tmp_path: Path, toy: Toy) -> None:
    write(tmp_path, toy, sensitivity=True)
    table = load_table("small", tmp_path)
    assert table.sensitivity_evaluations == 3  # 1.2 s at 0.5 s each, rounded up
    assert table.problem.sensitivity is not None
    assert table.problem.sensitivity.shape == table.problem.costs[0].table.shape
    blind = table.without_sensitivity()
    assert blind.problem.sensitivity is None
    assert blind.sensitivity_evaluations == 0
    assert blind.best_hypervolume == table.best_hypervolume


def test_a_table_without_sensitivities_costs_none(tmp_path: Path, toy: Toy) -> None:
    write(tmp_path, toy)
    table = load_table("small", tmp_path)
    assert table.sensitivity_evaluations == 0
    assert table.problem.sensitivity is None


def test_tables_that_are_being_made_are_not_listed(tmp_path: Path, toy: Toy) -> None:
    write(tmp_path, toy)
    (tmp_path / "half.json").write_text("{}")
    (tmp_path / "later.partial.csv").write_text("")
    assert table_names(tmp_path) == ("small",)
    with pytest.raises(UnknownName, match=r"unknown table 'half'; known: small\. Run 'python benchmarks/make_tables"):
        load_table("half", tmp_path)


def test_a_table_with_holes_is_refused(tmp_path: Path, toy: Toy) -> None:
    write(tmp_path, toy, rows=slice(1, None))
    with pytest.raises(InputError, match=r"table 'small' has \d+ rows for \d+ policies; expected the \d+ of its space"):
        load_table("small", tmp_path)


def test_a_policy_of_another_network_is_not_looked_up(tmp_path: Path, toy: Toy) -> None:
    write(tmp_path, toy)
    with pytest.raises(PolicyError):
        load_table("small", tmp_path).evaluate(make_toy(4).problem.space.highest())
