"""Perturbations of networks whose biases are corrected, as recipe ``ptq`` corrects them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from perturbation_toys import Batches, Chain, Shared, alone, entry, made, space_of
from scipy.stats import spearmanr
from torch import nn

from mobo_mpq.graph import Network, call
from mobo_mpq.objectives.tasks import load_task
from mobo_mpq.policy import Policy
from mobo_mpq.posttraining.biases import correct_bias
from mobo_mpq.posttraining.layerwise import attach_biases, layers_in_turn
from mobo_mpq.quant.base import Role
from mobo_mpq.quant.transform import QuantizedNetwork, apply_policy, calibrate, quantizers
from mobo_mpq.sensitivity import perturb
from mobo_mpq.sensitivity.perturbation import TOGETHER
from mobo_mpq.sensitivity.samples import joined, size_of
from mobo_mpq.space import SearchSpace
from mobo_mpq.training.data import passes
from mobo_mpq.training.divergence import Divergence


def corrected(network: Network, policy: Policy, batches: Batches, like: QuantizedNetwork | None) -> float:
    """Divergence of a policy's own network after ``correct_bias``, on the batches on which it was corrected."""
    quantized = apply_policy(network, policy)
    attach_biases(quantized)
    inputs = [x for x, _ in batches]
    calibrate(quantized, inputs)
    for name, quantizer in quantizers(quantized).items():
        if like is not None and quantizer.site is not None and quantizer.site.role is Role.ACTIVATION:
            quantizer.load_state_dict(quantizers(like)[name].state_dict())
    for layer in layers_in_turn(quantized, network, inputs):
        correct_bias(layer)
    divergence = Divergence(network, batches)
    with divergence.recorded(quantized) as tally, torch.no_grad():
        for x in inputs:
            call(quantized, x)
    assert tally.mean is not None
    return tally.mean


@pytest.mark.parametrize("model", [Chain, Shared])
def test_biases_are_corrected_as_the_recipe_corrects_them(model: type[nn.Module]) -> None:
    network, batches = made(model())
    batches = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    space = space_of(network)
    table = perturb(network, space, batches, biases=True)
    highest = apply_policy(network, space.highest())
    calibrate(highest, [x for x, _ in batches])
    least = corrected(network, space.highest(), batches, highest)
    for name, role, _, policy in alone(space):
        like = highest if role == Role.WEIGHT else None
        expected = max(0.0, corrected(network, policy, batches, like) - least)
        assert entry(table, space, policy) == pytest.approx(expected, rel=1e-3, abs=1e-6), name
    assert table.evaluations == 4 + len(alone(space))
    assert table.provenance != perturb(network, space, batches).provenance


def test_means_are_over_thirty_two_samples_or_more() -> None:
    """Of one sample's outputs they would be met exactly, and nothing would cost anything."""
    network, batches = made(Chain())
    space = space_of(network)
    whole = [(torch.cat([x for x, _ in batches])[:40], torch.zeros(40, dtype=torch.long))]
    small = [(x[None], y[None]) for x, y in zip(*whole[0], strict=True)]
    assert [size_of(batch) for batch in joined(small, TOGETHER)] == [40], "the rest goes to the one before"
    assert perturb(network, space, small, biases=True).values == pytest.approx(
        perturb(network, space, whole, biases=True).values, rel=1e-6
    )


def test_batches_that_do_not_fit_together_stay_apart() -> None:
    unlike: list[Any] = [(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 4), torch.zeros(2)), (torch.zeros(2, 4),)]
    assert [size_of(batch) for batch in joined(unlike, 32)] == [2, 2, 2]
    assert [len(batch["x"]) for batch in joined([{"x": torch.zeros(20, 2)}] * 4, 32)] == [40, 40]


@pytest.fixture
def digits() -> tuple[Network, SearchSpace, Batches]:
    task = load_task("digits")
    network = Network.from_model(task.model(), task.example)
    return network, space_of(network), list(itertools.islice(passes(task.train, 7), 4))


def test_corrected_biases_explain_networks_whose_biases_are_corrected(
    digits: tuple[Network, SearchSpace, Batches],
) -> None:
    network, space, batches = digits
    compared = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    least = corrected(network, space.highest(), compared, None)
    moves = [policy for _, role, bits, policy in alone(space) if role == Role.WEIGHT]
    truth = [corrected(network, policy, compared, None) - least for policy in moves]
    tables = {biases: perturb(network, space, batches, biases=biases) for biases in (False, True)}
    shown = {biases: [entry(table, space, policy) for policy in moves] for biases, table in tables.items()}
    rank = {biases: float(spearmanr(truth, values)[0]) for biases, values in shown.items()}
    factor = {biases: float(np.median(np.array(values) / np.array(truth))) for biases, values in shown.items()}
    assert rank[True] > 0.97 > rank[False]
    assert 0.7 < factor[True] < 1.4 < 2.0 < factor[False]
