"""The lowest legal policy that has at least the bits found, against enumeration."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.testing.contracts import TOYS
from mobo_mpq.testing.toys import make_toy
from mobo_mpq.training.covering import covering

SPACES = {name: make_toy(**arguments).problem.space for name, arguments in TOYS.items()}


@pytest.mark.parametrize("name", SPACES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_decision_gets_at_least_what_was_found(name, data):
    space = SPACES[name]
    bits = [data.draw(st.floats(0.0, 9.0)) for _ in space.decisions]
    policy = covering(space, bits)
    assert policy in space
    for decision, wanted in zip(space.decisions, bits, strict=True):
        assert getattr(policy[decision.layers[0]], decision.role) >= min(wanted, decision.choices[-1]) - 1e-9


def test_policies_cover_themselves():
    for space in SPACES.values():
        for policy in space.to_policies(space.grid()[::7]):
            bits = [getattr(policy[d.layers[0]], d.role) for d in space.decisions]
            assert covering(space, bits) == policy


def test_nothing_is_raised_beyond_the_next_choice():
    space = SPACES["every combination is legal"]
    policy = covering(space, [2.1] * len(space.decisions))
    assert {bits.weight for bits in policy.values()} == {4}
