import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError, PolicyError, UnknownName
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import Policy
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.toys import SerialLatency, make_toy

ROLES = ("weight", "activation")
MIXED = [(8, 8), (8, 4), (4, 8), (4, 2), (2, 2)]  # (8, 8) is the highest of each: so it has to be


def _target(**pairs: list[tuple[int, int]]) -> HardwareTarget:
    return HardwareTarget("toy", {OpKind(kind): frozenset(some) for kind, some in pairs.items()}, SerialLatency())


def _layers(n: int, **more: Any) -> list[LayerSpec]:
    return [LayerSpec(f"l{i}", OpKind.LINEAR, (4, 4), (4,), (4,), **more) for i in range(n)]


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Two to four layers with supported pairs, ties within the network, ties by the user, and pins of all sorts."""
    n = draw(st.integers(2, 4))
    linear = [*draw(st.lists(st.sampled_from(MIXED[1:]), unique=True)), (8, 8)]
    conv = [*draw(st.lists(st.sampled_from(MIXED[1:]), unique=True)), (8, 8)]
    layers = [
        LayerSpec(
            f"l{i}",
            draw(st.sampled_from([OpKind.LINEAR, OpKind.CONV])),
            (4, 4),
            (4,),
            (4,),
            activation_group=draw(st.sampled_from(["", "sum"])),
            weight_group=draw(st.sampled_from(["", "", "embedding"])),
        )
        for i in range(n)
    ]
    pin = {"l0": (8, 8)} if draw(st.booleans()) else {}
    tie = [["l0", "l1"]] if draw(st.booleans()) else []
    return SearchSpace.from_layers(layers, _target(linear=linear, conv=conv), pin=pin, tie=tie)


def _legal(space: SearchSpace) -> list[Policy]:
    """Every legal policy, from each layer's pairs and the decisions' members alone."""
    found = []
    for bits in itertools.product(*(sorted(pairs) for pairs in space.pairs)):
        policy = Policy.of(dict(zip(space.names, bits, strict=True)))
        if all(len({getattr(policy[name], v.role) for name in v.layers}) == 1 for v in space.decisions):
            found.append(policy)
    return found


@settings(deadline=None, max_examples=100)
@given(spaces(), st.integers(0, 1000))
def test_the_shape_of_random_spaces(space: SearchSpace, seed: int) -> None:
    legal = _legal(space)
    assert space.cardinality == len(legal)
    assert set(space.to_policies(space.grid())) == set(legal)
    assert len(space.grid()) == len(legal)
    assert all(policy in space for policy in legal)
    assert space.to_policies(space.to_levels(legal)) == legal
    assert space.decode(space.encode(legal)) == legal
    assert {space.highest(), space.lowest()} <= set(legal)
    rng = np.random.default_rng(seed)
    assert set(space.sample(20, rng)) <= set(legal)
    assert set(space.decode(rng.uniform(-0.5, 1.5, (20, len(space.variables))))) <= set(legal)
    for weight, activation in itertools.product((2, 4, 8), repeat=2):
        assert space.uniform(weight, activation) in space


@settings(deadline=None, max_examples=60)
@given(spaces(), st.integers(0, 1000))
def test_neighbours_of_random_policies(space: SearchSpace, seed: int) -> None:
    policy = space.sample(1, np.random.default_rng(seed))[0]
    neighbours = list(space.neighbours(policy))
    assert len(set(neighbours)) == len(neighbours)
    assert policy not in neighbours
    assert all(neighbour in space for neighbour in neighbours)
    start = space.to_levels([policy])[0]
    for index, size in enumerate(space.sizes):  # legal single moves are neighbours as they are
        for level in range(size):
            moved = start.copy()
            moved[index] = level
            if level != start[index] and space.is_legal(moved[None])[0]:
                assert space.to_policies(moved)[0] in neighbours


@settings(deadline=None, max_examples=60)
@given(spaces(), st.integers(0, 1000))
def test_repair_changes_the_illegal_alone_and_raises_first(space: SearchSpace, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, space.sizes, (10, len(space.sizes)))
    repaired = space.repair_all(levels)
    legal = space.is_legal(levels)
    assert space.is_legal(repaired).all()
    assert (repaired[legal] == levels[legal]).all()
    assert (repaired >= levels).all()


def test_a_product_space() -> None:
    space = SearchSpace.product(["a", "b", "c"], (2, 4, 8), (8,))
    assert space.cardinality == 27
    assert [v.name for v in space.variables] == ["a.weight", "b.weight", "c.weight"]
    assert space.options == ((2, 8), (4, 8), (8, 8))
    policy = Policy.of({"a": (2, 8), "b": (8, 8), "c": (4, 8)})
    assert space.to_levels([policy]).tolist() == [[0, 2, 1]]
    assert space.encode([policy]).tolist() == [[0.0, 1.0, 0.5]]
    assert len(list(space.neighbours(policy))) == 6
    assert space.lowest() == Policy.of(dict.fromkeys("abc", (2, 8)))


def test_bits_come_in_any_order() -> None:
    assert (
        SearchSpace.product(["a"], (8, 2, 4), (8, 4)).options == SearchSpace.product(["a"], (2, 4, 8), (4, 8)).options
    )


def test_one_policy_is_a_space_too() -> None:
    space = SearchSpace.product(["a"], (8,), (8,))
    assert (space.cardinality, space.variables) == (1, ())
    assert space.to_policies(space.grid()) == [space.highest()] == [space.lowest()]
    assert list(space.neighbours(space.highest())) == []
    assert space.sample(2, np.random.default_rng(0)) == [space.highest()] * 2


def test_large_spaces_are_counted_exactly_and_not_enumerated() -> None:
    layers = [LayerSpec(f"l{i}", OpKind.CONV, (4, 4), (4,), (4,)) for i in range(100)]
    space = SearchSpace.from_layers(layers, _target(conv=[(8, 8), (32, 32), (8, 32)]))
    assert space.cardinality == 3**100
    with pytest.raises(InputError, match=rf"the space has {4**100} combinations; expected at most 1048576: sample it"):
        space.grid()


def test_pairs_that_go_together_move_together() -> None:
    space = SearchSpace.from_layers(_layers(2), _target(linear=[(8, 8), (32, 32)]))
    assert space.cardinality == 4
    highest = space.highest()
    assert set(space.neighbours(highest)) == {
        Policy.of({"l0": (8, 8), "l1": (32, 32)}),
        Policy.of({"l0": (32, 32), "l1": (8, 8)}),
    }


def test_ties_of_the_network_and_of_the_user_meet() -> None:
    layers = [*_layers(2, activation_group="sum"), LayerSpec("fc", OpKind.LINEAR, (4, 4), (4,), (4,))]
    target = _target(linear=list(itertools.product((4, 8), (4, 8))))
    space = SearchSpace.from_layers(layers, target, tie=[["l1", "fc"]])
    assert [(v.name, v.layers) for v in space.variables] == [
        ("l0.weight", ("l0",)),
        ("l0.activation", ("l0", "l1", "fc")),
        ("l1.weight", ("l1", "fc")),
    ]
    assert space.cardinality == 8


def test_pins_are_not_searched_and_bits_below_two_only_on_request() -> None:
    target = _target(linear=list(itertools.product((1, 2, 8), (1, 2, 8))))
    space = SearchSpace.from_layers(_layers(2), target, pin={"l0": (1, 8)})
    assert [v.name for v in space.variables] == ["l1.weight", "l1.activation"]
    assert space.highest()["l0"] == (1, 8)
    assert space.cardinality == 4
    assert SearchSpace.from_layers(_layers(1), target, weight_bits=[1, 2]).weight_bits == (1, 2)


def test_option_indices_are_columns_of_a_cost_table() -> None:
    toy = make_toy(3, activation_bits=(4, 8), tie=[["layer0", "layer2"]])
    space = toy.problem.space
    policies = space.sample(20, np.random.default_rng(0))
    columns = space.option_indices(space.to_levels(policies))
    for policy, row in zip(policies, columns, strict=True):
        assert [space.options[i] for i in row] == list(policy.values())
    assert space.option_indices(space.to_levels(policies).reshape(4, 5, -1)).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("weight", "activation", "expected"),
    [(8, 8, (8, 8)), (3, 8, (4, 8)), (5, 4, (8, 4)), (2, 2, (2, 4)), (9, 9, (8, 8))],
)
def test_uniform_takes_the_nearest_choice_from_above(weight: int, activation: int, expected: tuple[int, int]) -> None:
    assert SearchSpace.product(["a"], (2, 4, 8), (4, 8)).uniform(weight, activation)["a"] == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"weight_bits": [3]},
            InputError,
            "target 'toy' does not support 3 weight bits; it supports 2, 8: change --weight",
        ),
        ({"activation_bits": [4]}, InputError, "does not support 4 activation bits; it supports 2, 8"),
        (
            {"weight_bits": [2], "activation_bits": [2]},
            InputError,
            r"none of the bits asked for fits layer 'l0' on target 'toy'; it supports 2/8, 8/2, 8/8",
        ),
        ({"pin": {"l0": (2, 2)}}, InputError, "layer 'l0' is pinned to 2/2 bits, which target 'toy' does not support"),
        (
            {"pin": {"l9": (8, 8)}},
            UnknownName,
            "unknown layer 'l9'; known: l0, l1. Run 'mobo-mpq search --dry-run' to list them.",
        ),
        ({"tie": [["l0", "fc"]]}, UnknownName, "unknown layer 'fc'"),
        (
            {"pin": {"l0": (2, 8), "l1": (8, 8)}, "tie": [["l0", "l1"]]},
            InputError,
            "layers l0, l1 share their weight bits, but no number of bits suits them all; pin them alike",
        ),
    ],
)
def test_what_leaves_a_layer_no_choice_is_refused(arguments: dict, error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message):
        SearchSpace.from_layers(_layers(2), _target(linear=[(2, 8), (8, 2), (8, 8)]), **arguments)


def test_networks_and_kinds_that_a_target_cannot_run_are_refused() -> None:
    with pytest.raises(InputError, match="the network has no quantizable layer"):
        SearchSpace.from_layers([], _target(linear=[(8, 8)]))
    with pytest.raises(InputError, match="does not run layers of kind 'linear', such as 'l0'; it runs conv"):
        SearchSpace.from_layers(_layers(1), _target(conv=[(8, 8)]))
    with pytest.raises(InputError, match="the highest bits everywhere are not a legal policy of this space"):
        SearchSpace.from_layers(_layers(1), _target(linear=[(8, 2), (2, 8)]))
    with pytest.raises(InputError, match="a space needs at least one layer"):
        SearchSpace.product([], (8,), (8,))
    with pytest.raises(InputError, match="layer names repeat"):
        SearchSpace.product(["a", "a"], (8,), (8,))


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ({"l0": (8, 8)}, "the policy is of another model: it lacks 'l1'; expected the layers l0, l1, l2"),
        ({"l0": (8, 8), "l1": (8, 8), "l2": (8, 8), "x": (8, 8)}, "it has 'x'"),
        ({"l1": (8, 8), "l0": (8, 8), "l2": (8, 8)}, "it lists them in another order"),
        ({"l0": (3, 8), "l1": (8, 8), "l2": (8, 8)}, "layer 'l0' has 3 weight bits; expected one of 2, 8"),
        ({"l0": (2, 2), "l1": (8, 8), "l2": (8, 2)}, r"layer 'l0' has 2/2 bits; expected one of 2/8, 8/2, 8/8"),
        ({"l0": (8, 8), "l1": (8, 8), "l2": (8, 2)}, "layers l0, l2 share their activation bits, but the policy gives"),
    ],
)
def test_policies_of_another_space_are_refused(bits: dict, message: str) -> None:
    layers = [LayerSpec(f"l{i}", OpKind.LINEAR, (4, 4), (4,), (4,), activation_group="t" * (i != 1)) for i in range(3)]
    space = SearchSpace.from_layers(layers, _target(linear=[(2, 8), (8, 2), (8, 8)]))
    with pytest.raises(PolicyError, match=message):
        space.to_levels([Policy.of(bits)])
    assert Policy.of(bits) not in space
    assert "l0" not in space
