import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.choices import decide
from mobo_mpq.engine import sweep as sweep_module
from mobo_mpq.engine.features import padded
from mobo_mpq.engine.sweep import Sweep, sweep_weights
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective, Direction, ObjectiveInfo
from mobo_mpq.pareto import non_dominated
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.toys import SerialLatency, make_toy

Floats = np.ndarray
Levels = np.ndarray

FREE = list(itertools.product((2, 4, 8), (2, 4, 8)))
TOGETHER = [(8, 8), (32, 32)]
WIDE = {"layers": 4, "weight_bits": (8, 16, 32), "activation_bits": (8, 32), "depthwise_pairs": TOGETHER}
EVERY_KIND: dict[str, dict[str, Any]] = {
    "free": {"layers": 5, "activation_bits": (4, 8)},
    "two costs": {"layers": 5, "activation_bits": (4, 8), "size": True},
    "legal together only": WIDE,
    "legal together only, and tied": {**WIDE, "tie": [["layer1", "layer3"]]},
    "tied": {"layers": 6, "activation_bits": (4, 8), "tie": [["layer0", "layer2"], ["layer3", "layer4"]]},
}


def _losses(problem: Problem, rng: np.random.Generator) -> Floats:
    """A random additive loss, falling with the bits."""
    return padded([np.r_[np.sort(rng.lognormal(0.0, 1.0, size - 1))[::-1], 0.0] for size in problem.space.sizes])


def _parts(problem: Problem, loss: Floats, levels: Levels) -> tuple[Floats, Floats]:
    """Losses n, and costs n x q per range."""
    ranges = [np.nansum(np.nanmax(cost.table, 1) - np.nanmin(cost.table, 1)) for cost in problem.costs]
    costs = [cost.of_levels(levels) / span for cost, span in zip(problem.costs, ranges, strict=True)]
    return loss[np.arange(levels.shape[1]), levels].sum(-1), np.stack(costs, axis=-1)


def _excess(problem: Problem, loss: Floats, weights: Floats) -> Floats:
    """How far each policy of a sweep is above the least weighted sum in the whole space, relative to that."""
    found = Sweep(problem)(loss, weights)
    assert problem.space.is_legal(found).all()
    losses, costs = _parts(problem, loss, found)
    every_loss, every_cost = _parts(problem, loss, problem.space.grid())
    least = (every_loss[:, None] + every_cost @ weights.T).min(0)
    return (losses + (costs * weights).sum(-1) - least) / np.maximum(least, 1e-12)


def _sharing(pairs: Sequence[Sequence[tuple[int, int]]], activations: Sequence[str], seed: int) -> Problem:
    """Layers that share activations, each with weight bits of its own."""
    names = tuple(f"layer{i}" for i in range(len(pairs)))
    keys = {"weight": list(names), "activation": list(activations)}
    space = SearchSpace(names, *decide(names, [frozenset(one) for one in pairs], keys))
    macs = np.random.default_rng(seed).lognormal(0.0, 1.0, len(names))
    table = np.array(
        [
            [size * bits.weight * bits.activation if tuple(bits) in pairs[i] else np.nan for bits in space.options]
            for i, size in enumerate(macs)
        ]
    )
    cost = CostObjective(ObjectiveInfo("latency_s", "s", Direction.MINIMIZE, 1e9), space, table)
    layers = tuple(LayerSpec(name, OpKind.LINEAR, (), (1,), (1,)) for name in names)
    return Problem(layers, space, (ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.0), cost))


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_weighted_sum_is_the_least_of_the_space(kind: str, seed: int) -> None:
    problem = make_toy(**EVERY_KIND[kind], seed=seed).problem
    rng = np.random.default_rng(seed)
    loss = _losses(problem, rng)
    assert _excess(problem, loss, sweep_weights(problem, 100, loss[:, 0].sum(), rng)).max() < 1e-9


@pytest.mark.parametrize(
    "pairs", [[FREE] * 5, [FREE, [(2, 2), (8, 8)], FREE, TOGETHER[:1] + [(4, 4)], [(8, 8), (4, 4)]]]
)
def test_shared_activations_are_minimised_with_the_weights_that_meet_them(pairs: list[list[tuple[int, int]]]) -> None:
    problem = _sharing(pairs, ("a", "a", "b", "b", "b"), seed=3)
    loss = _losses(problem, np.random.default_rng(3))
    weights = sweep_weights(problem, 100, loss[:, 0].sum(), np.random.default_rng(0))
    assert _excess(problem, loss, weights).max() < 1e-9


