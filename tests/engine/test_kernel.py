import math

import numpy as np
import pytest
import torch

from mobo_mpq.engine.features import Features
from mobo_mpq.engine.kernel import Parameters, Sensitivities, StructuredKernel, StructuredMean
from mobo_mpq.engine.squeeze import Squeeze

SIZE = np.log([4.0, 1.0])
FADING = np.log([[1.0, 0.25, 0.0625], [1.0, 0.5, 0.5]])
FEATURES = Features(SIZE, FADING, np.array([True, False]), True)


def modules(features: Features = FEATURES, knee: float = 1e9) -> tuple[StructuredMean, StructuredKernel]:
    sensitivities = Sensitivities(features, Squeeze(knee, 1.0))
    return StructuredMean(sensitivities).double(), StructuredKernel(sensitivities).double()


def put(kernel: StructuredKernel, **values: float) -> None:
    with torch.no_grad():
        for name, value in values.items():
            owner = kernel if hasattr(kernel, name) else kernel.sensitivities
            getattr(owner, name).fill_(value)


def test_the_table_is_the_loss_of_each_level_less_that_of_the_highest() -> None:
    _, kernel = modules()
    put(kernel, trust=1.0)
    raw = np.array([[4.0, 1.0, 0.25], [1.0, 0.5, 0.5]])
    expected = (raw - raw[:, -1:]) / (3.75 + 0.5)
    assert Parameters.of(kernel).table == pytest.approx(expected)


def test_trust_deviation_and_decay_bend_the_table() -> None:
    _, kernel = modules()
    put(kernel, trust=0.5, log_rho_weight=math.log(2.0), log_rho_activation=0.0)
    with torch.no_grad():
        kernel.sensitivities.deviation.copy_(torch.tensor([0.0, math.log(3.0)]))
    raw = np.array([2.0 * np.array([1.0, 1 / 16, 1 / 256]), 3.0 * np.array([1.0, 0.5, 0.5])])
    lowered = raw - raw[:, -1:]
    assert Parameters.of(kernel).table == pytest.approx(lowered / lowered[:, 0].sum())
    assert (Parameters.of(kernel).rho_weight, Parameters.of(kernel).rho_activation) == pytest.approx((2.0, 1.0))


def test_without_sensitivities_there_is_no_trust() -> None:
    _, kernel = modules(Features(np.zeros(2), FADING, np.array([True, False]), False))
    assert Parameters.of(kernel).trust is None
    assert not hasattr(kernel.sensitivities, "trust")
    assert kernel.sensitivities.deviation_prior.scale.min() > modules()[1].sensitivities.deviation_prior.scale.max()


def test_mean_and_covariance_follow_their_definitions() -> None:
    mean, kernel = modules(knee=0.5)
    put(kernel, constant=0.1, log_scale=math.log(3.0), log_tau=math.log(0.6), log_ripple=math.log(0.2))
    put(kernel, log_residual=math.log(0.3), log_length=math.log(0.7))
    p = Parameters.of(kernel)
    levels = np.array([[0, 0], [0, 1], [2, 0], [1, 2], [2, 2]])
    t = p.table[np.arange(2), levels]
    f = 0.1 + 3.0 * t.sum(1)
    beyond = np.maximum(f - 0.5, 0)
    x = torch.from_numpy(levels.astype(float))
    assert beyond.max() > 0.5 and beyond.min() == 0.0
    assert mean(x).detach().numpy() == pytest.approx(f - beyond + np.log1p(beyond))
    expected = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            slopes = 1 / (1 + beyond[i]) / (1 + beyond[j])
            same = levels[i] == levels[j]
            linear = 9.0 * (t[i] * t[j] * (0.6**2 + 0.2**2 * same)).sum()
            apart = np.square(np.sqrt(t[i]) - np.sqrt(t[j])).sum() / 0.7**2
            expected[i, j] = slopes * linear + 0.3**2 * np.exp(-0.5 * apart)
    covariance = kernel(x).to_dense().detach().numpy()
    assert covariance == pytest.approx(expected, abs=1e-5)  # sqrt(T) counts as no less than 1e-6
    assert kernel(x, diag=True).detach().numpy() == pytest.approx(np.diag(covariance))
    assert kernel(x[:2], x[1:]).to_dense().detach().numpy() == pytest.approx(covariance[:2, 1:])
    assert kernel(x[None].expand(3, 5, 2)).to_dense()[2].detach().numpy() == pytest.approx(covariance)


def test_the_gram_matrix_is_the_covariance_and_so_is_its_gradient() -> None:
    _, kernel = modules(knee=0.5)
    x = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    weights = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = list(kernel.parameters())
    both = [kernel.gram(kernel.sensitivities(x)), kernel.forward(x, x.clone())]
    assert torch.allclose(both[0], both[1], atol=1e-14)
    gradients = [torch.autograd.grad((weights * one).sum(), parameters, allow_unused=True) for one in both]
    for one, other in zip(*gradients, strict=True):
        assert (one is None and other is None) or torch.allclose(one, other, atol=1e-12)


def test_a_space_without_decisions_has_a_constant_mean_and_covariance() -> None:
    mean, kernel = modules(Features(np.zeros(0), np.zeros((0, 1)), np.zeros(0, dtype=np.bool_), False))
    x = torch.zeros((3, 0), dtype=torch.float64)
    put(kernel, constant=0.2, log_residual=math.log(0.5))
    assert mean(x).tolist() == pytest.approx([0.2] * 3)
    assert kernel(x).to_dense().detach().numpy() == pytest.approx(np.full((3, 3), 0.25))
