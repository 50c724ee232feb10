"""Expected hypervolume improvement in closed form: only one objective is random, all others are known exactly.

Minimise a loss ``f ~ N(mu, sigma^2)`` and costs ``t``, below the reference ``(r, R)``. The envelope ``e(s)``, the least
loss seen at costs of at most s, is a step function. A policy of loss f and costs t improves the hypervolume by
``integral over s from t to R of (e(s) - f)_+ ds``, so that its expectation is a sum over the steps of the envelope,

    EHVI = sum_k w_k(t) EI(e_k),    EI(e) = sigma (z Phi(z) + phi(z)),    z = (e - mu) / sigma,

with ``w_k(t)`` the volume of step k beyond t: the steps are cut into boxes once, and a box beyond t is a box. The
candidate is not sampled (ours, after Emmerich, Deutz and Klinkenberg, 2011).

Noise: the losses of the evaluated policies are themselves uncertain. They are drawn from their joint posterior; a
candidate's mean shifts with every draw, its variance does not, and the improvement is averaged over the draws. Running
trials, and earlier choices of a batch, join the draws with a sampled loss (sequential greedy; Wilson et al., 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

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

MAX_BOXES = 2**14
"""That the steps of two and more costs are cut into; a front that needs more is thinned."""

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
        self.reference_costs = reference_costs
        kept = _relevant(losses, costs, reference_loss, reference_costs)
        while True:
            cut = [_boxes(draw[kept], costs[kept], reference_loss, reference_costs) for draw in losses]
            if max(len(level) for _, _, level in cut) <= MAX_BOXES:
                break
            kept = kept[np.argsort(costs[kept, 0], kind="stable")][::2]
        self.kept = kept
        self._steps = []  # of each draw: corners of its boxes, ordered by level; levels; where each begins
        for low, high, level in cut:
            order = np.argsort(level, kind="stable")
            levels, starts = np.unique(level[order], return_index=True)
            self._steps.append((low[order], high[order], levels, starts))

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
        for draw, (low, high, levels, starts) in enumerate(self._steps):
            for rows in _slices(len(costs), max(1, _CHUNK // len(low))):
                width = np.ones((1, 1))
                for j in range(costs.shape[1]):
                    width = width * np.maximum(high[:, j] - np.maximum(low[:, j], costs[rows, j, None]), 0.0)
                grouped = np.add.reduceat(width, starts, axis=1)  # c x levels
                at, spread = (values[min(draw, len(values) - 1), rows, None] for values in (mean, np.atleast_2d(sd)))
                total[rows] += (grouped * rule(levels, at, spread)).sum(-1)
        return total / len(self._steps)


def _boxes(
    losses: Floats, costs: Floats, reference_loss: float, reference_costs: Floats
) -> tuple[Floats, Floats, Floats]:  # n, n x q -> boxes x q, boxes x q, boxes
    """Boxes of costs below the reference, none of which overlap, and the least loss seen in each.

    Policies take what they dominate from what is left, the best loss first; what they take of a box is a box, and the
    rest of it is cut into at most q.
    """
    if costs.shape[1] == 1:
        return _line(losses, costs[:, 0], reference_loss, reference_costs)
    low, high = np.full((1, costs.shape[1]), -np.inf), reference_costs[None].astype(np.float64)
    taken: list[tuple[Floats, Floats, Floats]] = []
    for i in np.argsort(losses, kind="stable"):
        if losses[i] >= reference_loss:
            break
        hit = (high > costs[i]).all(-1)
        start, end = low[hit], high[hit]
        inside = np.maximum(start, costs[i])
        taken.append((inside, end, np.full(len(end), losses[i])))
        left = [(low[~hit], high[~hit])]
        for j, cost in enumerate(costs[i]):  # what lies before the policy along j, and beyond it along all before j
            cut = start[:, j] < cost
            before = end[cut].copy()
            before[:, j] = cost
            left.append((start[cut].copy(), before))
            start[:, j] = inside[:, j]
        low, high = (np.concatenate(part) for part in zip(*left, strict=True))
    taken.append((low, high, np.full(len(low), reference_loss)))
    low, high, level = (np.concatenate(part) for part in zip(*taken, strict=True))
    return low, high, level


def _line(
    losses: Floats, costs: Floats, reference_loss: float, reference_costs: Floats
) -> tuple[Floats, Floats, Floats]:
    """The same along one cost, where boxes are intervals."""
    order = np.argsort(costs, kind="stable")
    edges = np.r_[-np.inf, costs[order], reference_costs]
    level = np.minimum.accumulate(np.r_[reference_loss, losses[order]])
    return edges[:-1, None], edges[1:, None], level


def _relevant(
    losses: Floats, costs: Floats, reference_loss: float, reference_costs: Floats
) -> NDArray[np.intp]:  # indices
    """Policies that are on the front of some draw, above the reference."""
    inside = np.flatnonzero((costs < reference_costs).all(-1) & (losses.min(0, initial=np.inf) < reference_loss))
    on_front = np.zeros(len(inside), dtype=np.bool_)
    for draw in losses[:, inside]:
        good = draw < reference_loss
        on_front[good] |= non_dominated(-np.column_stack([draw, costs[inside]])[good])
    return inside[on_front]


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
