"""HAQ's states, actions and back-off, against what its authors published and against their definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mobo_mpq as mm
from mobo_mpq.hardware import CostModel
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.problem import Problem
from mobo_mpq.space import SearchSpace
from mobo_mpq.strategies.haq_episode import Episode, back_off, layer_features
from mobo_mpq.testing.networks import mobilenet_v2, traced
from mobo_mpq.testing.toys import make_toy

BISMO = load_target("bismo-cloud")
PUBLISHED = (  # weight and activation bits of MobileNetV2 for 60 % of the latency, from the README of mit-han-lab/haq
    "8- 77 56 46 56 57 56 74 46 46 77 56 46 73 57 47 73 57 47 77 47 47 64 67 47 74 67 57 74 67 57 74 67 67 64 57 67 "
    "64 57 67 77 47 77 77 47 77 77 47 77 77 47 77 88"
)
FIRST = (8, 7)
"""The published activation bits of the first layer are -1, with which the authors' table is read at 7 bits."""


def mobilenet() -> tuple[LayerSpec, ...]:
    """Its 53 layers as HAQ sees them: none is tied to another."""
    return tuple(replace(layer, activation_group="") for layer in traced(mobilenet_v2, 3, 224, 224).layers)


def priced(layers: tuple[LayerSpec, ...], model: CostModel | None = None) -> CostObjective:
    pins = {layers[0].name: FIRST, layers[-1].name: (8, 8)}
    return CostObjective.from_model(model or BISMO.latency, layers, SearchSpace.from_layers(layers, BISMO, pin=pins))


def test_the_published_policy_costs_what_was_published() -> None:
    layers = mobilenet()
    pairs = [FIRST, *((int(w), int(a)) for w, a in PUBLISHED.split()[1:])]
    policy = mm.Policy.of({layer.name: pair for layer, pair in zip(layers, pairs, strict=True)})
    highest = 39_624_933 / 300e6
    assert priced(layers)(policy) / highest == pytest.approx(0.59138, abs=5e-6)


def test_backing_off_from_the_highest_bits_gives_the_published_vector() -> None:
    layers = mobilenet()
    cost = priced(layers)
    limit = 0.6 * 39_624_933 / 300e6
    found = back_off(cost.space, cost.space.sizes - 1, lambda levels: cost.of_levels(levels) <= limit)
    assert found is not None
    policy = cost.space.to_policies(found)[0]
    assert [tuple(bits) for bits in policy.values()] == [FIRST, *[(6, 6)] * 6, (6, 5), *[(5, 5)] * 44, (8, 8)]
    assert cost(policy) / (39_624_933 / 300e6) == pytest.approx(0.591960, abs=5e-7)


def test_what_is_within_the_budget_stays_and_what_cannot_be_is_none() -> None:
    space = make_toy(3).problem.space
    levels = space.sizes - 1
    assert back_off(space, levels, lambda some: np.ones(len(some), dtype=bool)) is levels
    assert back_off(space, levels, lambda some: np.zeros(len(some), dtype=bool)) is None


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0), kind=st.sampled_from(["product", "tied", "pairs"]))
def test_backing_off_lowers_alone_and_keeps_the_budget_wherever_the_lowest_bits_do(
    seed: int, share: float, kind: str
) -> None:
    problem = {
        "product": make_toy(4, activation_bits=(2, 4, 8)),
        "tied": make_toy(5, activation_bits=(4, 8), tie=[["layer0", "layer2"], ["layer3", "layer4"]]),
        "pairs": make_toy(4, weight_bits=(8, 16, 32), activation_bits=(8, 32), depthwise_pairs=[(8, 8), (32, 32)]),
    }[kind].problem
    space, cost = problem.space, problem.costs[0]
    start = space.to_levels(space.sample(1, np.random.default_rng(seed)))[0]
    least, most = cost(space.lowest()), cost(space.highest())
    limit = least + share * (most - least)
    costs: list[float] = []

    def within(levels: np.ndarray) -> np.ndarray:
        costs.extend(cost.of_levels(levels).tolist())
        return np.asarray(cost.of_levels(levels) <= limit)

    found = back_off(space, start, within)
    assert found is not None
    assert costs == sorted(costs, reverse=True), "every step is cheaper than the one before"
    assert cost.of_levels(found) <= limit
    assert (found <= start).all()
    assert space.is_legal(found[None])[0]


