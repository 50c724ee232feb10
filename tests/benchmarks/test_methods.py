"""The comparison of methods: its measure by hand, and one small search to the end."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from methods import Kept, key
from methods_plot import draw, front_of
from methods_runs import UNIFORM, Job, Scored, lead, prepared_task, rescore, run, scored, unmatched

from mobo_mpq.policy import Policy
from mobo_mpq.testing.toys import make_toy

TASK = f"{Path(__file__).parents[1]}/data/toy_task.py:Toy"


def test_the_lead_is_the_mean_gain_over_the_front_of_what_is_compared_with():
    over = [(1.0, 0.5), (2.0, 0.8), (3.0, 0.7), (4.0, 0.9)]  # the third is dominated
    assert lead(over, over, 0.0) == pytest.approx(0.0)
    assert lead([(1.0, 0.6), (2.5, 0.95)], over, 0.0) == pytest.approx((0.1 - 0.2 + 0.05) / 3)
    assert lead([(3.9, 1.0)], over, 0.0) == pytest.approx((-0.5 - 0.8 + 0.1) / 3), (
        "nothing as cheap counts as the worst"
    )
    assert lead([(3.9, 1.0)], over, 0.55) == pytest.approx((0.55 - 0.8 + 0.1) / 2)
    assert lead([(3.9, 1.0)], over, 0.0, [1.0]) == pytest.approx((-0.8 + 0.1) / 2)


def test_only_a_cheapest_policy_beside_which_nothing_is_as_cheap_has_no_match():
    problem = make_toy(4).problem
    assert unmatched(problem) == [problem.costs[0](problem.space.lowest())]
    (cost,) = problem.costs
    free = cost.table * (np.arange(4) > 0)[:, None]  # the first layer takes no time, whatever its bits
    objectives = [replace(one, table=free) if one is cost else one for one in problem.objectives]
    assert unmatched(replace(problem, objectives=tuple(objectives))) == []


def test_a_search_ends_with_its_budget_and_its_front_is_scored_again(tmp_path):
    found = run(Job(TASK, "mpic", "random", 0, 0.5))
    assert found["trials"] >= 2 and found["failed"] == 0 and found["cpu_s"] >= 0.5
    policies = [one["policy"] for one in found["front"]]
    scores, again = rescore(TASK, "mpic", policies, 0), rescore(TASK, "mpic", policies, 0)
    assert [one["test"] for one in scores] == [one["test"] for one in again]
    front = scored(TASK, "mpic", policies, [one["test"] for one in scores])
    assert 0.0 <= front.share < 1.0 and len(front.points) == len(policies)
    uniform = run(Job(TASK, "mpic", UNIFORM, 0, 0.5))
    assert all(len({tuple(bits.values()) for bits in one["policy"].values()}) == 1 for one in uniform["front"])
    kept = Kept(tmp_path / "methods.json")
    kept.runs.append(found)
    kept.write()
    read, other = Kept(tmp_path / "methods.json"), Job(TASK, "mpic", "random", 1, 0.5)
    assert read.run_of(other._replace(seed=0)) == found and read.run_of(other) is None
    draw(prepared_task(TASK, "mpic"), {"random": [front], UNIFORM: [front]}, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 10_000


def test_policies_have_keys_of_their_own():
    policies = [Policy.of({"a": (w, 8), "b": (8, a)}) for w in (2, 4) for a in (2, 4)]
    assert len({key(policy.to_dict()) for policy in policies}) == 4
    assert key(json.loads(json.dumps(policies[0].to_dict()))) == "2/8 8/2"


def test_the_front_that_is_drawn_rises():
    assert front_of(Scored([(1e-6, 0.5), (2e-6, 0.4), (3e-6, 0.6)], 0.0)) == [(1.0, 50.0), (3.0, 60.0)]
