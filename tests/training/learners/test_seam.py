"""SEAM: mixtures over a network, the budget, the policy found, and clear endings."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.errors import InfeasibleBudget, InputError, TrainingDiverged, UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import OpKind
from mobo_mpq.objective import CostObjective, Direction, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.quant import LsqQuantizer, LsqScheme, apply_policy, calibrate, quantizers
from mobo_mpq.quant.mixture import MixtureQuantizer
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.toys import SerialLatency, WeightSize
from mobo_mpq.training.data import first_inputs
from mobo_mpq.training.learners.seam import mixed, settled
from mobo_mpq.training.learning import Learned, learn
from mobo_mpq.training.losses import default_loss
from mobo_mpq.training.recipes import TrainingContext
from mobo_mpq.trial import Recipe

BITS = (2, 4, 8)
Context = Callable[..., TrainingContext]


def problem_of(
    network: Network, bits: tuple[int, ...] = BITS, pin: Mapping[str, tuple[int, int]] | None = None
) -> Problem:
    pairs = frozenset((w, a) for w in bits for a in bits)
    target = HardwareTarget("any", {kind: pairs for kind in OpKind}, SerialLatency())
    space = SearchSpace.from_layers(network.layers, target, pin=pin or {})
    costs = [CostObjective.from_model(model, network.layers, space) for model in (SerialLatency(), WeightSize())]
    return Problem(network.layers, space, (ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.3), *costs))


def found(context: TrainingContext, problem: Problem | None = None, epochs: float = 1.0, **options: Any) -> Learned:
    recipe = Recipe("seam", epochs=epochs, options=options)
    return learn(recipe, context, problem or problem_of(context.network), seed=0)


def one_hot(network: Any, space: SearchSpace, policy: Policy) -> None:
    """Let every mixing have one choice alone."""
    for quantizer in quantizers(network).values():
        assert isinstance(quantizer, MixtureQuantizer) and quantizer.site is not None
        bits = getattr(policy[quantizer.site.layers[0]], quantizer.site.role)
        with torch.no_grad():
            quantizer.mixing.logits.copy_(torch.tensor([1e4 * (b == bits) for b in quantizer.mixing.choices]))


def test_a_network_of_mixtures_is_each_of_its_policies(trained: TrainingContext) -> None:
    """Ranges apart: activations are calibrated behind mixtures of weights, so both get the same."""
    space = problem_of(trained.network).space
    x = torch.cat([x for x, _ in trained.train])
    names = list(space.names)
    policy = Policy.uniform(trained.network.layers, 4, 8).with_bits(names[1], weight=2, activation=4)
    network, mixings = mixed(trained.network, space)
    assert [mixing.choices for mixing in mixings] == [BITS] * len(space.decisions)
    one_hot(network, space, policy)
    calibrate(network, trained.calibration)
    plain = apply_policy(
        trained.network, policy, weight=LsqScheme(), activation=LsqScheme(symmetric=False, per_channel=False)
    )
    calibrate(plain, trained.calibration)
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(network(x), expected, rtol=0, atol=0)
        final = settled(network, space, policy)
        assert torch.equal(final(x), expected)
    assert final.policy == policy
    assert final.state_dict().keys() == plain.state_dict().keys()


def test_choices_of_16_and_32_bits_leave_tensors_alone(trained: TrainingContext) -> None:
    space = problem_of(trained.network, (4, 16), pin={trained.network.layers[0].name: (16, 16)}).space
    network, _ = mixed(trained.network, space)
    sites = [quantizer.site for quantizer in quantizers(network).values()]
    assert len(sites) == 4 and all(s is not None and trained.network.layers[0].name not in s.layers for s in sites)
    calibrate(network, trained.calibration)
    x = trained.calibration[0]
    final = settled(network, space, space.highest())
    with torch.no_grad():
        assert torch.equal(final(x), trained.network(x))


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("cost", ["", "size_bytes"])
def test_the_budget_is_kept_and_used(trained: TrainingContext, budget: float, cost: str) -> None:
    problem = problem_of(trained.network)
    learned = found(trained, problem, epochs=2.0, budget=budget + 0.2 * bool(cost), cost=cost)
    priced = problem.cost(cost or "latency_s")
    share = priced(learned.policy) / priced(problem.space.highest())
    assert 0.3 * (budget + 0.2 * bool(cost)) < share <= budget + 0.2 * bool(cost) + 1e-9
    assert learned.details["cost_share"] == pytest.approx(share)
    assert learned.details["steps"] == 32.0
    assert isinstance(learned.network, Network) and learned.network.meta["policy"] == learned.policy
    assert {type(quantizer) for quantizer in quantizers(learned.network).values()} == {LsqQuantizer}


def test_the_looser_the_budget_the_more_mixtures_cost(trained: TrainingContext) -> None:
    shares = {b: found(trained, epochs=3.0, budget=b).details["expected_cost_share"] for b in (0.08, 0.15, 1.0)}
    assert shares[0.08] < shares[0.15] < 0.17
    assert shares[1.0] > 0.4


def test_without_strength_nothing_pulls_at_the_cost(trained: TrainingContext) -> None:
    free = found(trained, epochs=2.0, budget=0.1, strength=0.0).details["expected_cost_share"]
    assert free > 2 * found(trained, epochs=2.0, budget=0.1).details["expected_cost_share"]


def test_budgets_of_the_study_hold_too(trained: TrainingContext) -> None:
    problem = problem_of(trained.network)
    size = problem.cost("size_bytes")
    tight = replace(problem, budgets={"size_bytes": 0.4 * size(problem.space.highest())})
    assert tight.broken_budget(found(trained, tight, budget=0.9).policy) is None


def test_the_same_seed_finds_the_same_and_the_margin_matters(trained: TrainingContext) -> None:
    runs = [found(trained, margin=margin) for margin in (0.0, 0.0, 2.0)]
    states = [run.network.state_dict() for run in runs if run.network is not None]
    assert runs[0].policy == runs[1].policy and runs[0].details == runs[1].details
    if states[0].keys() == states[1].keys():
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert runs[0].details != runs[2].details


def test_the_float_network_stays(trained: TrainingContext) -> None:
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    found(trained)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.network.state_dict().items())


def test_zero_epochs_are_a_policy_too(trained: TrainingContext) -> None:
    learned = found(trained, epochs=0.0, budget=0.5)
    assert learned.details["steps"] == 0.0
    assert learned.details["cost_share"] <= 0.5


def test_a_space_of_pins_alone(trained: TrainingContext) -> None:
    pins = {layer.name: (4, 8) for layer in trained.network.layers}
    learned = found(trained, problem_of(trained.network, pin=pins), budget=1.0)
    assert learned.policy == Policy.uniform(trained.network.layers, 4, 8)


def test_a_network_of_one_layer_and_batches_of_one_class() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2))
    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    batches = [(x, torch.ones(8, dtype=torch.long))] * 4
    context = TrainingContext(Network.from_model(model, x), batches, default_loss, first_inputs(batches, 1, 0))
    learned = found(context, budget=0.3)
    assert len(learned.policy) == 1 and learned.details["cost_share"] <= 0.3


def test_losses_that_are_not_finite_end_the_training(context: Context) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.sum() * math.nan

    with pytest.raises(TrainingDiverged, match="diverged at step 1 of 16: its loss is nan"):
        found(context(loss=loss))


def test_a_strength_that_drowns_the_loss_still_ends(trained: TrainingContext) -> None:
    learned = found(trained, budget=0.1, strength=1e10)
    assert learned.details["cost_share"] <= 0.1
    with pytest.raises(TrainingDiverged, match="its gradient has norm inf"):
        found(trained, budget=0.1, strength=1e30)


def test_targets_without_classes_need_a_margin_of_zero(context: Context) -> None:
    x, y = next(iter(context().train))
    batches = [(x, torch.ones(len(x), 3))] * 2
    regression = context(train=batches, loss=nn.functional.mse_loss)
    with pytest.raises(InputError, match="option 'margin' needs one class for each of the 32 samples"):
        found(regression)
    assert found(regression, margin=0.0).details["steps"] == 2.0


def test_budgets_that_nothing_keeps_are_refused(trained: TrainingContext) -> None:
    with pytest.raises(InfeasibleBudget, match="latency_s"):
        found(trained, budget=0.001)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("budget", 0.0, "a number above 0"),
        ("budget", math.nan, "a number above 0"),
        ("margin", -1.0, "0 or more"),
        ("strength", math.inf, "0 or more"),
        ("reach", 0.0, "a number above 0"),
        ("temperature", 1.5, "more than 0, at most 1"),
        ("distill", 2.0, "0 to 1"),
    ],
)
def test_options_out_of_range(trained: TrainingContext, option: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"option '{option}' of learner 'seam' is {value!r}; expected {expected}"):
        found(trained, **{option: value})


def test_unknown_options_and_costs(trained: TrainingContext) -> None:
    with pytest.raises(UnknownName, match="'marge'"):
        found(trained, marge=1.0)
    with pytest.raises(InputError, match="no cost 'energy_j'"):
        found(trained, cost="energy_j")
