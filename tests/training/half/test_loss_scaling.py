"""Fine-tunes in float16: what they need, what they count, and how they end when nothing helps."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mobo_mpq.errors import InputError, TrainingDiverged, UnknownName
from mobo_mpq.policy import Policy
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training.data import passes
from mobo_mpq.training.half.scaling import COUNT_INTERVAL, LOSS_SCALINGS, PATIENCE, Half, arithmetic_of
from mobo_mpq.training.half.shares import gradient_tallies
from mobo_mpq.training.loop import Settings, finetune
from mobo_mpq.training.recipes import TrainingContext, check_recipe, run_recipe
from mobo_mpq.trial import Recipe

COUNTS = {
    "overflow_steps", "underflow_share", "underflows", "zero_gradient_share", "loss_scale", "largest_scale",
}  # fmt: skip


def options(scaling: str, **more: float | str) -> dict[str, float | str]:
    return {"precision": "fp16", "loss_scaling": scaling, **more}


def run(
    context: TrainingContext, epochs: float = 1.0, bits: int = 3, **more: float | str
) -> tuple[QuantizedNetwork, dict[str, float]]:
    details: dict[str, float] = {}
    policy = Policy.uniform(context.network.layers, bits, 8)
    return run_recipe(Recipe("qat", epochs, options=more), context, policy, seed=0, details=details), details


def accuracy(network: QuantizedNetwork, test_split: tuple[Tensor, Tensor]) -> float:
    x, y = test_split
    return float((network(x).argmax(1) == y).double().mean())


@pytest.mark.parametrize("scaling", LOSS_SCALINGS)
def test_fine_tunes_in_float16_are_as_good(
    scaling: str, trained: TrainingContext, test_split: tuple[Tensor, Tensor]
) -> None:
    single, told = run(trained, 4.0)
    half, details = run(trained, 4.0, **options(scaling))
    assert told == {}
    assert details.keys() == COUNTS
    assert all(math.isfinite(number) for number in details.values())
    assert all(tensor.dtype is torch.float32 for tensor in half.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(single.parameters(), half.parameters(), strict=True))
    assert accuracy(half, test_split) > accuracy(single, test_split) - 0.05
    assert half.code == single.code  # the ordinary network: it can be saved, restored and exported


@pytest.mark.parametrize("scaling", LOSS_SCALINGS)
def test_two_runs_give_the_same_bits(scaling: str, trained: TrainingContext) -> None:
    (first, told), (second, again) = (run(trained, 0.5, **options(scaling)) for _ in range(2))
    assert told == again
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def test_adaptive_is_what_fp16_takes_by_itself(trained: TrainingContext) -> None:
    (first, told), (second, again) = (
        run(trained, 0.5, **given) for given in ({"precision": "fp16"}, options("adaptive"))
    )
    assert told == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_gradients_that_vanish_stop_a_fine_tune_and_scales_bring_it_back(
    context: Callable[..., TrainingContext], trained: TrainingContext, test_split: tuple[Tensor, Tensor]
) -> None:
    """The weaker of several losses: in float32 it trains well, since Adam's steps do not depend on its size."""
    small = context(loss=lambda output, target: 5e-7 * trained.loss(output, target))
    found = {"fp32": run(small, 4.0, 2, distill=0.0)}
    found |= {scaling: run(small, 4.0, 2, distill=0.0, **options(scaling)) for scaling in LOSS_SCALINGS}
    reached = {way: accuracy(network, test_split) for way, (network, _) in found.items()}
    start = accuracy(run(small, 0.0, 2)[0], test_split)
    gained = {way: value - start for way, value in reached.items()}
    assert gained["fp32"] > 0.1
    assert gained["none"] == 0.0
    assert found["none"][1]["zero_gradient_share"] == 1.0
    for scaling in ("static", "dynamic", "adaptive"):
        assert gained[scaling] > 0.7 * gained["fp32"]
        assert found[scaling][1]["underflow_share"] < 0.5 < found["none"][1]["underflow_share"]


