"""BSQ: from all bits to none, what a bit weighs, and clear endings."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError, TrainingDiverged, UnknownName
from mobo_mpq.graph import Network
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import OpKind
from mobo_mpq.objective import CostObjective, Direction, ObjectiveInfo
from mobo_mpq.policy import Policy
from mobo_mpq.problem import Problem
from mobo_mpq.quant import Quantizer, Role, TensorQuantizer, quantizers
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.toys import SerialLatency, WeightSize
from mobo_mpq.training.learning import Learned, learn
from mobo_mpq.training.recipes import TrainingContext
from mobo_mpq.trial import Recipe

Context = Callable[..., TrainingContext]


def problem_of(
    network: Network,
    bits: Iterable[int] = (2, 4, 8),
    pin: Mapping[str, tuple[int, int]] | None = None,
    tie: Iterable[Sequence[str]] = (),
) -> Problem:
    pairs = frozenset((w, a) for w in bits for a in bits)
    target = HardwareTarget("any", {kind: pairs for kind in OpKind}, SerialLatency())
    space = SearchSpace.from_layers(network.layers, target, pin=pin or {}, tie=tie)
    costs = [CostObjective.from_model(model, network.layers, space) for model in (SerialLatency(), WeightSize())]
    return Problem(network.layers, space, (ObjectiveInfo("accuracy", "", Direction.MAXIMIZE, 0.3), *costs))


def found(
    context: TrainingContext, problem: Problem | None = None, epochs: float = 2.0, seed: int = 0, **options: Any
) -> Learned:
    recipe = Recipe("bsq", epochs=epochs, options=options)
    return learn(recipe, context, problem or problem_of(context.network), seed=seed)


def weight_quantizers(learned: Learned) -> dict[str, TensorQuantizer]:
    assert learned.network is not None
    sites = [(one.site, one) for one in quantizers(learned.network).values()]
    return {site.layers[0]: one for site, one in sites if site is not None and site.role is Role.WEIGHT}


def accuracy(network: nn.Module | None, split: tuple[Tensor, Tensor]) -> float:
    assert network is not None
    with torch.no_grad():
        return float((network(split[0]).argmax(1) == split[1]).double().mean())


def test_strength_0_leaves_all_bits(trained: TrainingContext, test_split: tuple[Tensor, Tensor]) -> None:
    learned = found(trained, strength=0)
    assert learned.policy == Policy.uniform(trained.network.layers, 8, 8)
    assert learned.details["mean_weight_bits"] == 8.0
    assert accuracy(learned.network, test_split) > accuracy(trained.network, test_split) - 0.03


@pytest.mark.parametrize("strength", [1e4, 1e30, 1e300])
@pytest.mark.parametrize("vanish", ["on", "off"])
def test_great_strengths_end_with_the_least_choices(trained: TrainingContext, strength: float, vanish: str) -> None:
    """The device has no layers of 0 bits: the least choice is what they get, and need not lose."""
    learned = found(trained, strength=strength, vanish=vanish)
    assert learned.policy == Policy.uniform(trained.network.layers, 2, 8)
    expected = (3.0, 0.0) if vanish == "on" else (0.0, 2.0)
    assert (learned.details["vanished"], learned.details["mean_weight_bits"]) == expected
    assert learned.network is not None
    assert all(bool(torch.isfinite(p).all()) for p in learned.network.parameters())


def test_bits_fall_as_the_strength_grows(trained: TrainingContext, test_split: tuple[Tensor, Tensor]) -> None:
    learned = [found(trained, strength=strength, epochs=4.0) for strength in (1e-3, 0.03, 1.0)]
    bits = [one.details["mean_weight_bits"] for one in learned]
    assert bits == sorted(bits, reverse=True) and bits[0] > bits[-1]
    assert accuracy(learned[0].network, test_split) > 0.85


def test_the_network_has_the_bits_that_were_found(trained: TrainingContext) -> None:
    learned = found(trained, strength=0.03, epochs=4.0)
    own = learned.network.policy if learned.network is not None else {}
    for name, quantizer in weight_quantizers(learned).items():
        assert isinstance(quantizer, Quantizer)
        assert own[name].weight == quantizer.bits <= learned.policy[name].weight
        assert learned.policy[name].weight == min(b for b in (2, 4, 8) if b >= quantizer.bits)
    assert any(quantizer.bits < 8 for quantizer in weight_quantizers(learned).values())


def test_the_final_fine_tune_starts_from_what_the_planes_describe(trained: TrainingContext) -> None:
    """Without one, weights are integers of the bits found, and none is the lowest that two's complement has."""
    learned = found(trained, strength=0.03, final=0.0)
    assert learned.network is not None
    for quantizer in weight_quantizers(learned).values():
        assert isinstance(quantizer, Quantizer) and quantizer.site is not None
        integers = quantizer.integers(learned.network.get_parameter(quantizer.site.tensor))
        assert integers.abs().max() <= 2 ** (quantizer.bits - 1) - 1
        used = {int(n) for n in integers.abs().unique()}
        assert any(n % 2 for n in used) and max(used).bit_length() == quantizer.bits - 1  # no plane of zeros is left


