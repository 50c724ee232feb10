"""Gates and blocks of levels, against the Kronecker products of the paper."""

import itertools
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError
from mobo_mpq.quant.gates import Gated, Gates, block_means


def matrix(gates):
    """U of the paper, and its normalisation."""
    factors = [torch.eye(2) if gate else torch.ones(2, 2) for gate in gates]
    u = reduce(torch.kron, factors)
    return u, u.sum(0)


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_sums_of_rows_and_columns_are_the_size_of_a_block(bits):
    for gates in itertools.product((0, 1), repeat=bits):
        u, normalisation = matrix(gates)
        size = 2.0 ** (bits - sum(gates))
        assert torch.equal(u.sum(0), u.sum(1)) and set(normalisation.tolist()) == {size}


@pytest.mark.parametrize("bits", [2, 3, 6])
@pytest.mark.parametrize("on", [0, 1, 2])
def test_block_means_are_the_product_with_u_for_ordered_gates(bits, on):
    q = torch.randn(2**bits, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    u, normalisation = matrix([1] * on + [0] * (bits - on))
    expected = q @ (u.double() / normalisation)
    assert torch.allclose(block_means(q, on).repeat_interleave(2 ** (bits - on)), expected)
    by_q = torch.autograd.functional.jacobian(lambda one: block_means(one, on), q)
    assert torch.allclose(by_q.repeat_interleave(2 ** (bits - on), 0), (u / normalisation).double())


def test_gates_in_another_order_would_average_levels_that_lie_apart():
    u, _ = matrix((0, 1, 1))
    assert u[0].nonzero().flatten().tolist() == [0, 4]
    u, _ = matrix((1, 1, 0))
    assert [row.nonzero().flatten().tolist() for row in u[::2]] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_the_last_gate_off_averages_neighbouring_pairs():
    q = torch.randn(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block_means(q, 4), q)
    assert torch.equal(block_means(q, 3), (q[::2] + q[1::2]) / 2)


@settings(deadline=None, max_examples=60)
@given(logits=st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=6))
def test_gates_count_up_to_the_first_that_is_off(logits):
    gates = Gates(range(2, 3 + len(logits)))
    gates.logits.data = torch.tensor(logits)
    first = next((i for i, logit in enumerate(gates.logits.tolist()) if logit < 0), len(logits))
    assert gates.level == first and gates.bits == 2 + first
    assert gates.opened().tolist() == pytest.approx([1.0] * first + [0.0] * (len(logits) - first))
    assert gates.effective_bits().item() == pytest.approx(gates.bits)


def test_gates_start_on_and_the_highest_is_the_first_to_go():
    gates = Gates((2, 4, 8))
    assert gates.bits == 8 and gates.logits.tolist() == [1.0, 0.5]
    assert "precisions=(2, 4, 8)" in repr(gates)


def test_more_bits_where_a_gate_rises():
    gates = Gates((2, 4, 8))
    gates.settle(4)
    gates.logits.requires_grad_(True)
    gates.effective_bits().backward()
    by_first, by_second = gates.logits.grad.tolist()
    slope = torch.sigmoid(torch.tensor(1.0)) * torch.sigmoid(torch.tensor(-1.0))
    assert by_first == pytest.approx(2 * float(slope)) and by_second == pytest.approx(4 * float(slope))


def test_settled_gates_learn_no_more():
    gates = Gates((2, 4, 8))
    assert gates.learning
    gates.settle(2)
    assert gates.bits == 2 and not gates.learning
    with pytest.raises(InputError, match="3 bits are none of the precisions 2, 4, 8"):
        gates.settle(3)
    assert not Gates((8,)).learning
    with torch.no_grad():
        assert not Gates((4, 8)).learning


@pytest.mark.parametrize("precisions", [(), (4, 4), (8, 4)])
def test_precisions_have_to_increase(precisions):
    with pytest.raises(InputError, match="expected at least one, increasing"):
        Gates(precisions)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_gradients_of_gates_are_those_of_the_sum_of_residuals(level):
    """Finite differences of ``Q_0 + sum_j c_j (Q_j - Q_{j-1})`` by the cumulative gates c."""
    generator = torch.Generator().manual_seed(level)
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    upstream = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    values = [torch.round(x * step) / step for step in (1, 3, 15)]
    opened = torch.tensor([float(level > 0), float(level > 1)], dtype=torch.float64, requires_grad=True)
    quantized = values[level].clone().requires_grad_()
    passed = Gated.apply(quantized, opened, x, lambda _, i: values[i], level)
    assert torch.equal(passed, values[level])
    (passed * upstream).sum().backward()
    assert torch.equal(quantized.grad, upstream)

    def total(c):
        return ((values[0] + c[0] * (values[1] - values[0]) + c[1] * (values[2] - values[1])) * upstream).sum()

    for j in (0, 1):
        ends = [opened.detach().clone() for _ in range(2)]
        ends[0][j] -= 0.5
        ends[1][j] += 0.5
        assert float(opened.grad[j]) == pytest.approx(float(total(ends[1]) - total(ends[0])))
    assert total(opened.detach()) == pytest.approx(float((values[level] * upstream).sum()))
