"""Digests of tensors."""

import hashlib

import torch

from mobo_mpq.digests import add_tensor, add_values


def digest_of(*values: object) -> str:
    digest = hashlib.sha256()
    add_values(digest, values)
    return digest.hexdigest()


def test_equal_values_have_equal_digests_however_they_lie_in_memory():
    x = torch.arange(12.0).reshape(3, 4)
    assert digest_of(x, "a") == digest_of(x.T.contiguous().T, "a")


def test_values_types_shapes_and_order_count():
    x = torch.zeros(4)
    others = [(x + 1,), (x.double(),), (x.reshape(2, 2),), (x.to(torch.int32),), (x, x), ("a",), (0,), ()]
    assert len({digest_of(*values) for values in [(x,), *others]}) == 9


def test_a_tensor_without_elements_or_axes_is_taken():
    assert digest_of(torch.zeros(0)) != digest_of(torch.tensor(0.0))


def test_labels_count():
    digests = [hashlib.sha256(), hashlib.sha256()]
    for digest, label in zip(digests, ("weight", "bias"), strict=True):
        add_tensor(digest, torch.ones(2), label)
    assert digests[0].digest() != digests[1].digest()
