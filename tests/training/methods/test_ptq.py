"""The steps of ``ptq``: what each is worth on digits, and what is refused."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.objectives.tasks import LoadedTask
from mobo_mpq.policy import Policy
from mobo_mpq.training.recipes import TrainingContext, check_recipe, default_recipe, run_recipe
from mobo_mpq.trial import Recipe


def score(
    digits: LoadedTask, context: TrainingContext, policy: Policy, options: Mapping[str, float | str] | None = None
) -> float:
    network = run_recipe(Recipe("ptq", options=options or {}), context, policy, seed=0)
    return digits.measure(network, digits.val).value


def weights(context: TrainingContext, bits: int, last: int | None = None) -> Policy:
    """Activations at 8 bits; the last two layers' weights at another width."""
    names = [layer.name for layer in context.network.layers]
    return Policy.of({name: ((last or bits) if name in names[-2:] else bits, 8) for name in names})


def test_four_bit_weights_lose_at_most_two_points(digits: LoadedTask, context: TrainingContext) -> None:
    floating = digits.measure(context.network, digits.val).value
    assert score(digits, context, weights(context, 4)) > floating - 0.02
    assert score(digits, context, weights(context, 4, last=2)) > floating - 0.04
    assert (
        score(digits, context, weights(context, 4, last=2), {"biases": "off"}) < floating - 0.1
    )  # what it is that helps


def test_learned_rounding_saves_two_bits(digits: LoadedTask, context: TrainingContext) -> None:
    policy = weights(context, 2)
    nearest, learned = (
        score(digits, context, policy, {"rounding": rounding, "rounding_steps": 100})
        for rounding in ("nearest", "adaptive")
    )
    assert nearest < 0.75
    assert learned > 0.85


@pytest.mark.parametrize("options", [{"equalization": "on"}, {"activations": "percentile"}, {"biases": "off"}])
def test_options_change_the_network_and_little_else_at_eight_bits(
    digits: LoadedTask, context: TrainingContext, options: dict[str, float | str]
) -> None:
    policy = weights(context, 8)
    plain, changed = (run_recipe(Recipe("ptq", options=chosen), context, policy, seed=0) for chosen in ({}, options))
    x: Tensor = context.calibration[0]  # type: ignore[assignment]
    assert not torch.equal(plain(x), changed(x))
    assert digits.measure(changed, digits.val).value > digits.measure(plain, digits.val).value - 0.01


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (
            {"rounding": "up"},
            UnknownName,
            "unknown value of option 'rounding' of recipe 'ptq' 'up'; known: adaptive, near",
        ),
        ({"biases": "on"}, UnknownName, "unknown value of option 'biases' of recipe 'ptq' 'on'; known: analytic, emp"),
        ({"biases": "analytic", "equalization": "on"}, InputError, "'biases' of recipe 'ptq' is 'analytic', which nee"),
        (
            {"equalization": 1.0},
            UnknownName,
            "unknown value of option 'equalization' of recipe 'ptq' '1.0'; known: off",
        ),
        ({"weights": "max"}, UnknownName, "unknown observer 'max'; known: minmax, mse, percentile"),
        ({"percentile": 20.0}, InputError, "percentile 20.0 is out of range; expected more than 50, at most 100"),
        ({"percentile": "many"}, InputError, "option 'percentile' of recipe 'ptq' is 'many'; expected a number"),
        (
            {"rounding_steps": float("inf")},
            InputError,
            "'rounding_steps' of recipe 'ptq' is inf; expected a whole number",
        ),
        ({"rounding_steps": 0.5}, InputError, "'rounding_steps' of recipe 'ptq' is 0.5; expected a whole number abov"),
        (
            {"round": "up"},
            UnknownName,
            "unknown option of recipe 'ptq' 'round'; known: activations, biases, equalization",
        ),
    ],
)
def test_wrong_options_are_refused_before_a_search(
    options: dict[str, float | str], kind: type[InputError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        check_recipe(Recipe("ptq", options=options))


def test_defaults_are_complete() -> None:
    assert set(default_recipe("ptq").options) == {
        "equalization", "weights", "activations", "percentile", "rounding", "rounding_steps", "biases",
    }  # fmt: skip
