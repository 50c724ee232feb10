from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mobo_mpq.pareto import hypervolume
from mobo_mpq.strategies.acquisition import MAX_BASELINE, ExactCosts, q_log_nehvi
from mobo_mpq.strategies.mobo import isolated
from mobo_mpq.strategies.surrogate import Surrogate, fit
from mobo_mpq.testing.toys import Toy, make_toy


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with isolated(0):
        yield


NONE = np.zeros((0, 6), dtype=np.intp)


def _fitted(toy: Toy, n: int, stderr: float = 0.01) -> tuple[Surrogate, np.ndarray]:
    grid = toy.problem.space.grid()
    rng = np.random.default_rng(0)
    levels = grid[rng.permutation(len(grid))[:n]]
    quality = [toy.quality(p) + stderr * rng.normal() for p in toy.problem.space.to_policies(levels)]
    return fit(toy.problem.space, levels, quality, [stderr] * n, toy.problem.quality.reference), levels


@pytest.mark.parametrize("size", [False, True])
def test_costs_enter_exactly(size: bool) -> None:
    toy = make_toy(size=size)
    surrogate, levels = _fitted(toy, 10)
    objective = ExactCosts(toy.problem, surrogate)
    m = len(toy.problem.costs) + 1
    samples = torch.randn(7, 5, 2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = objective(samples, torch.from_numpy(levels.astype(float)).reshape(5, 2, 6))
    assert out.shape == (7, 5, 2, m)
    assert torch.allclose(out[..., 0] + objective.quality_reference, samples[..., 0])
    for column, cost in enumerate(toy.problem.costs, start=1):
        least = cost(toy.problem.space.lowest())
        gains = (cost.info.reference - cost.of_levels(levels)) / (cost.info.reference - least)
        assert out[..., column].reshape(7, 10).numpy() == pytest.approx(np.tile(gains, (7, 1)), rel=1e-12)


@pytest.mark.parametrize(("size", "pending"), [(False, 0), (False, 2), (True, 1)])
def test_values_agree_with_plain_monte_carlo(size: bool, pending: int) -> None:
    """Sample the joint posterior of everything, and take hypervolume differences one by one."""
    toy = make_toy(size=size)
    surrogate, levels = _fitted(toy, 20)
    grid = toy.problem.space.grid()
    running, candidates = grid[5 : 5 + pending], grid[300:700:20]
    value = q_log_nehvi(toy.problem, surrogate, running, seed=1)(candidates)

    everything = np.concatenate([levels, running, candidates])
    with torch.no_grad():
        posterior = surrogate.model.posterior(torch.from_numpy(everything.astype(float)))
        torch.manual_seed(0)
        samples = posterior.rsample(torch.Size([800]))
    objective = ExactCosts(toy.problem, surrogate)
    points = objective(samples, torch.from_numpy(everything.astype(float))).numpy()  # 800 x n x m
    base, origin = len(levels) + pending, np.zeros(points.shape[-1])
    expected = np.zeros(len(candidates))
    for sample in points:
        before = hypervolume(sample[:base], origin)
        for i in range(len(candidates)):
            expected[i] += hypervolume(np.vstack([sample[:base], sample[base + i]]), origin) - before
    expected /= len(points)
    assert spearmanr(np.exp(value), expected).statistic > 0.97
    top = np.argsort(-expected)[:5]
    # the log smooths, and few samples are drawn: the scale is right, the digits are not
    assert np.exp(value)[top] == pytest.approx(expected[top], rel=0.25)


def test_a_policy_that_runs_is_worth_little_more() -> None:
    toy = make_toy()
    surrogate, _ = _fitted(toy, 20)
    grid = toy.problem.space.grid()
    value = q_log_nehvi(toy.problem, surrogate, NONE, seed=1)(grid)
    best = grid[[np.argmax(value)]]
    again = q_log_nehvi(toy.problem, surrogate, best, seed=1)(best)
    assert again[0] < value.max() - 2


def test_the_baseline_is_bounded_however_many_trials_there_are() -> None:
    toy = make_toy()
    surrogate, _ = _fitted(toy, 120, stderr=0.1)  # noise as large as all differences: anything may be on the front
    value = q_log_nehvi(toy.problem, surrogate, NONE, seed=1)
    assert np.isfinite(value(toy.problem.space.grid()[:8])).all()
    assert len(value.__closure__[0].cell_contents.X_baseline) == MAX_BASELINE  # type: ignore[attr-defined,index]
