"""Learners: registered by name, checked before they run, and isolated while they do."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from mobo_mpq.errors import InputError, PolicyError, UnknownName
from mobo_mpq.options import parse_options
from mobo_mpq.policy import Policy
from mobo_mpq.testing.toys import make_toy
from mobo_mpq.training.covering import covering
from mobo_mpq.training.learning import (
    LEARNERS,
    Learned,
    Learner,
    check_learner,
    default_learner,
    learn,
    learner_names,
    register_learner,
)
from mobo_mpq.trial import Recipe


@dataclass(frozen=True)
class Wanted:
    bits: float = 2.0

    def __post_init__(self):
        if self.bits < 0:
            raise InputError(f"option 'bits' of learner 'drawn' is {self.bits:g}; expected 0 or more")


@pytest.fixture
def drawn():
    """A learner that draws its bits from torch's global generator."""

    @register_learner(Recipe("drawn", epochs=1.0, options={"bits": 2.0}))
    class Drawn(Learner[Wanted]):
        def options(self, recipe):
            return parse_options(Wanted, recipe.options, f"learner '{recipe.kind}'")

        def learn(self, options, lesson):
            space = lesson.problem.space
            bits = options.bits + torch.rand(len(space.decisions)) * 4
            if options.bits > 100:
                return Learned(Policy.of({"other": (8, 8)}))
            return Learned(covering(space, bits.tolist()), None, {"first": float(bits[0]), "nothing": float("nan")})

    yield Drawn
    LEARNERS.forget("drawn")


def test_a_learner_repeats_itself_and_leaves_the_generators_alone(drawn, context):
    problem = make_toy(layers=6).problem
    state = torch.random.get_rng_state()
    found = [learn(default_learner("drawn"), context(), problem, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found[0].policy == found[1].policy and found[0].details == found[1].details
    assert len({one.policy for one in found}) > 1
    assert all(one.policy in problem.space for one in found)
    assert all(set(one.details) == {"first"} for one in found), "numbers that are not finite are left out"


def test_a_policy_of_another_space_is_refused(drawn, context):
    with pytest.raises(PolicyError, match="policy is of another model"):
        learn(Recipe("drawn", options={"bits": 101.0}), context(), make_toy(layers=2).problem, seed=0)


def test_what_is_wrong_is_said_before_anything_is_trained(drawn):
    assert "drawn" in learner_names()
    with pytest.raises(UnknownName, match="unknown learner 'drawm'.*Did you mean 'drawn'"):
        check_learner(Recipe("drawm"))
    with pytest.raises(UnknownName, match="unknown option of learner 'drawn' 'bit'"):
        check_learner(Recipe("drawn", options={"bit": 2.0}))
    with pytest.raises(InputError, match="option 'bits' of learner 'drawn' is -1; expected 0 or more"):
        check_learner(Recipe("drawn", options={"bits": -1.0}))
    with pytest.raises(InputError, match="has epochs -1"):
        check_learner(Recipe("drawn", epochs=-1))
    with pytest.raises(InputError, match="has train_fraction 0"):
        check_learner(Recipe("drawn", train_fraction=0))


@pytest.mark.parametrize("name", learner_names())
def test_every_learner_takes_its_own_defaults(name):
    recipe = default_learner(name)
    check_learner(recipe)
    assert recipe.epochs > 0 and np.isfinite(recipe.epochs)
