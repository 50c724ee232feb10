"""Costs between policies, against the exact tables on them."""

import numpy as np
import pytest
import torch

from mobo_mpq.errors import InfeasibleBudget, InputError
from mobo_mpq.testing.contracts import TOYS
from mobo_mpq.testing.toys import make_toy
from mobo_mpq.training.soft_costs import SoftCost


def bits_of(space, policy):
    return torch.tensor([float(getattr(policy[d.layers[0]], d.role)) for d in space.decisions], dtype=torch.float64)


def one_hot(space, policy):
    return [
        torch.tensor([float(b == getattr(policy[d.layers[0]], d.role)) for b in d.choices], dtype=torch.float64)
        for d in space.decisions
    ]


@pytest.mark.parametrize("arguments", TOYS.values(), ids=list(TOYS))
def test_on_policies_the_cost_is_exact(arguments):
    problem = make_toy(**arguments).problem
    space = problem.space
    for cost in problem.costs:
        soft = SoftCost(problem, cost.info.name)
        for policy in [space.lowest(), *space.sample(20, np.random.default_rng(0)), space.highest()]:
            share = cost(policy) / cost(space.highest())
            assert float(soft.interpolated(bits_of(space, policy))) == pytest.approx(share, rel=1e-6)
            assert float(soft.expected(one_hot(space, policy))) == pytest.approx(share, rel=1e-6)


def test_between_policies_the_cost_is_the_mean_over_independent_draws():
    problem = make_toy(layers=3, activation_bits=(4, 8)).problem
    space = problem.space
    generator = torch.Generator().manual_seed(0)
    p = [torch.rand(len(d.choices), generator=generator, dtype=torch.float64) for d in space.decisions]
    p = [one / one.sum() for one in p]
    mean = 0.0
    for policy in space.to_policies(space.grid()):
        share = problem.costs[0](policy) / problem.costs[0](space.highest())
        mean += share * float(
            torch.stack([(a * b).sum() for a, b in zip(p, one_hot(space, policy), strict=True)]).prod()
        )
    assert float(SoftCost(problem).expected(p)) == pytest.approx(mean, rel=1e-6)


def test_gradients_are_those_of_finite_differences():
    problem = make_toy(layers=4, activation_bits=(2, 4, 8)).problem
    soft, space = SoftCost(problem), problem.space
    generator = torch.Generator().manual_seed(1)
    bits = 2.2 + 5.5 * torch.rand(len(space.decisions), generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(soft.interpolated, bits.requires_grad_(), eps=1e-4, atol=1e-6)
    outside = torch.full((len(space.decisions),), 40.0, dtype=torch.float64, requires_grad=True)
    soft.interpolated(outside).backward()
    assert outside.grad is not None and not outside.grad.any()
    assert float(soft.interpolated(outside.detach())) == pytest.approx(1.0)


def test_a_pair_that_the_device_lacks_costs_what_it_is_run_as():
    toy = make_toy(layers=2, weight_bits=(8, 32), activation_bits=(8, 32), depthwise_pairs={(8, 8), (32, 32)})
    soft, space = SoftCost(toy.problem), toy.problem.space
    mixed = bits_of(space, space.lowest())
    for i, decision in enumerate(space.decisions):
        if decision.role == "weight":
            mixed[i] = 32.0
    assert torch.isfinite(soft.interpolated(mixed))
    assert float(soft.interpolated(bits_of(space, space.lowest()))) < float(soft.interpolated(mixed)) <= 1.0


def test_a_budget_below_the_cheapest_policy_is_refused():
    soft = SoftCost(make_toy(layers=3).problem)
    soft.check_reachable(soft.least)
    with pytest.raises(
        InfeasibleBudget, match="budget 'latency_s' of .* is impossible: the cheapest legal policy costs"
    ):
        soft.check_reachable(0.9 * soft.least)
    with pytest.raises(InputError, match="no cost 'energy_j'"):
        SoftCost(make_toy(layers=3).problem, "energy_j")