def test_runs_repeat_and_differ_by_seed(trained: TrainingContext) -> None:
    once, again, other = (found(trained, strength=0.03, seed=seed) for seed in (0, 0, 1))
    assert once.policy == again.policy and once.details == again.details
    states = [learned.network.state_dict() for learned in (once, again, other) if learned.network is not None]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items() if value.shape)


def test_epochs_0_train_nothing(trained: TrainingContext) -> None:
    learned = found(trained, epochs=0.0, strength=1e6)
    assert learned.policy == Policy.uniform(trained.network.layers, 8, 8)
    assert learned.details["steps"] == 0.0


@pytest.mark.parametrize(("asked", "given"), [(0, 8), (2, 2), (3, 4), (8, 8)])
def test_activations_have_the_bits_asked_for_or_the_next_above(
    trained: TrainingContext, asked: int, given: int
) -> None:
    learned = found(trained, epochs=0.1, activation_bits=asked, strength=0)
    assert learned.policy == Policy.uniform(trained.network.layers, 8, given)


def test_one_scale_per_tensor_as_in_the_paper(trained: TrainingContext) -> None:
    learned = found(trained, epochs=0.1, per_channel="off")
    assert {one.axis for one in weight_quantizers(learned).values()} == {None}
    learned = found(trained, epochs=0.1, per_channel="on")
    assert {one.axis for one in weight_quantizers(learned).values()} == {0}


def test_pins_and_float_layers_stay(trained: TrainingContext) -> None:
    first, second, last = (layer.name for layer in trained.network.layers)
    problem = problem_of(trained.network, (2, 8, 32), pin={first: (8, 8), last: (32, 32)})
    learned = found(trained, problem, strength=1e9)
    assert [learned.policy[name].weight for name in (first, second, last)] == [8, 2, 32]
    assert set(weight_quantizers(learned)) == {first, second}
    pinned = problem_of(trained.network, pin={name: (4, 8) for name in (first, second, last)})
    learned = found(trained, pinned, strength=1e9)
    assert learned.policy == Policy.uniform(trained.network.layers, 4, 8) and learned.details["mean_weight_bits"] == 0.0


def test_tied_layers_lose_planes_together(trained: TrainingContext) -> None:
    first, second, last = (layer.name for layer in trained.network.layers)
    problem = problem_of(trained.network, range(2, 9), tie=[(first, last)])
    learned = found(trained, problem, strength=0.02, epochs=3.0)
    bits = {name: quantizer.bits for name, quantizer in weight_quantizers(learned).items()}
    assert bits[first] == bits[last] == learned.policy[first].weight < 8


@pytest.mark.parametrize("epochs", [0.0, 1.0])
def test_a_group_has_the_bits_of_the_layer_that_needs_most(
    context: Context, trained: TrainingContext, epochs: float
) -> None:
    """A layer of zeros needs none, but shares the bits of those that it is tied to."""
    first, second, last = (layer.name for layer in trained.network.layers)
    network = copy.deepcopy(trained.network)
    with torch.no_grad():
        network.get_parameter("second.weight").zero_()
    problem = problem_of(network, range(2, 9), tie=[(second, last)])
    learned = found(context(network=network), problem, strength=0.0, epochs=epochs)
    assert learned.network is not None
    assert learned.policy == learned.network.policy == Policy.uniform(network.layers, 8, 8)
    assert {name: one.bits for name, one in weight_quantizers(learned).items()} == {first: 8, second: 8, last: 8}
    assert learned.details["mean_weight_bits"] == 8.0 and learned.details["vanished"] == 0.0


