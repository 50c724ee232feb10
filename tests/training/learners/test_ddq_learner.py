"""DDQ: budgets of every kind, reached from both sides, and clear endings."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.errors import InfeasibleBudget, InputError, TrainingDiverged, UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objective import CostObjective, Direction, ObjectiveInfo
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.problem import Problem
from mobo_mpq.quant import quantizers
from mobo_mpq.quant.ddq import DdqQuantizer
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.toys import SerialLatency, WeightSize
from mobo_mpq.training.learners.ddq import DdqOptions, _Search, gated, gates_of
from mobo_mpq.training.learning import Learned, learn
from mobo_mpq.training.recipes import TrainingContext
from mobo_mpq.training.soft_costs import SoftCost
from mobo_mpq.trial import Recipe

Context = Callable[..., TrainingContext]


class BitOperations:
    """MACs times bits."""

    name, unit = "bops", "bit-op"

    def layer_cost(self, layer: LayerSpec, bits: LayerBits) -> float:
        return float(layer.macs * bits.weight * bits.activation)


def problem_of(
    network: Network, bits: Iterable[int] = (2, 4, 8), pin: Mapping[str, tuple[int, int]] | None = None
) -> Problem:
    pairs = frozenset((w, a) for w in bits for a in bits)
    target = HardwareTarget("any", {kind: pairs for kind in OpKind}, SerialLatency())
    space = SearchSpace.from_layers(network.layers, target, pin=pin or {})
    models = (SerialLatency(), WeightSize(), BitOperations())
    costs = [CostObjective.from_model(model, network.layers, space) for model in models]
    return Problem(network.layers, space, (ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.3), *costs))


def found(
    context: TrainingContext, problem: Problem | None = None, epochs: float = 2.0, seed: int = 0, **options: Any
) -> Learned:
    recipe = Recipe("ddq", epochs=epochs, options=options)
    return learn(recipe, context, problem or problem_of(context.network), seed=seed)


def share(problem: Problem, policy: Policy, cost: str = "latency_s") -> float:
    return problem.cost(cost)(policy) / problem.cost(cost)(problem.space.highest())


def accuracy(network: nn.Module | None, split: tuple[Tensor, Tensor]) -> float:
    assert network is not None
    with torch.no_grad():
        return float((network(split[0]).argmax(1) == split[1]).double().mean())


@pytest.mark.parametrize("cost", ["latency_s", "size_bytes", "bops"])
def test_budgets_of_every_kind_are_kept_and_nearly_spent(trained: TrainingContext, cost: str) -> None:
    problem = problem_of(trained.network)
    for budget in (0.3, 0.6):
        learned = found(trained, problem, cost=cost, budget=budget)
        reached = share(problem, learned.policy, cost)
        assert 0.75 * budget < reached <= budget * (1 + 1e-9)
        assert learned.details["cost_share"] == pytest.approx(reached)


def test_everything_is_affordable_at_the_highest_bits(
    trained: TrainingContext, test_split: tuple[Tensor, Tensor]
) -> None:
    learned = found(trained, budget=1.0)
    assert learned.policy == problem_of(trained.network).space.highest() and learned.details["flips"] == 0.0
    assert accuracy(learned.network, test_split) > accuracy(trained.network, test_split) - 0.03


@pytest.mark.parametrize("start", ["above", "below"])
def test_a_steep_penalty_reaches_the_budget_from_both_sides(context: Context, start: str) -> None:
    """Two layers, gates alone: from all on or all off, by the gradients of penalty and task."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(64, 2)
    network = Network.from_model(model, x)
    with torch.no_grad():
        y = model(x)
    wide = context(network=network, calibration=[x])
    problem = problem_of(network, range(2, 9))
    options = DdqOptions(budget=0.4, alpha=64.0, levels="uniform")
    soft = SoftCost(problem, "size_bytes")
    copied, gates = gated(wide, problem.space, options)
    weights = [gate for gate, d in zip(gates, problem.space.decisions, strict=True) if d.role == "weight"]
    if start == "below":
        for gate in weights:
            gate.logits.data.fill_(-1e-3)
    sides = {share(problem, policy_at(problem, gates), "size_bytes") > 0.4}
    search = _Search(gates, soft, options, 400)
    trail = []
    for _ in range(400):
        copied.zero_grad()
        loss = (copied(x) - y).square().mean()
        (loss + search.penalty(loss.detach())).backward()
        search.step()
        trail.append(float(soft.interpolated(torch.tensor([float(gate.bits) for gate in gates]))))
    assert sides == {start == "above"}
    late = torch.tensor(trail[200:])
    assert float(late.mean()) == pytest.approx(0.4, abs=0.08)
    assert min(abs(late - 0.4)) < 0.05


