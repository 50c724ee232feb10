import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mobo_mpq.errors import InputError
from mobo_mpq.training.losses import default_loss, distillation


def test_own_loss_of_the_network_comes_first() -> None:
    own = torch.tensor(3.0)
    assert default_loss(SimpleNamespace(loss=own, logits=torch.zeros(1, 2)), torch.tensor([0])) is own
    assert default_loss({"loss": own}, None) is own


@pytest.mark.parametrize("shape", [(5,), (5, 7), (5, 7, 6)])
def test_classes_on_axis_1_or_last(shape: tuple[int, ...]) -> None:
    target = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(0))
    logits = torch.randn(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(1))
    expected = F.cross_entropy(logits, target)
    assert default_loss(logits, target).item() == pytest.approx(expected.item())
    assert default_loss({"logits": logits.movedim(1, -1)}, target).item() == pytest.approx(expected.item())


def test_both_fit_then_axis_1_is_meant() -> None:
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, 1, 2, 3]] * 2)
    assert default_loss(logits, target).item() == pytest.approx(F.cross_entropy(logits, target).item())


def test_soft_targets() -> None:
    target = torch.full((2, 4), 0.25)
    assert default_loss(torch.zeros(2, 4), target).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, "the target of a batch is NoneType, and the network's output holds no loss"),
        (torch.zeros(5, dtype=torch.long), "logits of shape \\(2, 3\\) and a target of shape \\(5,\\), torch.int64"),
        (torch.zeros(2), "torch.float32, do not suit cross-entropy"),
    ],
)
def test_unsuited_target(target: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        default_loss(torch.zeros(2, 3), target)


def entropy_difference(student: Tensor, teacher: Tensor, temperature: float) -> float:
    p, q = (teacher / temperature).softmax(-1).double(), (student / temperature).softmax(-1).double()
    return float((p * (p / q).log()).sum(-1).mean()) * temperature**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_the_divergence_of_softened_predictions(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator)
    got = distillation(student, teacher, temperature).item()
    assert got == pytest.approx(entropy_difference(student, teacher, temperature), rel=1e-5)
    turned = distillation(student.T, teacher.T, temperature, axis=0).item()
    assert turned == pytest.approx(got)
    assert distillation(teacher, teacher, temperature).item() == pytest.approx(0.0, abs=1e-6)


def test_gradients_keep_their_size_as_the_temperature_grows() -> None:
    """Hinton et al.: at high temperature the gradient of a logit nears (z_i - v_i) / N, for logits of zero mean."""
    student = torch.tensor([[0.5, -0.2, -0.3]], requires_grad=True)
    teacher = torch.tensor([[-0.1, 0.4, -0.3]], requires_grad=True)
    distillation(student, teacher, 1000.0).backward()
    assert student.grad is not None and teacher.grad is None
    assert torch.allclose(student.grad, (student - teacher).detach() / 3, atol=1e-3)
