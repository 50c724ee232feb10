"""Expected hypervolume improvement in closed form: only one objective is random, all others are known exactly.

Minimise a loss ``f ~ N(mu, sigma^2)`` and costs ``t``, below the reference ``(r, R)``. The envelope ``e(s)``, the least
loss seen at costs of at most s, is a step function. A policy of loss f and costs t improves the hypervolume by
``integral over s from t to R of (e(s) - f)_+ ds``, so that its expectation is a sum over the steps of the envelope,

    EHVI = sum_k w_k(t) EI(e_k),    EI(e) = sigma (z Phi(z) + phi(z)),    z = (e - mu) / sigma,

with ``w_k(t)`` the volume of step k beyond t. No box decomposition, no sampling of the candidate (ours, after Emmerich,
Deutz and Klinkenberg, 2011).

Noise: the losses of the evaluated policies are themselves uncertain. They are drawn from their joint posterior; a
candidate's mean shifts with every draw, its variance does not, and the improvement is averaged over the draws. Running
trials, and earlier choices of a batch, join the draws with a sampled loss (sequential greedy; Wilson et al., 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from mobo_mpq.arrays import Floats, Levels
from mobo_mpq.engine.lattice import Candidates
from mobo_mpq.engine.paths import Paths
from mobo_mpq.engine.surrogate import Surrogate
from mobo_mpq.pareto import non_dominated
from mobo_mpq.problem import Problem

EXACT = 2**15
"""Up to so many candidates times observations, all candidates are screened by the exact posterior."""

MAX_CELLS = 4096
"""Of the grid that two and more costs span; fronts are thinned to keep it."""

_CHUNK = 2**21  # numbers held at once
_UNDERFLOW = 1e-30
"""Where every improvement underflows, uncertainty decides: what is known least is looked at."""

_SQRT_2_PI = float(np.sqrt(2 * np.pi))


def expected_improvement(level: Floats, mean: Floats, sd: Floats) -> Floats:
    """``E[(level - f)_+]`` of a normal f; broadcasts."""
    z = (level - mean) / sd
    return np.asarray(sd * (z * ndtr(z) + np.exp(-0.5 * z * z) / _SQRT_2_PI))


def expected_log_improvement(level: Floats, mean: Floats, sd: Floats) -> Floats:
    """``E[(level - exp(y))_+]`` of a normal y, where the process models the logarithm of a positive loss.

    The price of a put option (Black and Scholes, 1973); ``level`` is positive.
    """
    d = (np.log(level) - mean) / sd
    return np.asarray(level * ndtr(d) - np.exp(mean + 0.5 * sd * sd) * ndtr(d - sd))


class Envelope:
    """The least loss at costs of at most s, as a step function, for several draws of the losses at once.

    Args:
        losses: ``draws x n``, minimised.
        costs: ``n x q``, minimised.
        reference_loss: r.
        reference_costs: q, R.
    """

    def __init__(self, losses: Floats, costs: Floats, reference_loss: float, reference_costs: Floats) -> None:
        q = costs.shape[1]
        relevant = _relevant(losses, costs, reference_loss, reference_costs)
        values, kept = losses[:, relevant], costs[relevant]
        self.reference_costs = reference_costs
        self.edges = [np.unique(kept[:, j]) for j in range(q)]
        index = tuple(np.searchsorted(edge, kept[:, j]) + 1 for j, edge in enumerate(self.edges))
        shape = tuple(len(edge) + 1 for edge in self.edges)
        self._steps = []  # of each draw: levels, an order of the cells that groups equal levels, starts of the groups
        for draw in values:
            level = np.full(shape, reference_loss)
            np.minimum.at(level, index, draw)
            for axis in range(q):
                level = np.minimum.accumulate(level, axis=axis)
            order = np.argsort(level, axis=None, kind="stable")
            levels, starts = np.unique(level.ravel()[order], return_index=True)
            self._steps.append((levels, order, starts))

    def expected_improvement(self, mean: Floats, sd: Floats, costs: Floats, *, log: bool = False) -> Floats:
        """Expected hypervolume improvement of candidates, averaged over the draws.

        Args:
            mean: ``draws x c``, or ``1 x c`` where it is the same for all.
            sd: c, or of the shape of the mean.
            costs: ``c x q``.
            log: whether the process models the logarithm of the loss.
        """
        rule = expected_log_improvement if log else expected_improvement
        total = np.zeros(len(costs))
        cells = int(np.prod([len(edge) + 1 for edge in self.edges]))
        for rows in _slices(len(costs), max(1, _CHUNK // cells)):
            width = self._widths(costs[rows])
            for draw, (levels, order, starts) in enumerate(self._steps):
                grouped = np.add.reduceat(width[:, order], starts, axis=1)  # c x levels
                at, spread = (values[min(draw, len(values) - 1), rows, None] for values in (mean, np.atleast_2d(sd)))
                total[rows] += (grouped * rule(levels, at, spread)).sum(-1)
        return total / len(self._steps)

    def _widths(self, costs: Floats) -> Floats:  # c x q -> c x cells
        """Volume of each cell beyond the candidates' costs."""
        sides = []
        for j, edge in enumerate(self.edges):
            low, high = np.r_[-np.inf, edge], np.r_[edge, self.reference_costs[j]]
            sides.append(np.maximum(high - np.maximum(low, costs[:, j, None]), 0.0))
        product: Floats = reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(costs), -1), sides)
        return product