def policy_at(problem: Problem, gates: Iterable[Any]) -> Policy:
    of = {(d.role, name): g.bits for d, g in zip(problem.space.decisions, gates, strict=True) for name in d.layers}
    return Policy.of({name: (of["weight", name], of["activation", name]) for name in problem.space.names})


def test_the_penalty_is_zero_within_the_budget_and_grows_beyond(trained: TrainingContext) -> None:
    problem = problem_of(trained.network)
    soft, loss = SoftCost(problem), torch.tensor(2.0)
    _, gates = gated(trained, problem.space, DdqOptions())
    within = _Search(gates, soft, DdqOptions(budget=1.0), 5).penalty(loss)
    assert within.item() == 0.0 and not within.requires_grad
    beyond = _Search(gates, soft, DdqOptions(budget=0.5), 5).penalty(loss)
    assert beyond.item() == pytest.approx(2.0 * (2.0**4 - 1.0), rel=1e-5)
    beyond.backward()
    assert all(gate.logits.grad is not None and bool((gate.logits.grad > 0).all()) for gate in gates)


def test_a_loss_below_zero_is_no_reward_for_being_over_the_budget(context: Context) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 2)
    network = Network.from_model(nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)), x)
    problem = problem_of(network)
    soft, options = SoftCost(problem, "size_bytes"), DdqOptions(budget=0.3, cost="size_bytes")
    copied, gates = gated(context(network=network, calibration=[x]), problem.space, options)
    search, before = _Search(gates, soft, options, 100), policy_at(problem, gates)
    for _ in range(100):
        copied.zero_grad()
        loss = copied(x).square().mean() - 1e3
        (loss + search.penalty(loss.detach())).backward()
        search.step()
    assert share(problem, before, "size_bytes") == 1.0
    assert share(problem, policy_at(problem, gates), "size_bytes") <= 0.35


@pytest.mark.parametrize(
    ("logits", "losses"),
    [
        ((0.5, 0.25), (0.0, -0.5, -0.75)),
        ((0.5, -0.5), (0.0, -0.5, -0.505)),
        ((-0.5, -0.75), (0.0, -0.005, -0.0075)),
        ((-0.3, 0.4), (0.0, -0.007, -0.014)),  # on behind one that is off: in use are the lowest bits
        ((0.25, 0.5), (0.0, -0.25, -0.5)),
        ((-1.0, -1.0), (0.0, 0.0, 0.0)),
    ],
)
def test_a_choice_loses_what_its_gates_are_not_worth(
    trained: TrainingContext, logits: tuple[float, float], losses: tuple[float, float, float]
) -> None:
    problem = problem_of(trained.network)
    gates = gates_of(problem.space, torch.device("cpu"))
    gates[0].logits.data = torch.tensor(logits)
    found = _Search(gates, SoftCost(problem), DdqOptions(), 5).losses()
    assert found[0] == pytest.approx(losses)
    assert found[1] == pytest.approx((0.0, -1.0, -1.5))  # as gates start


