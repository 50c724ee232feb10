import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import PolicyError
from mobo_mpq.export.policy_json import PolicyDocument, read_policy, write_policy
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import Policy

POLICY = Policy.of({"conv1": (4, 8), "fc": (2, 4)})
LAYERS = [LayerSpec(name, OpKind.LINEAR, (4, 4), (4,), (4,)) for name in ("conv1", "fc")]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "policy.json"
    write_policy(path, POLICY, model_digest="0123456789abcdef", target="mpic")
    return path


def test_the_file_is_what_the_contract_says(path):
    assert json.loads(path.read_text()) == {
        "schema": 1,
        "model_digest": "0123456789abcdef",
        "target": "mpic",
        "layers": {"conv1": {"weight": 4, "activation": 8}, "fc": {"weight": 2, "activation": 4}},
    }


@settings(deadline=None)
@given(
    bits=st.dictionaries(st.text(min_size=1), st.tuples(st.integers(1, 32), st.integers(1, 32))),
    target=st.text(),
)
def test_round_trip(tmp_path_factory, bits, target):
    path = tmp_path_factory.mktemp("policy") / "p.json"
    document = PolicyDocument(Policy.of(bits), "digest", target)
    write_policy(path, document.policy, model_digest="digest", target=target)
    assert read_policy(path) == document
    assert list(read_policy(path).policy) == list(bits)


def test_it_fits_its_model(path):
    document = read_policy(path, LAYERS, model_digest="0123456789abcdef")
    assert document == PolicyDocument(POLICY, "0123456789abcdef", "mpic")


def test_further_keys_are_left_to_others(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "points": {"fc": 2}}))
    assert read_policy(path).policy == POLICY


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "is of schema 2; this version reads schema 1"),
        ({"layers": None}, 'has no "layers"'),
        ({"layers": {"fc": {"weight": "8", "activation": 8}}}, "layer 'fc' of the policy holds"),
        ({"target": 3}, '"target" is 3; expected a text'),
        ({"model_digest": None}, '"model_digest" is None; expected a text'),
    ],
)
def test_other_documents_are_refused(path, change, words):
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PolicyError) as caught:
        read_policy(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_torn_file_is_refused(path):
    path.write_text(path.read_text()[:-20])
    with pytest.raises(PolicyError, match="policy.json': the policy is not JSON"):
        read_policy(path)


def test_unreadable_and_unwritable_files(tmp_path):
    with pytest.raises(PolicyError, match="none.json' cannot be read .* written by 'mobo-mpq export'"):
        read_policy(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff")
    with pytest.raises(PolicyError, match="binary.json' cannot be read"):
        read_policy(tmp_path / "binary.json")
    with pytest.raises(PolicyError, match="cannot be written .* choose another folder"):
        write_policy(tmp_path / "none" / "p.json", POLICY, model_digest="", target="")


def test_a_policy_of_another_model_is_refused(path):
    with pytest.raises(PolicyError, match="has a layer 'fc', which the model does not; its layers are conv1:"):
        read_policy(path, LAYERS[:1])
    with pytest.raises(PolicyError, match="has no bits for layer 'extra'"):
        read_policy(path, [*LAYERS, LayerSpec("extra", OpKind.LINEAR, (4, 4), (4,), (4,))])
    with pytest.raises(PolicyError, match="is for the model of digest '0123456789ab', this one has 'fedcba'"):
        read_policy(path, LAYERS, model_digest="fedcba")
