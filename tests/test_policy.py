import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import PolicyError
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import LayerBits, Policy

bits = st.tuples(st.integers(1, 32), st.integers(1, 32))
policies = st.dictionaries(st.text(min_size=1), bits, min_size=1, max_size=8).map(Policy.of)


def test_bits_are_read_by_name() -> None:
    policy = Policy.of({"conv1": (8, 4), "fc": (4, 8)})
    assert policy["conv1"] == LayerBits(weight=8, activation=4)
    assert list(policy) == ["conv1", "fc"]
    assert len(policy) == 2
    with pytest.raises(KeyError):
        policy["conv2"]


def test_uniform() -> None:
    layers = [LayerSpec(name, OpKind.LINEAR, (1, 1), (1,), (1,)) for name in ("a", "b")]
    assert Policy.uniform(layers, 4, 8) == Policy.of({"a": (4, 8), "b": (4, 8)})


def test_policies_are_values() -> None:
    one, two = Policy.of({"a": (2, 4), "b": (8, 8)}), Policy.of({"a": (2, 4), "b": (8, 8)})
    assert one == two
    assert hash(one) == hash(two)
    assert one != Policy.of({"b": (8, 8), "a": (2, 4)})  # the order is that of the network
    assert one != {"a": (2, 4), "b": (8, 8)}


def test_with_bits_changes_one_layer_of_a_copy() -> None:
    policy = Policy.of({"a": (2, 4), "b": (8, 8)})
    assert policy.with_bits("b", weight=4) == Policy.of({"a": (2, 4), "b": (4, 8)})
    assert policy.with_bits("a", activation=2) == Policy.of({"a": (2, 2), "b": (8, 8)})
    assert policy["b"].weight == 8
    with pytest.raises(PolicyError, match="no layer 'c' in this policy; its layers are a, b"):
        policy.with_bits("c", weight=2)


@settings(deadline=None, max_examples=50)
@given(policies)
def test_json_round_trip(policy: Policy) -> None:
    assert Policy.from_json(policy.to_json()) == policy
    assert Policy.from_dict(policy.to_dict()) == policy


def test_further_keys_of_a_document_are_left_alone() -> None:
    document = {"schema": 1, "target": "mpic", "layers": {"a": {"weight": 2, "activation": 4}}}
    assert Policy.from_json(json.dumps(document)) == Policy.of({"a": (2, 4)})


def test_the_digest_goes_with_the_bits() -> None:
    policy = Policy.of({"a": (2, 4), "b": (8, 8)})
    assert policy.digest == Policy.of({"b": (8, 8), "a": (2, 4)}).digest
    assert policy.digest != policy.with_bits("a", weight=4).digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the policy is not JSON"),
        ("[]", 'has no "layers"; expected a file written by'),
        ('{"schema": 1}', 'has no "layers"'),
        ('{"schema": 9, "layers": {}}', "is of schema 9; this version reads schema 1: export it again"),
        ('{"layers": {}}', "is of schema None"),
        ('{"schema": 1, "layers": {"a": 8}}', "layer 'a' of the policy holds 8; expected"),
        ('{"schema": 1, "layers": {"a": {"weight": 8}}}', "layer 'a' of the policy holds"),
        ('{"schema": 1, "layers": {"a": {"weight": 0, "activation": 8}}}', "whole numbers above 0"),
        ('{"schema": 1, "layers": {"a": {"weight": true, "activation": 8}}}', "whole numbers above 0"),
        ('{"schema": 1, "layers": {"a": {"weight": 2.5, "activation": 8}}}', "whole numbers above 0"),
    ],
)
def test_documents_that_are_no_policy_are_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.from_json(text)
