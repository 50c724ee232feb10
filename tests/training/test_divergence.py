from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobo_mpq.graph import Network
from mobo_mpq.training import divergence as divergence_module
from mobo_mpq.training.divergence import Divergence

BATCHES = [(torch.randn(6, 4, generator=torch.Generator().manual_seed(i)), torch.arange(6) % 3) for i in range(2)]


def linear(outputs: int = 3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, outputs))


class Named(nn.Module):
    """Returns what no metric of ours could compare."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"boxes": self.net(x)}


def network(model: nn.Module) -> Network:
    return Network.from_model(model.eval(), (BATCHES[0][0],))


def run(divergence: Divergence, student: nn.Module, batches: Any = BATCHES) -> float | None:
    with divergence.recorded(student) as tally:
        for x, _ in batches:
            student(x)
    return tally.mean


def test_a_classifier_is_compared_by_the_mean_divergence_of_its_predictions() -> None:
    teacher, student = linear(seed=0), linear(seed=1)
    x = torch.cat([x for x, _ in BATCHES])
    expected = F.kl_div(student(x).log_softmax(1), teacher(x).log_softmax(1), log_target=True, reduction="batchmean")
    assert run(Divergence(network(teacher), BATCHES), network(student)) == pytest.approx(expected.item(), rel=1e-5)


def test_any_other_network_by_its_squared_error() -> None:
    teacher, student = linear(1, 0), linear(1, 1)
    batches = [(x, torch.randn(6, 1)) for x, _ in BATCHES]
    with torch.no_grad():
        wrong = sum(float((student(x) - teacher(x)).square().sum()) for x, _ in batches)
        spread = sum(float((teacher(x) - teacher(x).mean()).square().sum()) for x, _ in batches)
    assert run(Divergence(network(teacher), batches), network(student), batches) == pytest.approx(wrong / spread)


def test_an_equal_network_diverges_not_at_all_and_is_left_alone() -> None:
    student = network(linear())
    assert run(Divergence(network(linear()), BATCHES), student) == 0.0
    assert not student._forward_hooks


@pytest.mark.parametrize("limit", [0, 2**28])
def test_outputs_that_are_not_kept_are_computed_again(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence_module, "CACHE_BYTES", limit)
    divergence, student = Divergence(network(linear()), BATCHES), network(linear(seed=1))
    assert run(divergence, student) == run(divergence, student)
    assert len(divergence._outputs) == (2 if limit else 0)


def test_outputs_that_hold_no_predictions_are_not_compared() -> None:
    named = network(Named())
    assert run(Divergence(named, BATCHES), named) is None


def test_what_is_not_finite_has_no_mean() -> None:
    student = linear(seed=1)
    with torch.no_grad():
        student[0].weight.fill_(float("nan"))
    assert run(Divergence(network(linear()), BATCHES), network(student)) is None


def test_nothing_recorded_has_no_mean() -> None:
    teacher = network(linear())
    assert run(Divergence(teacher, BATCHES), teacher, []) is None
