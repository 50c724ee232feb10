"""The closed form against Monte Carlo, quadrature, exact hypervolumes and BoTorch."""

import itertools
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.monte_carlo import qExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import MCMultiOutputObjective
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm, spearmanr

from mobo_mpq.engine import acquisition
from mobo_mpq.engine.acquisition import (
    Envelope,
    Improvement,
    expected_improvement,
    expected_log_improvement,
    replicate,
)
from mobo_mpq.engine.isolation import isolated
from mobo_mpq.engine.lattice import Candidates, around
from mobo_mpq.engine.learning import Learner
from mobo_mpq.engine.surrogate import Surrogate
from mobo_mpq.objective import Measurement
from mobo_mpq.pareto import hypervolume
from mobo_mpq.testing.toys import Toy, make_toy

Floats = np.ndarray


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with isolated(0):
        yield


def _gain(losses: Floats, costs: Floats, corner: tuple[float, Floats], loss: float, cost: Floats) -> float:
    """What one more point adds to the exact hypervolume."""
    reference = -np.r_[corner[0], corner[1]]
    front = -np.column_stack([losses, costs])
    return hypervolume(np.vstack([front, -np.r_[loss, cost]]), reference) - hypervolume(front, reference)


def _gains(losses: Floats, costs: Floats, corner: tuple[float, Floats], drawn: Floats, cost: Floats) -> Floats:
    """Likewise for many losses of one policy, by brute force: its box less the union of those it shares with others."""
    low = np.append(np.maximum(costs, cost), cost[None], axis=0)
    edges = [np.unique(np.r_[low[low[:, j] < corner[1][j], j], corner[1][j]]) for j in range(len(cost))]
    total = np.zeros(len(drawn))
    for cell in itertools.product(*(range(len(edge) - 1) for edge in edges)):
        start = np.array([edge[i] for edge, i in zip(edges, cell, strict=True)])
        volume = np.prod([edge[i + 1] - edge[i] for edge, i in zip(edges, cell, strict=True)])
        covered = losses[(costs <= start).all(-1)]
        total += volume * np.maximum(min(corner[0], covered.min(initial=np.inf)) - drawn, 0.0)
    return total


@st.composite
def _fronts(draw: st.DrawFn) -> tuple[Floats, Floats, tuple[float, Floats]]:
    """Losses n, costs n x q, and the reference; points beyond it, dominated ones and equal ones among them."""
    q = draw(st.integers(1, 3))
    n = draw(st.integers(0, 9))
    numbers = st.integers(0, 12).map(lambda i: i / 10)  # a coarse grid, for ties
    points = np.array(draw(st.lists(st.lists(numbers, min_size=q + 1, max_size=q + 1), min_size=n, max_size=n)))
    points = points.reshape(n, q + 1)
    return points[:, 0], points[:, 1:], (1.0, np.full(q, 1.1))


# --- the two integrals ---------------------------------------------------------------------------------------------


@given(st.floats(0.02, 2), st.floats(-1, 1), st.floats(0.05, 1))
@settings(deadline=None, max_examples=40)
def test_both_improvements_are_the_integrals_they_stand_for(level: float, mean: float, sd: float) -> None:
    start = mean - 9 * sd
    plain = quad(lambda f: (level - f) * norm.pdf(f, mean, sd), start, max(level, start), limit=200)[0]
    assert expected_improvement(np.array(level), np.array(mean), np.array(sd)) == pytest.approx(plain, abs=1e-7)
    top = max(np.log(level), start)
    logarithmic = quad(lambda y: (level - np.exp(y)) * norm.pdf(y, mean, sd), start, top, limit=200)[0]
    found = expected_log_improvement(np.array(level), np.array(mean), np.array(sd))
    assert found == pytest.approx(logarithmic, abs=1e-7)


# --- one envelope --------------------------------------------------------------------------------------------------


