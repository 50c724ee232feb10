"""The recipe ``multipoint``: what further points are worth on digits, what they cost, and what is refused."""

import pytest
import torch

from mobo_mpq.errors import InputError
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.size import BopsModel, SizeModel
from mobo_mpq.objectives.tasks import LoadedTask
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.quant.multipoint import extra_points, points_of, widened
from mobo_mpq.training.recipes import (
    RecipeCost,
    TrainingContext,
    adds_points,
    apply_uncalibrated,
    check_recipe,
    default_recipe,
    run_recipe,
)
from mobo_mpq.trial import Recipe


def uniform(context: TrainingContext, bits: int) -> Policy:
    return Policy.uniform(context.network.layers, bits, 8)


def test_further_points_help_where_bits_are_few(digits: LoadedTask, context: TrainingContext) -> None:
    def score(kind: str, **options: float) -> float:
        network = run_recipe(Recipe(kind, options=options), context, uniform(context, 2), seed=0)
        return digits.measure(network, digits.val).value

    plain, tenth, quarter = score("ptq"), score("multipoint"), score("multipoint", extra=0.25)
    assert plain < 0.75
    assert tenth > plain + 0.05
    assert quarter > tenth + 0.03


@pytest.mark.parametrize(("bits", "options"), [(8, {}), (3, {"extra": 0.0})])
def test_without_further_points_it_is_ptq(context: TrainingContext, bits: int, options: dict[str, float]) -> None:
    policy, (x, *_) = uniform(context, bits), context.calibration
    plain = run_recipe(Recipe("ptq"), context, policy, seed=0)
    same = run_recipe(Recipe("multipoint", options=options), context, policy, seed=0)
    assert isinstance(x, torch.Tensor)
    assert torch.equal(plain(x), same(x))
    assert points_of(same) == {}


def test_every_layer_has_the_points_that_were_paid_for(context: TrainingContext) -> None:
    policy = uniform(context, 3)
    recipe = Recipe("multipoint", options={"extra": 0.2, "points": 2.0})
    network = run_recipe(recipe, context, policy, seed=0)
    found = points_of(network)
    assert set(found) == {layer.name for layer in context.network.layers}
    for layer in context.network.layers:
        further = extra_points(layer, 3, 0.2)
        assert sum(found[layer.name]) == layer.weight_shape[0] + further
        assert max(found[layer.name]) == 2
    restored = apply_uncalibrated(context, policy, recipe)
    restored.load_state_dict(network.state_dict())
    x = context.calibration[0]
    assert isinstance(x, torch.Tensor)
    assert torch.equal(restored(x), network(x))


@pytest.mark.parametrize("target", ["mpic", "bitfusion", "ne16", "bismo-edge"])
def test_costs_are_those_of_the_wider_layers(context: TrainingContext, target: str) -> None:
    layers, device = context.network.layers, load_target(target)
    models = [device.latency, SizeModel(layers, device.storage), BopsModel()]
    for model in models:
        priced = RecipeCost(model, Recipe("multipoint"))
        assert (priced.name, priced.unit) == (model.name, model.unit)
        totals = {}
        for weight in sorted({w for pairs in device.bit_pairs.values() for w, a in pairs if a == 8 and 2 <= w <= 8}):
            bits = LayerBits(weight, 8)
            for layer in layers:
                wide = widened(layer, extra_points(layer, weight, 0.1))
                assert priced.layer_cost(layer, bits) == model.layer_cost(wide, bits)
            totals[weight] = [
                sum(one.layer_cost(layer, bits) for layer in layers)
                for one in (priced, RecipeCost(model, Recipe("ptq")))
            ]
            assert totals[weight][1] == sum(model.layer_cost(layer, bits) for layer in layers)
        assert totals[8][0] == totals[8][1]
        assert all(wide > plain for bits, (wide, plain) in totals.items() if bits < 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0.0}, "option 'points' of recipe 'multipoint' is 0.0; expected a whole number from 1 to 8"),
        ({"points": 1.5}, "option 'points' of recipe 'multipoint' is 1.5; expected a whole number from 1 to 8"),
        ({"extra": -0.1}, "option 'extra' of recipe 'multipoint' is -0.1; expected a number from 0 to 2, one less"),
        ({"extra": 1.1, "points": 2.0}, "option 'extra' of recipe 'multipoint' is 1.1; expected a number from 0 to 1,"),
        ({"extra": "few"}, "option 'extra' of recipe 'multipoint' is 'few'; expected a number"),
        ({"biases": "on"}, "unknown value of option 'biases' of recipe 'multipoint' 'on'; known: empirical, off"),
        ({"epsilon": 0.1}, "unknown option of recipe 'multipoint' 'epsilon'; known: biases, extra, points"),
    ],
)
def test_wrong_options_are_refused_before_a_search(options: dict[str, float | str], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        check_recipe(Recipe("multipoint", options=options))


def test_defaults() -> None:
    assert default_recipe("multipoint").options == {"extra": 0.1, "points": 3.0, "biases": "empirical"}
    assert [adds_points(kind) for kind in ("multipoint", "ptq", "qat")] == [True, False, False]