class Branches(nn.Module):
    """Two layers of one size, of which the output hears one well, and the other hardly."""

    def __init__(self, heard: str) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.loudness = (1.0, 0.01) if heard == "one" else (0.01, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.loudness[0] * self.one(x) + self.loudness[1] * self.two(x)


@pytest.mark.parametrize("choices", [(2, 8), (2, 4, 8)])
def test_gates_alone_give_the_bits_to_the_layer_that_is_heard(context: Context, choices: tuple[int, ...]) -> None:
    """Equally large and alike in all but their effect: nothing else tells them apart."""
    x = torch.randn(128, 8, generator=torch.Generator().manual_seed(0))
    bits = {}
    for heard in ("one", "two"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Branches(heard)
        with torch.no_grad():
            batches = [(part, model(part)) for part in x.split(16)]
        network = Network.from_model(model, x)
        distance = context(network=network, train=batches, calibration=[x], loss=nn.functional.mse_loss)
        problem = problem_of(network, choices)
        middle = 0.5 * (1.0 + choices[0] / choices[-1])  # the highest bits for one, the lowest for the other
        for search in (0.0, 0.6):
            learned = found(distance, problem, 12.0, cost="size_bytes", budget=middle, search=search)
            bits[heard, search] = {name: pair.weight for name, pair in learned.policy.items()}
    assert bits["one", 0.0] == bits["two", 0.0]  # blindly
    assert bits["one", 0.6] == {"one": choices[-1], "two": choices[0]}
    assert bits["two", 0.6] == {"one": choices[0], "two": choices[-1]}


@pytest.mark.parametrize("choices", [(32,), (16, 32), (2, 8)])
def test_gates_of_every_decision_lie_on_the_device(trained: TrainingContext, choices: tuple[int, ...]) -> None:
    space = problem_of(trained.network, choices).space
    gates = gates_of(space, torch.device("meta"))
    assert [gate.precisions for gate in gates] == [decision.choices for decision in space.decisions]
    assert {gate.logits.device.type for gate in gates} == {"meta"}


@pytest.mark.parametrize("levels", ["learned", "uniform"])
@pytest.mark.parametrize("ranges", ["own", "shared"])
def test_the_network_has_the_bits_and_levels_that_were_found(
    trained: TrainingContext, test_split: tuple[Tensor, Tensor], levels: str, ranges: str
) -> None:
    learned = found(trained, budget=0.4, levels=levels, ranges=ranges)
    assert learned.network is not None and learned.network.policy == learned.policy
    for quantizer in quantizers(learned.network).values():
        assert isinstance(quantizer, DdqQuantizer) and quantizer.site is not None
        bits = getattr(learned.policy[quantizer.site.layers[0]], quantizer.site.role)
        assert quantizer.gates.bits == bits and not quantizer.gates.learning
        weight = quantizer.site.role == "weight"
        if weight:
            rows = quantizer(learned.network.get_parameter(quantizer.site.tensor))
            assert max(len(row.unique()) for row in rows) <= 2**bits
        learns = levels == "learned"
        assert any(bool(shift.any()) for shift in quantizer.shifts) == learns
    assert accuracy(learned.network, test_split) > 0.8


def test_only_those_bits_are_low_that_a_layer_can_do_without(trained: TrainingContext) -> None:
    problem = problem_of(trained.network)
    learned = found(trained, problem, epochs=4.0, cost="size_bytes", budget=0.4)
    bits = {name: pair.weight for name, pair in learned.policy.items()}
    assert bits["second"] < max(bits["first"], bits["last"])  # 576 of the 696 weights


def test_runs_repeat_and_differ_by_seed(trained: TrainingContext) -> None:
    once, again, other = (found(trained, budget=0.4, seed=seed) for seed in (0, 0, 1))
    assert once.policy == again.policy and once.details == again.details
    states = [learned.network.state_dict() for learned in (once, again, other) if learned.network is not None]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())


def test_states_restore_the_network(trained: TrainingContext) -> None:
    problem, options = problem_of(trained.network), DdqOptions(budget=0.4)
    learned = found(trained, problem, budget=0.4)
    empty, _ = gated(trained, problem.space, options)
    assert learned.network is not None
    empty.load_state_dict(learned.network.state_dict())
    x = trained.calibration[0]
    assert torch.equal(empty(x), learned.network(x))


@pytest.mark.parametrize(("epochs", "search"), [(0.0, 0.6), (0.5, 0.0), (0.5, 1.0)])
def test_short_searches_keep_the_budget(trained: TrainingContext, epochs: float, search: float) -> None:
    problem = problem_of(trained.network)
    learned = found(trained, problem, epochs=epochs, search=search, budget=0.3)
    assert share(problem, learned.policy) <= 0.3 * (1 + 1e-9)
    assert learned.details["steps"] == 16 * epochs


def test_budgets_of_the_problem_are_kept_too(trained: TrainingContext) -> None:
    plain = problem_of(trained.network)
    size = 0.3 * plain.cost("size_bytes")(plain.space.highest())
    problem = Problem(plain.layers, plain.space, plain.objectives, {"size_bytes": size})
    learned = found(trained, problem, budget=0.9)
    assert problem.broken_budget(learned.policy) is None


def test_pinned_layers_keep_their_bits(trained: TrainingContext) -> None:
    problem = problem_of(trained.network, pin={"first": (8, 8)})
    learned = found(trained, problem, budget=0.3)
    assert learned.policy["first"] == (8, 8)
    pinned = problem_of(trained.network, pin={name: (4, 8) for name in problem.space.names})
    learned = found(trained, pinned, budget=1.0)
    assert learned.policy == pinned.space.highest() and learned.details["flips"] == 0.0


def test_layers_that_may_stay_in_float(trained: TrainingContext) -> None:
    problem = problem_of(trained.network, (8, 32))
    learned = found(trained, problem, cost="size_bytes", budget=0.5)
    assert {pair.weight for pair in learned.policy.values()} == {8, 32}
    floating = problem_of(trained.network, (32,))
    assert found(trained, floating, epochs=0.5, budget=1.0).policy == floating.space.highest()


def test_one_layer_and_batches_of_one_class(context: Context) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 2)
    network = Network.from_model(nn.Sequential(nn.Linear(2, 3)), x)
    batches = [(x, torch.zeros(32, dtype=torch.long)), (x, torch.full((32,), 2))] * 4
    problem = problem_of(network)
    learned = found(context(network=network, train=batches, calibration=[x]), problem, budget=0.3)
    assert share(problem, learned.policy) <= 0.3 * (1 + 1e-9)
    assert learned.network is not None
    assert all(bool(torch.isfinite(p).all()) for p in learned.network.parameters())