def toy_episode(bits: tuple[int, ...]) -> Episode:
    names = ["a", "b"]
    table = np.ones((2, len(bits) ** 2))
    quality = mm.ObjectiveInfo("accuracy", "", "maximize", 0.1)
    problem = Problem.from_tables(
        names, weight_bits=bits, activation_bits=bits, costs={"s": table}, references={"s": 2.0}, quality=quality
    )
    return Episode(problem)


@settings(deadline=None)
@given(lowest=st.integers(1, 8), size=st.integers(2, 8), action=st.floats(0.0, 1.0))
def test_actions_are_the_published_bits_where_no_number_of_bits_is_missing(
    lowest: int, size: int, action: float
) -> None:
    bits = range(lowest, lowest + size)
    published = (lowest - 0.5) + action * size
    found = bits[int(toy_episode(tuple(bits)).to_level(0, np.array([action]))[0])]
    if abs(published - math.floor(published) - 0.5) > 1e-6:  # halves are rounded to even numbers there
        assert found == round(published)
    assert abs(found - published) <= 0.5 + 1e-6


@settings(deadline=None)
@given(size=st.integers(2, 8))
def test_bins_are_equally_wide_and_end_at_the_lowest_and_the_highest_bits(size: int) -> None:
    episode = toy_episode(tuple(2 ** np.arange(size)))
    levels = episode.to_level(0, np.linspace(0.0, 1.0, 1000 * size, endpoint=False))
    assert np.bincount(levels).tolist() == pytest.approx([1000] * size, abs=1)
    assert episode.to_level(0, np.array([0.0, 1.0])).tolist() == [0, size - 1]
    every = np.array([[level] * episode.steps for level in range(size)])
    assert [episode.to_levels(episode.to_actions(row)).tolist() for row in every] == every.tolist()


def test_features_of_layers() -> None:
    conv = LayerSpec("c", OpKind.CONV, (32, 16, 3, 3), (16, 10, 12), (32, 5, 6), stride=2)
    wise = LayerSpec("d", OpKind.DEPTHWISE, (32, 1, 5, 5), (32, 5, 6), (32, 5, 6), groups=32)
    dense = LayerSpec("l", OpKind.LINEAR, (10, 64), (64,), (10,))
    product = LayerSpec("m", OpKind.MATMUL, (), (4, 7, 8), (4, 7, 7))
    assert layer_features(conv, 0) == (0, 16, 32, 2, 3, 16 * 32 * 9, 120, 0)
    assert layer_features(wise, 1) == (1, 32, 32, 1, 5, 32 * 25, 30, 1)
    assert layer_features(dense, 2) == (0, 64, 10, 0, 1, 640, 1, 2)
    assert layer_features(product, 3) == (0, 8, 7, 0, 1, 0, 28, 3)


def test_states_are_scaled_by_column_and_hold_the_action_before() -> None:
    episode = Episode(make_toy(4, activation_bits=(4, 8), tie=[["layer1", "layer3"]]).problem)
    names = [(variable.layers[0], variable.role) for variable in episode.variables]
    every = [(f"layer{i}", role) for i in range(4) for role in ("weight", "activation")]
    assert names == [step for step in every if step[0] != "layer3"], (
        "a tied decision is made once, where it shows first"
    )
    levels = np.array([0, 1, 1, 0, 2, 1])
    states = episode.states(levels, np.array([0.25]))
    assert states.shape == (6, 11)
    assert states.min() == 0.0 and states.max() == 1.0
    bits = [variable.choices[level] for variable, level in zip(episode.variables, levels, strict=True)]
    assert states[:, 0].tolist() == [1.0, *(b / 8 for b in bits[:-1])]
    assert states[:, 1].tolist() == [0, 0, 1, 1, 0, 0]  # depthwise
    assert states[:, 8].tolist() == pytest.approx([i / 3 for i in (0, 0, 1, 1, 2, 2)])  # index
    assert states[:, 9].tolist() == [1, 0, 1, 0, 1, 0]  # weight
    assert (states[:, 10] == 0.25).all()
    assert episode.state(3, np.array([0, 1]), np.zeros(0)).shape == (2, 10)


def test_layers_of_unknown_shape_differ_in_their_index_alone() -> None:
    states = toy_episode((2, 4, 8)).states(np.zeros(4, dtype=np.intp), np.zeros(0))
    assert states[:, 1:8].any() == np.False_
    assert states[:, 8].tolist() == [0, 0, 1, 1]
