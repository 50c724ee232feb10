import numpy as np
import pytest

from mobo_mpq.errors import InputError
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective, Direction, Measurement, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.toys import SerialLatency, make_toy


def test_directions_may_come_as_strings() -> None:
    assert ObjectiveInfo("accuracy", "", "maximize", 0.1).sign == 1.0  # type: ignore[arg-type]
    assert ObjectiveInfo("loss", "", "minimize", 0.1).direction is Direction.MINIMIZE  # type: ignore[arg-type]
    assert ObjectiveInfo("loss", "", Direction.MINIMIZE, 0.1).sign == -1.0


def test_a_standard_error_is_unknown_unless_said() -> None:
    assert Measurement(0.5).stderr is None


@pytest.mark.parametrize(
    ("direction", "reference", "message"),
    [
        ("up", 0.0, "objective 'accuracy' has direction 'up'; expected 'minimize' or 'maximize'"),
        ("maximize", float("nan"), "objective 'accuracy' has reference nan; expected a finite number"),
    ],
)
def test_descriptions_that_are_none_are_refused(direction: Direction, reference: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ObjectiveInfo("accuracy", "", direction, reference)


def test_a_cost_is_the_sum_over_layers() -> None:
    toy = make_toy(4, activation_bits=(4, 8), tie=[["layer1", "layer3"]])
    cost = toy.problem.costs[0]
    policies = toy.problem.space.sample(10, np.random.default_rng(0))
    expected = [
        sum(SerialLatency().layer_cost(layer, policy[layer.name]) for layer in toy.problem.layers)
        for policy in policies
    ]
    assert [cost(policy) for policy in policies] == pytest.approx(expected, rel=1e-12)
    levels = toy.problem.space.to_levels(policies)
    assert cost.of_levels(levels.reshape(2, 5, -1)).ravel() == pytest.approx(expected, rel=1e-12)


def test_the_reference_of_a_cost_is_that_of_the_highest_bits() -> None:
    toy = make_toy(4)
    info = toy.problem.costs[0].info
    assert (info.name, info.unit, info.direction) == ("latency_s", "s", Direction.MINIMIZE)
    assert info.reference == toy.problem.costs[0](toy.problem.space.highest())


def test_pairs_that_are_not_legal_have_no_price() -> None:
    layers = [LayerSpec("a", OpKind.LINEAR, (4, 4), (4,), (4,))]
    target = HardwareTarget("toy", {OpKind.LINEAR: frozenset({(8, 8), (4, 4)})}, SerialLatency())
    space = SearchSpace.from_layers(layers, target)
    cost = CostObjective.from_model(SerialLatency(), layers, space)
    assert np.isnan(cost.table[0]).tolist() == [False, True, True, False]
    assert cost(Policy.of({"a": (4, 4)})) == pytest.approx(256e-9)


def test_many_policies_are_priced_as_one_by_one() -> None:
    toy = make_toy(5, activation_bits=(4, 8), tie=[["layer1", "layer3"]])
    cost, space = toy.problem.costs[0], toy.problem.space
    policies = space.sample(2500, np.random.default_rng(0))
    levels = space.to_levels(policies)
    assert space.to_policies(levels) == policies
    costs = cost.of_levels(levels)
    assert costs.shape == (2500,)
    assert costs[::97].tolist() == [cost(policy) for policy in policies[::97]]
    assert cost.of_levels(levels.reshape(50, 50, -1)).ravel().tolist() == costs.tolist()
    assert cost.of_levels(levels[:0]).shape == (0,) and space.to_levels([]).shape == (0, len(space.variables))
