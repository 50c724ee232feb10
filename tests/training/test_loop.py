import math
from typing import Any

import pytest
import torch

from mobo_mpq.errors import InputError, TrainingDiverged
from mobo_mpq.policy import Policy
from mobo_mpq.training.loop import Extras, Settings, cosine, finetune
from mobo_mpq.training.recipes import TrainingContext, apply_uncalibrated, default_recipe, run_recipe
from mobo_mpq.trial import Recipe


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("lr", 0.0, "a number above 0"),
        ("lr", math.nan, "a number above 0"),
        ("scale_lr", -1.0, "0 or more"),
        ("warmup", 1.0, "0 or more, below 1"),
        ("clip", math.inf, "0 or more"),
        ("distill", 1.5, "0 to 1"),
        ("temperature", 0.0, "a number above 0"),
    ],
)
def test_settings_out_of_range(option: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=f"option '{option}' of the fine-tune is {value!r}; expected {expected}"):
        Settings(**{option: value})


def test_cosine_rises_then_falls_to_zero() -> None:
    factors = [cosine(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0 == max(factors)
    assert factors[55] == pytest.approx(0.5)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.0 < factors[-1] < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_schedules_move(steps: int) -> None:
    assert all(cosine(step, steps, 0.0) > 0 for step in range(steps))
    assert sum(cosine(step, steps, 0.9) for step in range(steps)) > 0


def calibrated(context: TrainingContext, bits: int = 4) -> Any:
    return run_recipe(Recipe("qat", epochs=0), context, Policy.uniform(context.network.layers, bits, bits), seed=0)


def changes(context: TrainingContext, settings: Settings, steps: int = 1) -> dict[str, float]:
    """Largest change within each parameter, relative to the parameter's root mean square."""
    network = calibrated(context)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    finetune(network, context.train, context.loss, steps, settings, context.network)
    return {
        name: float((parameter.detach() - before[name]).abs().max() / before[name].square().mean().sqrt())
        for name, parameter in network.named_parameters()
    }


def test_rates_are_relative_to_the_size_of_each_parameter(trained: TrainingContext) -> None:
    """Adam's first step has the size of the learning rate, whatever the gradient."""
    for name, change in changes(trained, Settings(lr=0.02, scale_lr=0.005, warmup=0.0)).items():
        assert change == pytest.approx(0.005 if name.startswith("quantizers.") else 0.02, rel=0.01), name


def test_step_sizes_can_be_held(trained: TrainingContext) -> None:
    moved = changes(trained, Settings(scale_lr=0.0), steps=3)
    assert {name for name, change in moved.items() if change == 0.0} == {n for n in moved if "quantizers." in n}


def test_stops_after_the_steps(trained: TrainingContext) -> None:
    seen = []

    def batches() -> Any:
        for batch in trained.train:
            seen.append(batch)
            yield batch

    finetune(calibrated(trained), batches(), trained.loss, 3, Settings(), trained.network)
    assert len(seen) == 3


def test_distillation_alone_pulls_towards_the_float_network(trained: TrainingContext) -> None:
    """With wrong labels only the float network can teach."""
    x = torch.cat([x for x, _ in trained.train])
    wrong = [(x, torch.zeros(len(x), dtype=torch.long))]

    @torch.no_grad()
    def gap(network: torch.nn.Module) -> float:
        return float((network(x).softmax(1) - trained.network(x).softmax(1)).abs().mean())

    gaps: dict[float, float] = {}
    for weight in (0.0, 1.0):
        network = calibrated(trained, 3)
        finetune(network, wrong * 40, trained.loss, 40, Settings(distill=weight), trained.network)
        gaps[weight] = gap(network)
    start = gap(calibrated(trained, 3))
    assert gaps[1.0] < start < gaps[0.0]


def test_distillation_needs_class_indices(trained: TrainingContext) -> None:
    """A regression has nothing to soften: the task's loss is all there is."""
    states = []
    for weight in (0.0, 1.0):
        network = calibrated(trained)
        batches = [(torch.ones(4, 2), torch.ones(4, 3))] * 3
        finetune(network, batches, torch.nn.functional.mse_loss, 3, Settings(distill=weight), trained.network)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_says_when_and_what_to_do(trained: TrainingContext, where: str) -> None:
    names = [layer.name for layer in trained.network.layers]
    policy = Policy.uniform(trained.network.layers, 8, 8).with_bits(names[1], weight=3)
    network = run_recipe(Recipe("qat", epochs=0), trained, policy, seed=0)
    calls = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) < 3:
            return trained.loss(output, target)
        return output.sum() * math.nan if where == "loss" else (output * 0.0).sqrt().sum()

    expected = (
        f"diverged at step 3 of 5: its {where} .*nan.*layer '{names[1]}', W3A8: lower the option 'lr' \\(now 0.02\\)"
    )
    with pytest.raises(TrainingDiverged, match=expected):
        finetune(network, trained.train, loss, 5, Settings(lr=0.02, distill=0.0), trained.network)


def test_divergence_without_quantizers_asks_for_no_more_bits(trained: TrainingContext) -> None:
    expected = r"diverged at step 1 of 2: its loss is nan: lower the option 'lr' \(now 0.01\)$"
    with pytest.raises(TrainingDiverged, match=expected):
        finetune(
            calibrated(trained, 32),
            trained.train,
            lambda *_: torch.tensor(math.nan, requires_grad=True),
            2,
            Settings(distill=0.0),
            trained.network,
        )


def test_uncalibrated_network_is_an_error(trained: TrainingContext) -> None:
    policy = Policy.uniform(trained.network.layers, 4, 4)
    network = apply_uncalibrated(trained, policy, default_recipe("qat"))
    with pytest.raises(InputError, match="has seen no data yet"):
        finetune(network, trained.train, trained.loss, 1, Settings(), trained.network)


def test_learners_add_rates_penalties_and_steps(trained: TrainingContext) -> None:
    """Adam's first step is the rate: absolute for what has one of its own, in the network and beside it."""
    network = calibrated(trained)
    inside = next(iter(network.parameters()))
    beside = torch.nn.Parameter(torch.tensor([100.0, -100.0]))
    held = torch.nn.Parameter(torch.ones(1))
    before = inside.detach().clone()
    seen: list[float] = []
    done: list[int] = []

    def penalty(loss: torch.Tensor) -> torch.Tensor:
        assert not loss.requires_grad
        seen.append(float(loss))
        return 1e4 * beside.sum() + held.sum()

    extras = Extras([(inside, 0.25), (beside, 0.5), (held, 0.0)], penalty, done.append)
    plain = Settings(warmup=0.0, distill=0.0)
    finetune(network, trained.train, trained.loss, 1, plain, trained.network, extras=extras)
    assert float((inside.detach() - before).abs().max()) == pytest.approx(0.25, rel=1e-3)
    assert beside.tolist() == pytest.approx([99.5, -100.5])
    assert beside.grad is not None and beside.grad.tolist() == [1e4, 1e4]  # not clipped
    assert held.item() == 1.0 and done == [1] and len(seen) == 1


def test_penalties_that_are_not_finite_end_the_fine_tune(trained: TrainingContext) -> None:
    beside = torch.nn.Parameter(torch.zeros(1))
    infinite = Extras([(beside, 0.1)], lambda loss: loss * torch.inf + beside.sum())
    with pytest.raises(TrainingDiverged, match="diverged at step 1 of 2: its loss is inf"):
        finetune(calibrated(trained), trained.train, trained.loss, 2, Settings(), trained.network, extras=infinite)
    steep = Extras([(beside, 0.1)], lambda loss: beside.sum().sqrt())
    with pytest.raises(TrainingDiverged, match="diverged at step 1 of 2: its gradient has norm inf"):
        finetune(calibrated(trained), trained.train, trained.loss, 2, Settings(), trained.network, extras=steep)
