import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.allocation import allocate, cheapest, least_loss
from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.testing.toys import make_toy

HAWQ = json.loads((Path(__file__).parent / "data" / "hawqv3_resnet18_ilp.json").read_text())["resnet18"]
LAYERS = HAWQ["layers"]


def _brute_force(
    loss: np.ndarray, costs: dict[str, np.ndarray], budgets: dict[str, float], groups: list[list[int]]
) -> float | None:
    """Least total loss within the budgets, by looking at everything."""
    rows = np.arange(len(loss))
    best = None
    for options in itertools.product(range(loss.shape[1]), repeat=len(loss)):
        chosen = np.array(options)
        if any(len(set(chosen[group])) > 1 for group in groups):
            continue
        if any(costs[name][rows, chosen].sum() > limit * (1 + 1e-9) for name, limit in budgets.items()):
            continue
        total = loss[rows, chosen].sum()
        best = total if best is None else min(best, total)
    return best


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), layers=st.integers(1, 6), options=st.integers(1, 4), tightness=st.floats(0.0, 1.0))
def test_allocation_agrees_with_brute_force(seed: int, layers: int, options: int, tightness: float) -> None:
    rng = np.random.default_rng(seed)
    loss = rng.normal(size=(layers, options)) * 10.0 ** rng.integers(-6, 7)
    costs = {
        "latency_s": rng.random((layers, options)) * 1e-3,
        "size_bytes": rng.integers(1, 9, (layers, options)) * 1e6,
    }
    budgets = {
        name: float(table.min(1).sum() + tightness * (table.max(1).sum() - table.min(1).sum()))
        for name, table in costs.items()
    }
    groups = [sorted(rng.choice(layers, 2, replace=False).tolist())] if layers > 2 and rng.random() < 0.5 else []
    expected = _brute_force(loss, costs, budgets, groups)
    if expected is None:
        with pytest.raises(InfeasibleBudget):
            allocate(loss, costs, budgets, groups)
        return
    chosen = allocate(loss, costs, budgets, groups)
    assert loss[np.arange(layers), chosen].sum() == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(loss).max())
    assert all(len(set(chosen[group].tolist())) == 1 for group in groups)
    for name, table in costs.items():
        assert table[np.arange(layers), chosen].sum() <= budgets[name] * (1 + 1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_a_budget_that_is_met_exactly_is_kept_and_used(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss, cost = rng.random((8, 4)), rng.random((8, 4))
    wanted = loss.argmin(axis=1)
    limit = float(cost[np.arange(8), wanted].sum())
    assert (allocate(loss, {"latency_s": cost}, {"latency_s": limit}) == wanted).all()
    below = (
        allocate(loss, {"latency_s": cost}, {"latency_s": limit * (1 - 3e-9)}) if limit > cost.min(1).sum() else None
    )
    assert below is None or cost[np.arange(8), below].sum() <= limit * (1 - 3e-9) * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), layers=st.integers(2, 6), options=st.integers(2, 4))
def test_just_above_and_just_below_each_threshold(seed: int, layers: int, options: int) -> None:
    """At the cost of some allocation, a hair more and a hair less: where the optimum changes."""
    rng = np.random.default_rng(seed)
    rows = np.arange(layers)
    loss, costs = rng.normal(size=(layers, options)), {name: rng.random((layers, options)) for name in ("a", "b")}
    some = rng.integers(0, options, layers)
    for factor in (1 - 1e-8, 1.0, 1 + 1e-8):
        budgets = {name: factor * float(table[rows, some].sum()) for name, table in costs.items()}
        expected = _brute_force(loss, costs, budgets, [])
        if expected is None:
            assert factor < 1.0
            with pytest.raises(InfeasibleBudget):
                allocate(loss, costs, budgets)
            continue
        chosen = allocate(loss, costs, budgets)
        assert loss[rows, chosen].sum() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert all(table[rows, chosen].sum() <= budgets[name] * (1 + 1e-9) for name, table in costs.items())


def _large(seed: int, layers: int = 120) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """Layers of very different sizes at 2 to 8 bits for weights and activations: 49 options, and two budgets."""
    rng = np.random.default_rng(seed)
    bits = np.array(list(itertools.product(range(2, 9), repeat=2)))
    losses = rng.lognormal(0.0, 1.5, (layers, 2))
    loss = losses[:, :1] * 4.0 ** -bits[:, 0] + losses[:, 1:] * 4.0 ** -bits[:, 1]
    costs = {
        "size_bytes": rng.lognormal(8.0, 1.5, (layers, 1)) * bits[:, 0] / 8,
        "bops": rng.lognormal(12.0, 1.5, (layers, 1)) * bits.prod(axis=1),
    }
    shares = {"size_bytes": 0.45, "bops": 0.3}
    budgets = {
        name: float(table.min(1).sum() + shares[name] * (table.max(1) - table.min(1)).sum())
        for name, table in costs.items()
    }
    return loss, costs, budgets