def _relevant(
    losses: Floats, costs: Floats, reference_loss: float, reference_costs: Floats
) -> NDArray[np.intp]:  # indices
    """Policies that are on the front of some draw, above the reference; thinned where their grid would be too large."""
    inside = np.flatnonzero((costs < reference_costs).all(-1) & (losses.min(0, initial=np.inf) < reference_loss))
    if not len(inside):
        return inside
    on_front = np.zeros(len(inside), dtype=np.bool_)
    for draw in losses[:, inside]:
        good = draw < reference_loss
        on_front[good] |= non_dominated(-np.column_stack([draw, costs[inside]])[good])
    kept = inside[on_front]
    most = int(MAX_CELLS ** (1 / costs.shape[1])) - 1
    if costs.shape[1] == 1 or len(kept) <= most:
        return kept
    order = kept[np.argsort(costs[kept, 0], kind="stable")]
    return order[np.linspace(0, len(order) - 1, most).round().astype(int)]


def _slices(n: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


class Improvement:
    """Noisy expected hypervolume improvement.

    Args:
        surrogate: fitted to the measured objective.
        problem: its costs and references.
        draws: of the joint posterior of the front.
        rng: of the draws.
    """

    def __init__(self, surrogate: Surrogate, problem: Problem, draws: int, rng: np.random.Generator) -> None:
        self.surrogate, self.problem, self.rng = surrogate, problem, rng
        self.paths = Paths(surrogate, draws, rng)
        self.costs = self.costs_of(surrogate.levels)
        self.reference_loss = -problem.quality.sign * problem.quality.reference
        self.reference_costs = np.array([cost.info.reference for cost in problem.costs])

    def costs_of(self, levels: Levels) -> Floats:  # c x d -> c x q
        """All costs of policies."""
        return np.stack([cost.of_levels(levels) for cost in self.problem.costs], axis=-1)

    @cached_property
    def _sampled(self) -> Envelope:
        return Envelope(self.paths.values, self.costs, self.reference_loss, self.reference_costs)

    @cached_property
    def _plain(self) -> Envelope:
        return Envelope(self.paths.mean[None], self.costs, self.reference_loss, self.reference_costs)

    def add(self, levels: Levels) -> None:  # p x d
        """Running policies: their losses are sampled."""
        if len(levels):
            self.paths.add(levels, self.rng)
            self.costs = np.concatenate([self.costs, self.costs_of(levels)])
            for envelope in ("_sampled", "_plain"):  # they are made when they are asked for, not before
                self.__dict__.pop(envelope, None)

    def front(self) -> Levels:  # s x d
        """Observed policies that no other one beats by the posterior mean, each once."""
        n = len(self.surrogate.levels)
        mask = non_dominated(-np.column_stack([self.paths.mean[:n], self.costs[:n]]))
        return np.unique(self.surrogate.levels[mask], axis=0)

    def screen(self, candidates: Candidates, costs: Floats) -> Floats:  # c x q -> c
        """Improvement over the front of the posterior mean: a plug-in, for choosing what is looked at closely."""
        surrogate, levels = self.surrogate, candidates.levels
        if len(levels) * len(surrogate.levels) > EXACT:
            mean, sd = surrogate.near(levels, candidates.base, candidates.of)
        else:
            rows = surrogate.rows(levels, candidates.base, candidates.of)
            mean, sd = surrogate.mean_of(levels, rows), surrogate.sd_of(levels, rows)
        loss, spread = surrogate.to_loss(mean, sd)
        return self._plain.expected_improvement(loss[None], spread, costs) + _UNDERFLOW * spread

    def value(self, candidates: Candidates, costs: Floats) -> Floats:  # c x q -> c
        """Improvement averaged over the draws of the front."""
        rows = self.surrogate.rows(candidates.levels, candidates.base, candidates.of)
        mean, spread = self.paths.conditional(candidates.levels, rows)
        return self._sampled.expected_improvement(mean, spread, costs) + _UNDERFLOW * np.atleast_2d(spread).mean(0)


def replicate(improvement: Improvement, best: float) -> Levels | None:  # d
    """The member of the front that is worth evaluating again, if knowing it better is worth more than a new policy.

    Another observation moves the posterior mean of a member by a normal amount of standard deviation
    ``sd^2 / sqrt(sd^2 + noise^2)``; what that is worth is taken as the expected positive part, over the costs for which
    the member stands on the front (ours; one cost alone).

    Args:
        improvement: with running policies added.
        best: greatest expected improvement of a new policy.
    """
    surrogate = improvement.surrogate
    if surrogate.data.exact or improvement.costs.shape[1] > 1:
        return None
    front = improvement.front()
    signal, spread = surrogate.posterior(front)
    mean, sd = surrogate.to_loss(signal, spread)
    noise = surrogate.to_loss(signal, np.full(len(front), surrogate.noise_sd))[1]
    cost = improvement.costs_of(front)[:, 0]
    order = np.argsort(cost, kind="stable")
    width = np.diff(np.r_[cost[order], improvement.reference_costs[0]])
    change = np.square(sd[order]) / np.sqrt(np.square(sd[order]) + np.square(noise[order]))
    worth = np.maximum(width, 0.0) * change / _SQRT_2_PI * (mean[order] < improvement.reference_loss)
    index = int(np.argmax(worth))
    return front[order[index]] if worth[index] > best else None