@pytest.mark.parametrize(
    ("budget", "changed"),
    [(0.9, {"alpha": 300.0}), (0.9, {"gate_rate": 1e30}), (0.26, {"alpha": 64.0}), (0.08, {"alpha": 32.0})],
)
def test_great_strengths_end_within_the_budget(
    trained: TrainingContext, budget: float, changed: dict[str, float]
) -> None:
    problem = problem_of(trained.network)
    learned = found(trained, problem, epochs=1.0, cost="bops", budget=budget, **changed)
    assert share(problem, learned.policy, "bops") <= budget * (1 + 1e-9) and learned.details["flips"] > 0


@pytest.mark.parametrize("alpha", [19.0, 64.0])
def test_a_steep_penalty_ends_at_a_limit_and_keeps_its_slope(trained: TrainingContext, alpha: float) -> None:
    problem = problem_of(trained.network)
    soft, options = SoftCost(problem), DdqOptions(budget=0.5, alpha=alpha)
    _, gates = gated(trained, problem.space, options)
    penalty = _Search(gates, soft, options, 5).penalty(torch.tensor(2.0))
    exponent = min(alpha * math.log(2.0), 20.0)  # everything on costs twice the budget
    assert penalty.item() == pytest.approx(2.0 * math.expm1(exponent), rel=1e-4)
    penalty.backward()
    others = gates_of(problem.space, torch.device("cpu"))
    soft.interpolated(torch.stack([gate.effective_bits() for gate in others])).backward()
    slope = 2.0 * alpha * math.exp(exponent)  # by the share of the cost, which is 1
    for gate, other in zip(gates, others, strict=True):
        torch.testing.assert_close(gate.logits.grad, slope * other.logits.grad, rtol=1e-4, atol=0.0)


def test_losses_that_are_not_finite_end_the_training(context: Context, trained: TrainingContext) -> None:
    broken = context(loss=lambda output, target: output.sum() * math.nan)
    with pytest.raises(TrainingDiverged, match="diverged at step 1 of"):
        found(broken, budget=0.5)
    with pytest.raises(TrainingDiverged, match="diverged at step 1 of"):  # a penalty beyond all numbers
        found(trained, budget=0.3, alpha=1e30)
    x, y = next(iter(trained.train))
    spoilt = [(x.index_fill(0, torch.tensor([3]), math.nan), y)] * 4
    with pytest.raises(TrainingDiverged, match="diverged at step 1 of 8: its loss is nan"):
        found(context(train=spoilt))


def test_a_budget_below_the_cheapest_policy_is_refused(trained: TrainingContext) -> None:
    with pytest.raises(InfeasibleBudget, match="budget 'latency_s' of .* is impossible: the cheapest legal policy"):
        found(trained, budget=0.01)
    with pytest.raises(InputError, match="no cost 'energy_j' in this problem; it has latency_s, size_bytes, bops"):
        found(trained, cost="energy_j")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("budget", 0.0, "more than 0, at most 1"),
        ("budget", 1.1, "more than 0, at most 1"),
        ("alpha", 0.0, "a number above 0"),
        ("gate_rate", -1.0, "0 or more"),
        ("search", 1.5, "0 to 1"),
        ("level_rate", math.inf, "0 or more"),
    ],
)
def test_options_out_of_range(trained: TrainingContext, option: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"option '{option}' of learner 'ddq' is {value!r}; expected {expected}"):
        found(trained, **{option: value})


def test_other_words_and_names(trained: TrainingContext) -> None:
    with pytest.raises(UnknownName, match="unknown value of option 'levels' of DDQ 'free'; known: learned, uniform"):
        found(trained, levels="free")
    with pytest.raises(UnknownName, match="unknown option of learner 'ddq' 'bugdet'.*Did you mean 'budget'"):
        found(trained, bugdet=0.5)
    with pytest.raises(InputError, match="option 'lr' of the fine-tune is 0.0; expected a number above 0"):
        found(trained, lr=0)