@pytest.mark.parametrize("seed", [0, 1])
def test_large_instances_are_solved_exactly(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """120 layers of 49 options: as good as the programme that is not cut down first, and above its relaxation."""
    loss, costs, budgets = _large(seed)
    rows = np.arange(len(loss))
    chosen = allocate(loss, costs, budgets)
    for name, table in costs.items():
        assert table[rows, chosen].sum() <= budgets[name] * (1 + 1e-9)
    monkeypatch.setattr("mobo_mpq.binary_programme._LARGE", 10**9)
    whole = allocate(loss, costs, budgets)
    assert loss[rows, chosen].sum() == pytest.approx(loss[rows, whole].sum(), rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_cutting_down_changes_nothing(seed: int) -> None:
    """With every programme cut down, however small, results are those of brute force; groups and refusals included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobo_mpq.binary_programme._LARGE", 0)
        patch.setattr("mobo_mpq.binary_programme._FIRST", 1)
        rng = np.random.default_rng(seed)
        loss, cost = rng.normal(size=(5, 4)), rng.random((5, 4))
        limit = float(rng.uniform(cost.min(1).sum(), cost.max(1).sum()))
        groups = [sorted(rng.choice(5, 2, replace=False).tolist())]
        expected = _brute_force(loss, {"c": cost}, {"c": limit}, groups)
        if expected is None:
            with pytest.raises(InfeasibleBudget):
                allocate(loss, {"c": cost}, {"c": limit}, groups)
        else:
            chosen = allocate(loss, {"c": cost}, {"c": limit}, groups)
            assert loss[np.arange(5), chosen].sum() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_policies_that_are_refused_leave_the_next_best() -> None:
    toy = make_toy(layers=4, activation_bits=(4, 8), tie=[["layer0", "layer3"]])
    space, cost = toy.problem.space, toy.problem.costs[0]
    loss = np.random.default_rng(0).random(cost.table.shape)
    limit = 0.6 * cost.info.reference
    options = space.option_indices(space.to_levels(toy.everything))
    totals = loss[np.arange(len(loss)), options].sum(axis=1)
    affordable = [i for i in np.argsort(totals) if cost(toy.everything[i]) <= limit]
    refused: list = []
    for index in affordable[:6]:
        found = least_loss(space, loss, [(cost.table, limit)], refused)
        assert found == toy.everything[index]
        refused.append(found)
    assert least_loss(space, loss, [(cost.table, limit)], [toy.everything[i] for i in affordable]) is None


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS reports on some solutions even when it is told to be silent."""
    allocate(*_large(1, layers=60))
    assert capfd.readouterr() == ("", "")


def test_a_budget_that_very_many_allocations_just_exceed_is_kept() -> None:
    cost = np.tile([1.0, 2.0], (24, 1))  # 2.7 million of them cost 36
    limit = 36 - 1e-6
    chosen = allocate(-cost, {"latency_s": cost}, {"latency_s": limit})
    assert cost[np.arange(24), chosen].sum() == 35


def test_losses_that_differ_in_the_eighth_digit_are_told_apart() -> None:
    loss = np.array([[1.0, 1.0 - 1e-8], [2.0 - 1e-8, 2.0]])
    assert allocate(loss, {}, {}).tolist() == [1, 0]


def test_an_impossible_budget_is_named_with_the_cheapest_value() -> None:
    cost = [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(
        InfeasibleBudget, match=r"'latency_s' of 3.5 is impossible: the cheapest legal policy costs 4;"
    ) as e:
        allocate(cost, {"size_bytes": cost, "latency_s": cost}, {"size_bytes": 9.0, "latency_s": 3.5})
    assert (e.value.budget, e.value.cheapest, e.value.asked) == ("latency_s", 4.0, 3.5)


def test_groups_count_towards_the_cheapest_value() -> None:
    cost = [[1.0, 2.0], [4.0, 3.0]]
    with pytest.raises(InfeasibleBudget, match="costs 5"):
        allocate(cost, {"latency_s": cost}, {"latency_s": 4.5}, groups=[[0, 1]])


def test_budgets_that_are_impossible_together_name_the_later_one() -> None:
    fast, small = [[1.0, 5.0]], [[5.0, 1.0]]
    with pytest.raises(
        InfeasibleBudget, match=r"'size_bytes' of 2 .* within the budget on 'latency_s' costs 5;"
    ) as error:
        allocate([[0.0, 0.0]], {"latency_s": fast, "size_bytes": small}, {"latency_s": 2.0, "size_bytes": 2.0})
    assert error.value.cheapest == 5.0


def test_an_infinite_budget_is_none() -> None:
    assert allocate([[0.0, -1.0]], {"latency_s": [[1.0, 1e9]]}, {"latency_s": float("inf")}).tolist() == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], {}, {}), r"table 'sensitivity' has shape \(1,\); expected layers x options"),
        (([[1.0]], {"c": [[1.0, 2.0]]}, {}), r"table 'c' has shape \(1, 2\); expected \(1, 1\)"),
        (([[float("nan")]], {}, {}), "table 'sensitivity' holds values that are not finite"),
        (([[1.0]], {"c": [[1.0]]}, {"d": 1.0}), "budget 'd' has no cost table; there are tables for c"),
        (([[1.0]], {}, {"d": 1.0}), "there are tables for none"),
        (([[1.0]], {"c": [[1.0]]}, {"c": float("nan")}), "budget 'c' is not a number"),
        (([[1.0]], {}, {}, [[0, 3]]), r"group \[0, 3\] names layer 3; expected indices from 0 to 0"),
    ],
)
def test_bad_input_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate(*arguments)