def test_zeros_layer_by_layer(context: Callable[..., TrainingContext], trained: TrainingContext) -> None:
    network, _ = run(trained, 0.0, 4)
    batches = [batch for batch, _ in zip(trained.train, range(4), strict=False)]

    def shares(scaling: str, dtype: torch.dtype = torch.float16) -> list[float]:
        def loss(output: Any, target: Any) -> Tensor:
            return 1e-4 * trained.loss(output, target)

        settings = Settings(precision="fp16", loss_scaling=scaling)
        tallies = gradient_tallies(network, batches, loss, settings, dtype)
        assert list(tallies) == [layer.name for layer in reversed(network.layers)]
        return [tally.zero_share for tally in tallies.values()]

    exact, without, adaptive = shares("none", torch.float32), shares("none"), shares("adaptive")
    assert all(b > a + 0.1 for a, b in zip(exact, without, strict=True))
    assert all(a <= c < b - 0.05 for a, b, c in zip(exact, without, adaptive, strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def exploding(context: TrainingContext, above: int = 0, size: float = 1e30) -> Callable[[Any, Any], Tensor]:
    """The task's loss, whose gradient is beyond float16 in every step after the first ones."""
    calls = []

    def loss(output: Any, target: Any) -> Tensor:
        calls.append(1)
        return context.loss(output, target) * (size if len(calls) > above else 1.0)

    return loss


def tuned(context: TrainingContext, loss: Any, steps: int, **settings: Any) -> dict[str, float]:
    network, _ = run(context, 0.0)
    batches = passes(context.train, 0)  # in the same order, however often the loader was read before
    return dict(finetune(network, batches, loss, steps, Settings(distill=0.0, **settings), context.network))


@pytest.mark.parametrize("scaling", LOSS_SCALINGS)
def test_endless_overflow_ends(scaling: str, trained: TrainingContext) -> None:
    remedy = "take --loss-scaling static with" if scaling == "none" else "lower the option 'loss_scale', choose another"
    expected = (
        rf"overflowed float16 in {PATIENCE} steps in a row, up to step {PATIENCE + 2}, with {scaling} loss scaling "
        rf"and the loss times [0-9.e-]+: {remedy} .*, or train with --precision fp32$"
    )
    with pytest.raises(TrainingDiverged, match=expected):
        tuned(trained, exploding(trained, above=2), 60, precision="fp16", loss_scaling=scaling)


@pytest.mark.parametrize("scaling", LOSS_SCALINGS)
def test_what_is_advised_against_large_gradients_helps(scaling: str, trained: TrainingContext) -> None:
    """The gradient of the loss times 2**36 is beyond float16, unless it is multiplied by 2**-30."""
    given = {"precision": "fp16", "loss_scaling": "static" if scaling == "none" else scaling, "loss_scale": 2.0**-30}
    with pytest.raises(TrainingDiverged, match="overflowed float16 in all of its 8 steps"):
        tuned(trained, exploding(trained, size=2.0**36), 8, precision="fp16", loss_scaling=scaling)
    assert tuned(trained, exploding(trained, size=2.0**36), 8, **given)["overflow_steps"] == 0.0


def test_a_fine_tune_without_a_single_step_says_so(trained: TrainingContext) -> None:
    with pytest.raises(TrainingDiverged, match="overflowed float16 in all of its 3 steps, with static loss scaling"):
        tuned(trained, exploding(trained), 3, precision="fp16", loss_scaling="static")


def test_steps_that_overflow_are_left_out_and_counted(trained: TrainingContext) -> None:
    """Dynamic scales halve until the gradient fits: from 2**30 it takes a few steps, each of which changes nothing."""
    told = tuned(trained, trained.loss, 30, precision="fp16", loss_scaling="dynamic", loss_scale=2.0**30)
    skipped = told["overflow_steps"]
    assert 10 < skipped < 20
    assert told["loss_scale"] == 2.0 ** (30 - skipped)


def test_overflow_is_over_when_it_is_over(trained: TrainingContext) -> None:
    """Single batches beyond float16 do not add up to a divergence."""
    steps = iter(range(1000))

    def loss(output: Any, target: Any) -> Tensor:
        return trained.loss(output, target) * (1e30 if next(steps) % 2 else 1.0)

    told = tuned(trained, loss, 60, precision="fp16", loss_scaling="static")
    assert told["overflow_steps"] == 30


@pytest.mark.parametrize("scaling", LOSS_SCALINGS)
def test_a_loss_that_is_nan_is_no_overflow(scaling: str, trained: TrainingContext) -> None:
    expected = "diverged at step 1 of 5: its loss is nan in float16, .*W3A8: train with --precision fp32; if .*'lr'"
    with pytest.raises(TrainingDiverged, match=expected):
        tuned(trained, exploding(trained, size=math.nan), 5, precision="fp16", loss_scaling=scaling)


def test_activations_beyond_float16_are_told_from_a_learning_rate_too_high(trained: TrainingContext) -> None:
    """Weights 300 times as large, and no quantizers: in float32 it trains."""

    def enlarged(precision: str) -> dict[str, float]:
        policy = Policy.uniform(trained.network.layers, 32, 32)
        network = run_recipe(Recipe("qat", 0.0), trained, policy, seed=0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(300.0)
        settings = Settings(distill=0.0, precision=precision)
        return dict(finetune(network, trained.train, trained.loss, 3, settings, trained.network))

    assert enlarged("fp32") == {}
    expected = (
        "diverged at step 1 of 3: its loss is nan in float16, where numbers beyond 65504 are infinite: train with "
        "--precision fp32; if it diverges there, too, lower the option 'lr' (now 0.01)"
    )
    with pytest.raises(TrainingDiverged, match=re.escape(expected) + "$"):
        enlarged("fp16")


def test_scales_are_chosen_anew_after_the_interval_and_after_an_overflow(trained: TrainingContext) -> None:
    network, _ = run(trained, 0.0)
    half = Half(network.requires_grad_(), Settings(precision="fp16", scale_interval=4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    fresh, counted = [], []
    for step in range(COUNT_INTERVAL + 1):
        half.backward(half.network(torch.ones(2, 2)).sum(), optimizer)
        fresh.append(half.ledger.fresh)
        counted.append(half.ledger.counting)
        if step == 1:
            assert half.skips(1.0)
        else:
            half.took()
    assert [step for step, one in enumerate(fresh) if one] == [0, 2, 4, 8]
    assert [step for step, one in enumerate(counted) if one] == [0, COUNT_INTERVAL]


def test_a_probe_sees_the_float32_network_even_where_a_step_was_left_out(trained: TrainingContext) -> None:
    network, _ = run(trained, 0.0)
    seen: list[QuantizedNetwork] = []
    settings = Settings(distill=0.0, precision="fp16", loss_scaling="dynamic", loss_scale=2.0**40)
    finetune(
        network, trained.train, trained.loss, 16, replace(settings, loss_scale=2.0**24), trained.network, seen.append
    )
    assert seen == [network]


def test_dtypes(trained: TrainingContext) -> None:
    network, _ = run(trained, 0.0)
    assert arithmetic_of(network, Settings()).network is network
    assert isinstance(arithmetic_of(network, Settings(precision="fp16")), Half)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"precision": "fp8"}, UnknownName, "unknown precision 'fp8'; known: fp16, fp32"),
        (options("wild"), UnknownName, "unknown loss scaling 'wild'; known: adaptive, auto, dynamic, none, static"),
        (
            {"loss_scaling": "static"},
            InputError,
            "loss scaling 'static' is for precision 'fp16', .*add --precision fp16",
        ),
        (
            options("static", loss_scale=1000.0),
            InputError,
            r"'loss_scale' of the fine-tune is 1000.0; expected a power",
        ),
        (options("static", loss_scale=-2.0), InputError, r"'loss_scale' of the fine-tune is -2.0; expected a power"),
        (options("static", loss_scale=math.inf), InputError, r"'loss_scale' of the fine-tune is inf; expected a power"),
        (options("static", loss_scale=math.nan), InputError, r"'loss_scale' of the fine-tune is nan; expected a power"),
        (
            {"loss_scale": 1024.0},
            InputError,
            "'loss_scale' of the fine-tune is 1024.0, but this fine-tune is in 'fp32'; add --precision fp16, or leave "
            "'loss_scale' out$",
        ),
        (
            {"precision": "fp32", "scale_interval": 100.0},
            InputError,
            "'scale_interval' of the fine-tune is 100.0, but this fine-tune is in 'fp32'; add --precision fp16, or "
            "leave 'scale_interval' out$",
        ),
        (
            options("none", loss_scale=1024.0),
            InputError,
            "'loss_scale' of the fine-tune is 1024.0, which loss scaling 'none' does not use; take --loss-scaling "
            "adaptive or dynamic or static, or leave 'loss_scale' out$",
        ),
        *(
            (
                options(scaling, scale_interval=100.0),
                InputError,
                f"'scale_interval' of the fine-tune is 100.0, which loss scaling '{scaling}' does not use; take "
                "--loss-scaling adaptive, or leave 'scale_interval' out$",
            )
            for scaling in ("dynamic", "static", "none")
        ),
        (options("adaptive", scale_interval=0.0), InputError, r"'scale_interval' .* is 0.0; expected a whole number"),
        (options("adaptive", scale_interval=1.5), InputError, r"'scale_interval' .* is 1.5; expected a whole number"),
        (options("adaptive", scale_interval=math.nan), InputError, r"'scale_interval' .* is nan; expected a whole"),
    ],
)
def test_what_is_refused(given: dict[str, float | str], kind: type[InputError], message: str) -> None:
    with pytest.raises(kind, match=message) as refused:
        check_recipe(Recipe("qat", 1.0, options=given))
    assert not re.search(r"\n", str(refused.value))
