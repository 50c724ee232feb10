import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator.utils.errors import NanError, NotPSDError

from mobo_mpq.engine.features import Features
from mobo_mpq.engine.fitting import Data, build
from mobo_mpq.engine.likelihood import GaussianLogDensity, NegativeLogPosterior


def random_covariance(n: int) -> torch.Tensor:
    root = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return root @ root.T + 0.1 * torch.eye(n, dtype=torch.float64)


def test_the_density_and_its_gradient_are_those_of_torch() -> None:
    error = torch.linspace(-1, 2, 5, dtype=torch.float64, requires_grad=True)
    covariance = random_covariance(5).requires_grad_()
    value = GaussianLogDensity.apply(error, covariance)
    exact = torch.distributions.MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance).log_prob(error)
    assert value.item() == pytest.approx(exact.item())
    ours = torch.autograd.grad(2.0 * value, [error, covariance])
    theirs = torch.autograd.grad(2.0 * exact, [error, covariance])
    assert torch.allclose(ours[0], theirs[0])
    assert torch.allclose(ours[1], 0.5 * (theirs[1] + theirs[1].T))  # torch may put it into one triangle


def test_a_covariance_that_is_none_is_said_to_be_none() -> None:
    error = torch.ones(2, dtype=torch.float64)
    with pytest.raises(NotPSDError), pytest.warns(match="not p.d."):
        GaussianLogDensity.apply(error, torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)))
    with pytest.raises(NanError):
        GaussianLogDensity.apply(error, torch.full((2, 2), torch.nan, dtype=torch.float64))


def example(measured: bool, exact: bool, seed: int) -> SingleTaskGP:
    rng = np.random.default_rng(seed)
    d, n = 4, 12
    fading = -np.cumsum(rng.random((d, 3)), axis=1)
    fading = np.column_stack([np.zeros(d), fading])
    features = Features(rng.standard_normal(d), fading, rng.random(d) < 0.5, measured)
    loss = rng.lognormal(size=n)
    model = build(features, Data(rng.integers(0, 4, (n, d)), loss, exact, loss, 1.5, 1.0))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.01 if "noise" in name else parameter + 0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_the_posterior_of_the_hyper_parameters_is_gpytorchs_with_every_prior_once(measured: bool, exact: bool) -> None:
    values = []
    for seed in range(3):
        model = example(measured, exact, seed)
        mll = ExactMarginalLogLikelihood(model.likelihood, model).train()
        parameters = dict(mll.named_parameters())
        theirs = -mll(model(*model.train_inputs), model.train_targets)
        shared = model.mean_module.named_priors()  # those that GPyTorch counts for the kernel too
        theirs = theirs + sum(prior.log_prob(value(module)).sum() for _, module, prior, value, _ in shared) / 12
        ours = NegativeLogPosterior(model)()
        gradients = [torch.autograd.grad(one, list(parameters.values())) for one in (ours, theirs)]
        for name, one, other in zip(parameters, *gradients, strict=True):
            assert torch.allclose(one, other, rtol=1e-6, atol=1e-8), name
        values.append((ours - theirs).item())
    assert values == pytest.approx([values[0]] * 3)  # a constant of the normal priors