@given(_fronts(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=80)
def test_a_certain_loss_improves_by_the_exact_gain(
    front: tuple[Floats, Floats, tuple[float, Floats]], seed: int
) -> None:
    losses, costs, corner = front
    rng = np.random.default_rng(seed)
    mean, cost = rng.uniform(-0.2, 1.2, 6), rng.integers(-1, 13, (6, costs.shape[1])) / 10
    found = Envelope(losses[None], costs, *corner).expected_improvement(mean[None], np.full(6, 1e-9), cost)
    exact = [_gain(losses, costs, corner, m, c) for m, c in zip(mean, cost, strict=True)]
    assert found == pytest.approx(exact, abs=1e-7)
    assert (found[(cost >= corner[1]).any(-1)] == 0).all()


@given(_fronts(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_an_uncertain_loss_improves_by_the_mean_gain(
    front: tuple[Floats, Floats, tuple[float, Floats]], seed: int
) -> None:
    """Monte Carlo with the normal's own quantiles, which for such piecewise linear gains is close to quadrature."""
    losses, costs, corner = front
    rng = np.random.default_rng(seed)
    mean, sd = rng.uniform(-0.2, 1.2, 3), rng.uniform(0.01, 0.5, 3)
    cost = rng.uniform(0.0, 1.1, (3, costs.shape[1]))
    levels = (np.arange(4000) + 0.5) / 4000
    envelope = Envelope(losses[None], costs, *corner)
    plain = envelope.expected_improvement(mean[None], sd, cost)
    positive = np.maximum(losses, 0.05)
    logarithmic = Envelope(positive[None], costs, *corner).expected_improvement(mean[None], sd, cost, log=True)
    for i in range(3):
        drawn = norm.ppf(levels, mean[i], sd[i])
        assert plain[i] == pytest.approx(_gains(losses, costs, corner, drawn, cost[i]).mean(), abs=2e-3)
        assert logarithmic[i] == pytest.approx(_gains(positive, costs, corner, np.exp(drawn), cost[i]).mean(), abs=2e-3)


@pytest.mark.parametrize("q", [1, 2, 3])
def test_monte_carlo_over_hypervolumes_agrees(q: int) -> None:
    rng = np.random.default_rng(q)
    costs = rng.random((7, q))
    losses, corner = 1.1 - costs.mean(-1) + 0.1 * rng.standard_normal(7), (1.0, np.ones(q))
    mean, sd, cost = np.array([0.3, 0.6]), np.array([0.1, 0.2]), rng.random((2, q)) * 0.7
    found = Envelope(losses[None], costs, *corner).expected_improvement(mean[None], sd, cost)
    for i in range(2):
        drawn = rng.normal(mean[i], sd[i], 1500)
        gains = [_gain(losses, costs, corner, loss, cost[i]) for loss in drawn]
        assert found[i] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(1500))


def test_draws_of_the_front_are_averaged() -> None:
    rng = np.random.default_rng(0)
    losses, costs, corner = rng.random((5, 8)), rng.random((8, 2)), (1.0, np.ones(2))
    mean, sd, cost = rng.random((5, 4)), rng.uniform(0.1, 0.3, 4), rng.random((4, 2))
    one_by_one = [Envelope(losses[[s]], costs, *corner).expected_improvement(mean[[s]], sd, cost) for s in range(5)]
    every = Envelope(losses, costs, *corner)
    assert every.expected_improvement(mean, sd, cost) == pytest.approx(np.mean(one_by_one, axis=0))
    spread = np.tile(sd, (5, 1))
    assert every.expected_improvement(mean, spread, cost) == pytest.approx(np.mean(one_by_one, axis=0))
    shared = every.expected_improvement(mean[:1], sd, cost)
    assert shared == pytest.approx(every.expected_improvement(np.tile(mean[:1], (5, 1)), sd, cost))


def test_nothing_observed_leaves_the_whole_box() -> None:
    envelope = Envelope(np.zeros((1, 0)), np.zeros((0, 2)), 1.0, np.array([2.0, 4.0]))
    found = envelope.expected_improvement(np.array([[0.5]]), np.array([1e-9]), np.array([[1.0, 1.0]]))
    assert found == pytest.approx([0.5 * 1.0 * 3.0])


def _mutually_incomparable(n: int, q: int) -> tuple[Floats, Floats, tuple[float, Floats]]:
    direction = np.abs(np.random.default_rng(0).standard_normal((n, q + 1)))
    points = 1.0 - direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return points[:, 0], points[:, 1:], (1.0, np.ones(q))


@pytest.mark.parametrize(("n", "q"), [(48, 3), (150, 3), (300, 2), (40, 4)])
def test_fronts_of_real_studies_are_exact_in_any_number_of_costs(n: int, q: int) -> None:
    losses, costs, corner = _mutually_incomparable(n, q)
    envelope = Envelope(losses[None], costs, *corner)
    assert len(envelope.kept) == n, "nothing is thinned"
    cost = np.random.default_rng(1).random((30, q)) * 0.6
    found = envelope.expected_improvement(np.full((1, 30), 0.2), np.full(30, 1e-9), cost)
    assert found == pytest.approx([_gain(losses, costs, corner, 0.2, c) for c in cost], abs=1e-9)


@pytest.mark.parametrize("q", [2, 3])
def test_large_fronts_are_thinned_to_a_bounded_number_of_boxes(q: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquisition, "MAX_BOXES", 2**9)
    whole = _mutually_incomparable(300, q)
    envelope = Envelope(whole[0][None], *whole[1:2], *whole[2])
    assert 10 < len(envelope.kept) < 300
    cost = np.random.default_rng(1).random((50, q)) * 0.5
    found = envelope.expected_improvement(np.full((1, 50), 0.3), np.full(50, 1e-9), cost)
    exact = np.array([_gain(*whole, 0.3, c) for c in cost])
    assert (found >= exact - 1e-9).all()  # what is left out can only make room
    assert np.corrcoef(found, exact)[0, 1] > 0.98


def test_one_cost_keeps_every_step_however_many_there_are() -> None:
    cost = np.linspace(0.0, 0.99, 5000)[:, None]
    envelope = Envelope(1.0 - cost.T, cost, 1.0, np.ones(1))
    assert len(envelope.kept) == 5000 - 1  # the first is no better than the reference


# --- the improvement of a fitted process ---------------------------------------------------------------------------


def _fitted(toy: Toy, n: int, noise: float = 0.0) -> Surrogate:
    """The engine's process on n random policies."""
    rng = np.random.default_rng(1)
    grid = toy.problem.space.grid()
    policies = toy.problem.space.to_policies(grid[rng.permutation(len(grid))[:n]])
    observed: list[tuple] = []
    for policy in policies:
        values: Mapping[str, Measurement] = toy.measure(policy) | {
            "accuracy": Measurement(toy.quality(policy) + noise * rng.standard_normal(), None if noise else 0.0)
        }
        observed.append((policy, values))
    return Learner(toy.problem).surrogate(observed)


class _ExactCosts(MCMultiOutputObjective):
    """The outcomes BoTorch sees: minus the sampled loss, minus the known costs."""

    def __init__(self, toy: Toy, surrogate: Surrogate) -> None:
        super().__init__()
        self.toy, self.surrogate = toy, surrogate

    def forward(self, samples: torch.Tensor, X: torch.Tensor | None = None) -> torch.Tensor:  # noqa: N803
        assert X is not None
        loss = samples[..., 0] * self.surrogate.unit + self.surrogate.shift
        levels = X.numpy().astype(np.intp)
        costs = np.stack([cost.of_levels(levels) for cost in self.toy.problem.costs], axis=-1)
        known = -torch.from_numpy(costs).expand(*loss.shape, costs.shape[-1])
        return torch.cat([-loss[..., None], known], dim=-1)


@pytest.mark.parametrize("size", [False, True])
def test_botorch_finds_the_same_improvement_on_the_same_process(size: bool) -> None:
    """Its sampled EHVI and its logarithm of it, over the front of the posterior mean, against our plug-in value."""
    toy = make_toy(5, size=size)
    surrogate = _fitted(toy, 24)
    grid = toy.problem.space.grid()[::4]
    improvement = Improvement(surrogate, toy.problem, 4, np.random.default_rng(0))
    ours = improvement.screen(Candidates.alone(grid), improvement.costs_of(grid))
    reference = torch.from_numpy(toy.problem.reference)
    points = np.column_stack([improvement.paths.mean, improvement.costs])
    cells = FastNondominatedPartitioning(ref_point=reference, Y=-torch.from_numpy(points))
    x = torch.from_numpy(grid.astype(np.float64))[:, None]
    assert ours.max() > 0
    for rule in (qExpectedHypervolumeImprovement, qLogExpectedHypervolumeImprovement):
        function = rule(
            surrogate.model,
            ref_point=reference,
            partitioning=cells,
            sampler=SobolQMCNormalSampler(torch.Size([512]), seed=0),
            objective=_ExactCosts(toy, surrogate),
        )
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = function(x).numpy()
        theirs = np.exp(theirs) if rule is qLogExpectedHypervolumeImprovement else theirs
        # squeezed disasters have no place in a normal's closed form: far beyond the knee both are nothing
        assert theirs == pytest.approx(ours, rel=0.03, abs=0.01 * ours.max())


def test_the_draws_of_the_front_are_those_of_botorchs_noisy_improvement() -> None:
    """Joint samples of the observed and the candidate, by BoTorch, and exact hypervolumes with and without it."""
    toy = make_toy(5)
    surrogate = _fitted(toy, 16, noise=0.01)
    grid = toy.problem.space.grid()[::12]
    improvement = Improvement(surrogate, toy.problem, 512, np.random.default_rng(0))
    costs = improvement.costs_of(grid)
    found = improvement.value(Candidates.alone(grid), costs)
    top = np.argsort(-found)[:4]
    n = len(surrogate.levels)
    corner = (-toy.problem.quality.reference, np.array([toy.problem.costs[0].info.reference]))
    x = torch.from_numpy(np.concatenate([surrogate.levels, grid[top]]).astype(np.float64))
    with torch.no_grad():
        torch.manual_seed(0)
        sampled = surrogate.model.posterior(x).rsample(torch.Size([512]))[..., 0].numpy()
    losses = sampled * surrogate.unit + surrogate.shift
    gains = np.array(
        [
            [_gain(draw[:n], improvement.costs, corner, draw[n + i], costs[top[i]]) for i in range(len(top))]
            for draw in losses
        ]
    )
    error = gains.std(0) / np.sqrt(512)
    assert (np.abs(gains.mean(0) - found[top]) < 5 * error + 0.02 * found[top]).all()


def test_a_screening_of_very_many_is_rough_but_ranks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(8)
    surrogate = _fitted(toy, 30)
    improvement = Improvement(surrogate, toy.problem, 4, np.random.default_rng(0))
    bases = Candidates.alone(improvement.front())
    moves = around(toy.problem, improvement.front()[:4], np.random.default_rng(0))
    exact = [improvement.screen(some, improvement.costs_of(some.levels)) for some in (bases, moves)]
    monkeypatch.setattr(acquisition, "EXACT", 0)
    rough = [improvement.screen(some, improvement.costs_of(some.levels)) for some in (bases, moves)]
    assert rough[0] == pytest.approx(exact[0])  # the policies that others are near to
    kept = np.argsort(-rough[1])[: len(moves) // 4]
    assert np.argmax(exact[1]) in kept
    assert spearmanr(rough[1], exact[1]).statistic > 0.5


def test_a_policy_that_runs_is_worth_little_more() -> None:
    toy = make_toy(5)
    surrogate = _fitted(toy, 16)
    grid = toy.problem.space.grid()
    improvement = Improvement(surrogate, toy.problem, 32, np.random.default_rng(0))
    every, costs = Candidates.alone(grid), improvement.costs_of(grid)
    before = improvement.value(every, costs)
    best = int(np.argmax(before))
    improvement.add(grid[[best]])
    after = improvement.value(every, costs)
    assert after[best] < 0.1 * before[best]
    assert after.max() > 0
    improvement.add(grid[:0])
    assert improvement.value(every, costs) == pytest.approx(after)


def test_exact_observations_are_worth_nothing_again() -> None:
    toy = make_toy(5)
    surrogate = _fitted(toy, 16)
    improvement = Improvement(surrogate, toy.problem, 8, np.random.default_rng(0))
    again = improvement.value(Candidates.alone(surrogate.levels), improvement.costs)
    grid = toy.problem.space.grid()
    every = improvement.value(Candidates.alone(grid), improvement.costs_of(grid))
    assert again.max() < 0.02 * every.max()


def test_the_front_is_that_of_the_posterior_mean() -> None:
    toy = make_toy(5, size=True)
    improvement = Improvement(_fitted(toy, 20), toy.problem, 4, np.random.default_rng(0))
    points = np.column_stack([improvement.paths.mean, improvement.costs])
    beaten = np.array([((points <= p).all(-1) & (points < p).any(-1)).any() for p in points])
    expected = {tuple(row) for row in improvement.surrogate.levels[~beaten].tolist()}
    assert {tuple(row) for row in improvement.front().tolist()} == expected
    assert 1 < len(expected) < 20


# --- evaluating again ----------------------------------------------------------------------------------------------


def test_a_member_of_the_front_is_evaluated_again_where_noise_rules() -> None:
    toy = make_toy(5)
    improvement = Improvement(_fitted(toy, 40, noise=0.01), toy.problem, 4, np.random.default_rng(0))
    again = replicate(improvement, best=0.0)
    assert again is not None
    assert again.tolist() in improvement.front().tolist()
    assert toy.problem.maximised(toy.measure(toy.problem.space.to_policies(again)[0]))[0] > 0.85
    assert replicate(improvement, best=np.inf) is None


def test_what_is_exact_is_never_evaluated_again_nor_with_several_costs() -> None:
    for toy, noise in ((make_toy(5), 0.0), (make_toy(5, size=True), 0.01)):
        improvement = Improvement(_fitted(toy, 20, noise), toy.problem, 4, np.random.default_rng(0))
        assert replicate(improvement, best=0.0) is None