@pytest.mark.parametrize("name", HAWQ["ilp"])
def test_the_published_allocations_of_hawq_v3(name: str) -> None:
    """All nine bit configurations of ResNet-18 that HAWQ-V3 published, as its notebook derives them."""
    trace = np.array([layer["hutchinson_trace"] for layer in LAYERS])
    error = np.array([[layer["dW2_int4"], layer["dW2_int8"]] for layer in LAYERS])
    loss = np.stack([np.zeros(len(LAYERS)), trace * (error[:, 1] - error[:, 0])], axis=1)  # 4 bits, 8 bits
    weights = np.array([layer["params"] for layer in LAYERS])[:, None] / 2**20
    macs = np.array([layer["macs"] for layer in LAYERS])[:, None] / 1e6
    costs = {
        "modelsize": weights * [0.5, 1.0],  # MiB
        "bops": macs * [(4 / 32) ** 2, (8 / 32) ** 2],
        "latency": np.array([[layer["latency_int4_ms"], layer["latency_int8_ms"]] for layer in LAYERS]),
    }
    kind, fraction = name.split("_")
    low, high = costs[kind].sum(axis=0)
    limit = low + (high - low) * float(fraction)
    published = HAWQ["ilp"][name]
    assert limit == pytest.approx(published["limit"], rel=1e-12)
    chosen = allocate(loss, costs, {kind: limit}, groups=HAWQ["ties"])
    assert [4 + 4 * option for option in chosen] == HAWQ["published_configs"][name]["bits"]
    assert loss[np.arange(len(LAYERS)), chosen].sum() == pytest.approx(published["published_objective"], rel=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {"layers": 4},
        {"layers": 4, "weight_bits": (8, 32), "activation_bits": (8, 32), "depthwise_pairs": [(8, 8), (32, 32)]},
        {"layers": 4, "activation_bits": (4, 8), "tie": [["layer0", "layer3"]]},
        {"layers": 4, "activation_bits": (2, 8), "budgets": {"size_bytes": 0.6}},
    ],
)
def test_the_cheapest_policy_agrees_with_brute_force(arguments: dict) -> None:
    toy = make_toy(**arguments)
    rng = np.random.default_rng(0)
    legal = ~np.isnan(toy.problem.costs[0].table)
    table = np.where(legal, rng.normal(size=legal.shape), np.nan)  # low bits need not be cheap
    budgets = {name: (toy.problem.cost(name).table, limit) for name, limit in toy.problem.budgets.items()}
    options = toy.problem.space.option_indices(toy.problem.space.to_levels(toy.everything))
    expected = table[np.arange(len(table)), options].sum(axis=1).min()
    found = toy.problem.space.option_indices(toy.problem.space.to_levels([cheapest(toy.problem.space, table, budgets)]))
    assert table[np.arange(len(table)), found].sum() == pytest.approx(expected, rel=1e-12)
