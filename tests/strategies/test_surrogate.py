import numpy as np
import pytest
import torch

from mobo_mpq.strategies.surrogate import QuantizationScale, clip, fit
from mobo_mpq.testing.toys import make_toy


def test_levels_go_with_the_step_of_quantization() -> None:
    space = make_toy(2, activation_bits=(4, 8)).problem.space  # weights of 2, 4, 8 bits, activations of 4, 8
    scale = QuantizationScale(space)
    levels = torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    middle = (2**-4 - 2**-8) / (2**-2 - 2**-8)
    assert torch.allclose(
        scale.transform(levels), torch.tensor([[1.0, 1.0, middle, 0.0], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    )
    assert scale.transform(levels.expand(5, 2, 4)).shape == (5, 2, 4)


def test_disasters_are_raised_to_one_span_below_the_reference() -> None:
    quality = np.array([0.95, 0.90, 0.80, 0.10])
    assert clip(quality, reference=0.85).tolist() == pytest.approx([0.95, 0.90, 0.80, 0.75])
    assert clip(quality, reference=0.96).tolist() == quality.tolist()  # nothing of interest yet: keep all there is


def test_the_process_goes_through_exact_observations() -> None:
    toy = make_toy()
    levels = toy.problem.space.grid()[::48]
    quality = [toy.quality(policy) for policy in toy.problem.space.to_policies(levels)]
    surrogate = fit(toy.problem.space, levels, quality, [0.0] * len(quality), reference=-10.0)
    posterior = surrogate.model.posterior(torch.from_numpy(levels.astype(float)))
    assert posterior.mean.detach().numpy()[:, 0] == pytest.approx(
        [surrogate.standardise(value) for value in quality], abs=0.01
    )
    assert float(posterior.variance.detach().max()) < 1e-3
    assert (surrogate.mean, surrogate.scale) == pytest.approx((np.mean(quality), np.std(quality)))


def test_a_fit_repeats_exactly() -> None:
    toy = make_toy()
    levels = toy.problem.space.grid()[::60]
    quality = [toy.quality(policy) for policy in toy.problem.space.to_policies(levels)]
    states = [fit(toy.problem.space, levels, quality, [None] * len(quality), 0.85).model.state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