def test_blocks_that_ties_make_too_large_are_minimised_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "LARGEST_BLOCK", 10)
    problem = _sharing([FREE] * 5, ("a", "a", "b", "b", "b"), seed=3)
    loss = _losses(problem, np.random.default_rng(3))
    weights = sweep_weights(problem, 100, loss[:, 0].sum(), np.random.default_rng(0))
    excess = _excess(problem, loss, weights)
    assert (excess < 1e-9).mean() > 0.9  # it may end beside the optimum,
    assert excess.max() < 0.2  # but not far


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_all_supported_points_of_an_untied_space_are_found(seed: int) -> None:
    """Any costs and losses, falling with the bits or not: every vertex of the front's convex hull is met."""
    rng = np.random.default_rng(seed)
    problem = Problem.from_tables(
        ["a", "b", "c"],
        weight_bits=(2, 4, 8),
        activation_bits=(4, 8),
        costs={"cost": rng.random((3, 6))},
        references={"cost": 9.0},
        quality=ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.0),
    )
    loss = rng.random((6, 3))
    grid = problem.space.grid()
    points = np.column_stack(_parts(problem, loss, grid))
    strength = np.logspace(-4, 4, 4000)[:, None]
    found = {tuple(point) for point in np.column_stack(_parts(problem, loss, Sweep(problem)(loss, strength))).round(9)}
    assert {tuple(points[i].round(9)) for i in _vertices(points)} <= found


def _vertices(points: Floats) -> list[int]:
    """Of the lower left hull, but for those that less than a hundredth of a decade of weights makes optimal."""
    front = np.flatnonzero(non_dominated(-points))
    front = front[np.argsort(points[front, 1])]
    kept: list[int] = []
    for index in front:
        while len(kept) > 1 and _slope(points, kept[-2], kept[-1]) <= _slope(points, kept[-1], index):
            kept.pop()
        kept.append(int(index))
    slopes = [np.inf, *(_slope(points, a, b) for a, b in itertools.pairwise(kept)), 0.0]
    return [
        index
        for index, above, below in zip(kept, slopes[:-1], slopes[1:], strict=True)
        if min(above, 1e4) > max(below, 1e-4) * 10**0.01
    ]


def _slope(points: Floats, left: int, right: int) -> float:
    return float((points[left, 0] - points[right, 0]) / (points[right, 1] - points[left, 1]))


def test_each_row_of_weights_may_have_a_loss_of_its_own() -> None:
    problem = make_toy(5, activation_bits=(4, 8)).problem
    rng = np.random.default_rng(0)
    losses = [_losses(problem, rng) for _ in range(3)]
    weights = sweep_weights(problem, 20, 5.0, rng)
    together = Sweep(problem)(np.repeat(np.stack(losses), 20, axis=0), np.tile(weights, (3, 1)))
    assert (together == np.concatenate([Sweep(problem)(loss, weights) for loss in losses])).all()


def test_pins_stay() -> None:
    toy = make_toy(4)
    target = HardwareTarget("toy", {kind: frozenset(FREE) for kind in (OpKind.CONV, OpKind.DEPTHWISE)}, SerialLatency())
    for pin in ({"layer1": (8, 8)}, {name: (4, 4) for name in toy.problem.space.names}):
        space = SearchSpace.from_layers(toy.problem.layers, target, pin=pin)
        cost = CostObjective.from_model(SerialLatency(), toy.problem.layers, space)
        problem = Problem(toy.problem.layers, space, (toy.problem.quality, cost))
        loss = _losses(problem, np.random.default_rng(0))
        found = Sweep(problem)(loss, np.logspace(-3, 3, 30)[:, None])
        assert found.shape == (30, len(space.variables))
        assert len(space.variables) == 2 * (4 - len(pin))
        assert all(policy[name] == bits for policy in space.to_policies(found) for name, bits in pin.items())


def test_weights_span_the_front() -> None:
    problem = make_toy(12, size=True).problem
    loss = _losses(problem, np.random.default_rng(0))
    weights = sweep_weights(problem, 200, loss[:, 0].sum(), np.random.default_rng(0))
    assert weights.shape == (200, 2)
    assert (weights > 0).all()
    found = Sweep(problem)(loss, weights)
    assert (found[0] == problem.space.sizes - 1).all()
    assert (found[-1] == 0).all()
    assert len(np.unique(found, axis=0)) > 12
