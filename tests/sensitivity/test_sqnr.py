import pytest
import torch
from torch import Tensor, nn

from mobo_mpq.graph import Network
from mobo_mpq.sensitivity import measure
from mobo_mpq.sensitivity.sqnr import NoiseRatio
from mobo_mpq.space import SearchSpace


class Constant(nn.Module):
    """Whatever goes in, the same comes out."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(value * torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.ones_like(x))
        return y


def ratio(signal: float, quantized: float) -> float:
    """SQNR between two networks of constant outputs."""
    batches = [torch.zeros(4, 3), torch.zeros(2, 3)]
    reference, other = (Network.from_model(Constant(value), batches[0]) for value in (signal, quantized))
    noise = NoiseRatio(reference, batches)
    with noise.recorded(other) as tally:
        for x in batches:
            other(x)
    assert tally.mean is not None
    return 1 / tally.mean


@pytest.mark.parametrize(("signal", "quantized", "expected"), [(1.0, 0.0, 1.0), (2.0, 1.0, 4.0), (3.0, 2.0, 9.0)])
def test_identities(signal: float, quantized: float, expected: float) -> None:
    assert ratio(signal, quantized) == pytest.approx(expected)
    assert ratio(1e-4 * signal, 1e-4 * quantized) == pytest.approx(expected, rel=1e-4)  # energy does not matter


def test_as_a_kind_of_sensitivity_it_falls_by_a_factor_of_four_for_each_bit() -> None:
    """The noise of rounding is uniform: a twelfth of the squared step."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.rand(64, 64, generator=generator) * 2 - 1)
    x = torch.randn(256, 64, generator=generator)
    network = Network.from_model(model, x)
    space = SearchSpace.product([layer.name for layer in network.layers], (3, 4, 5, 6, 32), (32,))
    table = measure("sqnr", network, space, [(x, torch.zeros(256, dtype=torch.long))])
    assert (table.method, table.unit) == ("sqnr", "noise / signal")
    ratios = table.values[0][:-2] / table.values[0][1:-1]
    assert table.values[0][-1] == 0.0
    assert all(3.0 < each < 5.5 for each in ratios)
    perturbed = measure("perturbation", network, space, [(x, torch.zeros(256, dtype=torch.long))])
    assert perturbed.provenance.options != table.provenance.options
