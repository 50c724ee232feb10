"""The recipe ``kmeans``: what a code book is worth on digits, what it costs, and what training moves."""

from dataclasses import replace

import pytest
import torch

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.export.onnx_qdq import lower
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.objectives.size import BopsModel, SizeModel
from mobo_mpq.objectives.tasks import LoadedTask
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.quant import quantizers
from mobo_mpq.quant.codebook import CodebookQuantizer, codebook_bytes
from mobo_mpq.quant.transform import QuantizedNetwork
from mobo_mpq.training.recipes import RecipeCost, TrainingContext, apply_uncalibrated, check_recipe, run_recipe
from mobo_mpq.trial import Recipe


def run(context: TrainingContext, kind: str, bits: int, epochs: float = 0.0, **options: float) -> QuantizedNetwork:
    policy = Policy.uniform(context.network.layers, bits, 8)
    return run_recipe(Recipe(kind, epochs=epochs, options=options), context, policy, seed=0)


def books(network: QuantizedNetwork) -> dict[str, CodebookQuantizer]:
    return {name: q for name, q in quantizers(network).items() if isinstance(q, CodebookQuantizer)}


def test_centroids_fit_better_than_even_steps_and_training_helps(digits: LoadedTask, context: TrainingContext) -> None:
    scores = {
        name: digits.measure(run(context, *arguments), digits.val).value
        for name, arguments in {
            "even": ("qat", 3, 0.0),
            "book": ("kmeans", 3, 0.0),
            "trained": ("kmeans", 3, 0.5),
        }.items()
    }
    assert scores["trained"] > scores["book"]
    assert scores["trained"] > scores["even"]


def test_training_moves_centroids_and_no_weight_leaves_its_own(context: TrainingContext) -> None:
    before, after = run(context, "kmeans", 2), run(context, "kmeans", 2, 0.25)
    assert len(books(after)) == len(context.network.layers)
    for name, book in books(after).items():
        assert torch.equal(book.labels, books(before)[name].labels)
        assert not torch.equal(book.centroids, books(before)[name].centroids)
        assert len(book.centroids) == 4
    weights = {name: parameter for name, parameter in context.network.named_parameters() if name.endswith("weight")}
    now = dict(after.named_parameters())
    assert all(torch.equal(now[name], parameter) for name, parameter in weights.items())


def test_a_checkpoint_is_restored(context: TrainingContext) -> None:
    network = run(context, "kmeans", 4, 0.1)
    restored = apply_uncalibrated(context, network.policy, Recipe("kmeans"))
    restored.load_state_dict(network.state_dict())
    x = context.calibration[0]
    assert isinstance(x, torch.Tensor)
    assert torch.equal(restored(x), network(x))


def test_the_size_counts_the_code_books(context: TrainingContext) -> None:
    layers, target = context.network.layers, load_target("mpic")
    recipe = Recipe("kmeans")
    for model, counts in ((SizeModel(layers), True), (target.latency, False), (BopsModel(), False)):
        for layer in layers:
            bits = LayerBits(4, 8)
            book = codebook_bytes(layer, 4) if counts else 0.0
            assert RecipeCost(model, recipe).layer_cost(layer, bits) == model.layer_cost(layer, bits) + book
    twins = [replace(layers[0], name=name, weight_group="shared") for name in ("first", "second")]
    priced = [RecipeCost(SizeModel(twins), recipe).layer_cost(twin, LayerBits(4, 8)) for twin in twins]
    assert priced == [twins[0].num_weights / 2 + codebook_bytes(twins[0], 4), 0.0]


def test_an_onnx_file_is_refused(context: TrainingContext) -> None:
    with pytest.raises(InputError, match="are no even grid, and ONNX knows no other; choose '--format policy'"):
        lower(run(context, "kmeans", 4))


def test_options_are_checked() -> None:
    check_recipe(Recipe("kmeans", options={"iterations": 3.0, "lr": 0.02}))
    for wrong in (0.0, 0.5, float("inf"), float("nan")):
        with pytest.raises(InputError, match=f"'iterations' of recipe 'kmeans' is {wrong}; expected a whole number"):
            check_recipe(Recipe("kmeans", options={"iterations": wrong}))
    with pytest.raises(InputError, match="option 'lr' of the fine-tune is 0"):
        check_recipe(Recipe("kmeans", options={"lr": 0.0}))
    with pytest.raises(UnknownName, match="unknown option of recipe 'kmeans' 'rounds'"):
        check_recipe(Recipe("kmeans", options={"rounds": 3.0}))