@pytest.mark.parametrize("epochs", [0.0, 1.0])
def test_a_layer_of_zeros_alone_gets_the_least_choice(
    context: Context, trained: TrainingContext, epochs: float
) -> None:
    network = copy.deepcopy(trained.network)
    with torch.no_grad():
        network.get_parameter("second.weight").zero_()
    learned = found(context(network=network), strength=0.0, epochs=epochs)
    assert learned.network is not None and learned.policy == learned.network.policy
    assert learned.policy["second"].weight == weight_quantizers(learned)["second"].bits == 2


def test_a_layer_that_has_vanished_stays_0(trained: TrainingContext) -> None:
    """Though its planes, all below one half, add up to more."""
    learned = found(trained, strength=0.4, vanish="on", epochs=1.0, period=2.0, final=0.0)
    assert learned.network is not None and 0.0 < learned.details["vanished"] < 3.0
    integers = [
        one.integers(learned.network.get_parameter(one.site.tensor))
        for one in weight_quantizers(learned).values()
        if isinstance(one, Quantizer) and one.site is not None
    ]
    assert sum(not one.any() for one in integers) == learned.details["vanished"]


@pytest.mark.parametrize(("bits", "start"), [((8, 32), 8), ((2, 4, 16, 32), 4)])
def test_more_than_8_bits_are_not_learned(trained: TrainingContext, bits: tuple[int, ...], start: int) -> None:
    problem = problem_of(trained.network, bits)
    learned = found(trained, problem, strength=0.0, epochs=0.5)
    assert learned.policy == Policy.uniform(trained.network.layers, start, start)
    learned = found(trained, problem, strength=1e9, epochs=0.5)
    assert learned.policy == Policy.uniform(trained.network.layers, bits[0], start)


def test_what_saves_nothing_keeps_its_bits(trained: TrainingContext) -> None:
    """Weighed by a cost that only the second layer has, planes of the others are under no pressure."""
    problem = problem_of(trained.network)
    cost = problem.costs[1]
    cost.table[[0, 2]] = cost.table[[0, 2]].mean()
    for by in (cost.info.name, "size", "cost"):
        learned = found(trained, problem, strength=1e9, weights_by=by)
        assert [bits.weight for bits in learned.policy.values()] == ([8, 2, 8] if by == cost.info.name else [2, 2, 2])
    cost.table[:] = 1.0
    with pytest.raises(InputError, match=f"'weights_by' of learner 'bsq' is '{cost.info.name}', but fewer bits of .* "):
        found(trained, problem, weights_by=cost.info.name)
    with pytest.raises(InputError, match="no cost 'watts' in this problem"):
        found(trained, problem, weights_by="watts")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("strength", -1.0, "0 or more"),
        ("strength", math.inf, "0 or more"),
        ("activation_bits", 2.5, "a whole number from 0 to 8"),
        ("activation_bits", 9.0, "a whole number from 0 to 8"),
        ("rate", 0.0, "more than 0, at most 1"),
        ("period", 0.0, "a number above 0"),
        ("final", 1.0, "0 or more, below 1"),
    ],
)
def test_options_out_of_range(trained: TrainingContext, option: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"option '{option}' of learner 'bsq' is {value!r}; expected {expected}"):
        found(trained, **{option: value})


def test_words_that_are_unknown(trained: TrainingContext) -> None:
    for option in ("per_channel", "vanish"):
        with pytest.raises(UnknownName, match=f"unknown value of option '{option}' of learner 'bsq' 'maybe'"):
            found(trained, **{option: "maybe"})
    with pytest.raises(UnknownName, match="unknown option of learner 'bsq' 'alpha'"):
        found(trained, alpha=1.0)


def test_a_loss_that_is_not_finite(context: Context) -> None:
    broken = context(loss=lambda output, target: output.sum() * math.nan)
    with pytest.raises(TrainingDiverged, match="diverged at step 1 of "):
        found(broken)


def test_batches_of_one_class(context: Context, trained: TrainingContext) -> None:
    x, y = next(iter(trained.train))
    learned = found(context(train=[(x, torch.zeros_like(y))] * 4), strength=1e-4)
    assert all(math.isfinite(value) for value in learned.details.values())


def test_a_model_of_one_layer(context: Context, trained: TrainingContext) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network.from_model(nn.Sequential(nn.Linear(2, 3)), trained.calibration[0])
    alone = context(network=network)
    assert [bits.weight for bits in found(alone, strength=0).policy.values()] == [8]
    assert [bits.weight for bits in found(alone, strength=1e9).policy.values()] == [2]
