"""Orthogonality of layers: identities of the matrix, and tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.errors import InputError, PolicyError
from mobo_mpq.graph import Network
from mobo_mpq.objectives.hardware import load_target
from mobo_mpq.sensitivity.orthogonality import gram, importance, layer_outputs, orthogonality, provenance, similarities
from mobo_mpq.space import SearchSpace


class Three(nn.Module):
    """The first two layers compute the same up to sign; the third is constant where ``dead``."""

    def __init__(self, dead: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.dead = dead

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third((self.first(x) + self.second(x).square()) * (0.0 if self.dead else 1.0))
        return y


def made(dead: bool = False, rows: int = 40) -> tuple[Network, SearchSpace, list[tuple[Tensor, Tensor]]]:
    model = Three(dead)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.second.weight.copy_(-2.0 * model.first.weight)
    x = torch.randn(rows, 6, generator=generator)
    network = Network.from_model(model.eval(), x)
    space = SearchSpace.from_layers(network.layers, load_target("mpic"), weight_bits=(2, 4, 8), activation_bits=(4, 8))
    return network, space, [(part, torch.zeros(len(part))) for part in x.split(25)]


def features(seed: int, width: int) -> Tensor:
    return torch.randn(12, width, generator=torch.Generator().manual_seed(seed))


def test_the_matrix_has_ones_on_its_diagonal_and_is_symmetric() -> None:
    similar = similarities([gram(features(seed, width)) for seed, width in enumerate((5, 9, 30))])
    assert np.allclose(similar, similar.T, rtol=1e-12)
    assert similar.diagonal().tolist() == [1.0, 1.0, 1.0]
    assert (similar >= 0.0).all()
    assert (similar <= 1.0 + 1e-12).all()


@pytest.mark.parametrize("change", ["rotation", "scaling", "shift"])
def test_what_it_does_not_depend_on(change: str) -> None:
    x, y = features(0, 7), features(1, 5)
    rotation, _ = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(2)))
    changed = {"rotation": x @ rotation, "scaling": -3.7 * x, "shift": x + torch.arange(7.0)}[change]
    before, after = (similarities([gram(one), gram(y)])[0, 1] for one in (x, changed))
    assert after == pytest.approx(before, rel=1e-5)
    assert similarities([gram(x), gram(changed)])[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_the_form_with_features_is_the_same() -> None:
    x, y = features(0, 7).double(), features(1, 5).double()
    a, b = x - x.mean(0), y - y.mean(0)
    expected = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert similarities([gram(x), gram(y)])[0, 1] == pytest.approx(float(expected), rel=1e-12)


def test_features_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gram(features(0, 30))
    monkeypatch.setattr("mobo_mpq.sensitivity.orthogonality._COLUMNS", 7)
    assert np.allclose(gram(features(0, 30)), whole, rtol=1e-12)


def test_importance_falls_with_what_is_shared() -> None:
    similar = np.array([[1.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 1.0]])
    assert importance(similar).tolist() == pytest.approx(np.exp([-0.6, -0.7, -0.3]).tolist())
    assert importance(similar, beta=0.0).tolist() == [1.0, 1.0, 1.0]
    assert importance(similar, beta=10.0).tolist() == pytest.approx(np.exp([-6.0, -7.0, -3.0]).tolist())


def test_a_table_is_importance_times_missing_bits() -> None:
    network, space, batches = made()
    table = orthogonality(network, space, batches)
    worth = importance(similarities(layer_outputs(network, batches)))
    assert similarities(layer_outputs(network, batches))[0, 1] == pytest.approx(1.0, abs=1e-6)
    assert worth[2] > worth[0] == pytest.approx(worth[1], rel=1e-5)
    for row, name in enumerate(space.names):
        for column, option in enumerate(space.options):
            shared = 0.5 * (worth[0] + worth[1]) if name != "third" else worth[row]  # the input of both is one tensor
            expected = worth[row] * (8 - option.weight) + shared * (8 - option.activation)
            assert table.values[row, column] == pytest.approx(expected, rel=1e-9), (name, option)
    assert (table.method, table.evaluations) == ("orthogonality", 1)


def test_a_constant_layer_is_like_none_but_itself() -> None:
    network, space, batches = made(dead=True)
    similar = similarities(layer_outputs(network, batches))
    assert similar[2].tolist() == [0.0, 0.0, 1.0]
    assert np.isfinite(orthogonality(network, space, batches).values).all()


def test_samples_are_the_first_ones_and_digests_tell() -> None:
    network, space, batches = made()
    few = orthogonality(network, space, batches, samples=10)
    first = orthogonality(network, space, [(batches[0][0][:10], batches[0][1][:10])])
    assert few.values.tolist() == first.values.tolist()
    same = provenance(network, space, batches)
    assert orthogonality(network, space, batches).provenance == same
    assert provenance(network, space, batches, samples=10).options != same.options
    assert provenance(network, space, batches, beta=2.0).options != same.options
    assert provenance(network, space, batches[:1]).data != same.data


def test_bad_input() -> None:
    network, space, batches = made()
    with pytest.raises(InputError, match=r"orthogonality\(\) got 0 batches of 0 samples and samples=128; expected"):
        orthogonality(network, space, [])
    with pytest.raises(InputError, match="is measured on 1 sample; expected at least 2: give more data"):
        orthogonality(network, space, batches, samples=1)
    with pytest.raises(PolicyError, match="the space is of another model: it has 1 layers, this one 3"):
        orthogonality(network, SearchSpace.product(["a"], (2, 8), (8,)), batches)
    batches[0][0][3] = float("nan")
    with pytest.raises(InputError, match="the outputs of layer 'first' hold NaN or infinity; check the model"):
        orthogonality(network, space, batches)
