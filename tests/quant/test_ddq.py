"""DDQ's quantizer: the uniform one where levels are even, and what is different where they are not."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.quant import UniformScheme, build_quantizer
from mobo_mpq.quant.ddq import DdqQuantizer, Resolution, nearest, pulled
from mobo_mpq.quant.gates import Gates, block_means


def make(x, precisions=(2, 4, 8), *, axis=None, symmetric=True, bits=None, **options):
    gates = Gates(precisions)
    shape = () if axis is None else (x.shape[axis],)
    quantizer = DdqQuantizer(Resolution(symmetric, **options), gates, shape, axis)
    quantizer.calibrate(x)
    if bits is not None:
        gates.settle(bits)
    return quantizer


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    symmetric=st.booleans(),
    axis=st.sampled_from([None, 0, 1]),
    spread=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**16),
)
def test_even_levels_are_the_uniform_quantizer_bit_for_bit(bits, symmetric, axis, spread, seed):
    x = data(6, 5, 9, seed=seed) * spread
    scheme = UniformScheme(symmetric=symmetric, per_channel=axis is not None)
    uniform = build_quantizer(scheme, bits, shape=x.shape, axis=axis)
    uniform.calibrate(x)
    wide = 2 * x
    own = make(x, (2, 3, 4, 8), axis=axis, symmetric=symmetric, bits=bits, levels="uniform")
    assert torch.equal(own(wide), uniform(wide))
    shared = make(x, range(2, bits + 1), axis=axis, symmetric=symmetric, levels="uniform", ranges="shared")
    assert shared.gates.bits == bits  # all gates on
    assert torch.equal(shared(wide), uniform(wide))
    for ranges, precisions in (("own", (2, 3, 4, 8)), ("shared", range(2, bits + 1))):
        learned = make(x, precisions, axis=axis, symmetric=symmetric, bits=bits, levels="learned", ranges=ranges)
        assert torch.equal(learned(wide), uniform(wide))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("scale", [0.5, 0.3, 1e-3])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_even_levels_break_ties_as_the_uniform_quantizer_does(bits, scale, axis, symmetric):
    uniform = build_quantizer(
        UniformScheme(symmetric=symmetric, per_channel=axis is not None), bits, shape=[3], axis=axis
    )
    uniform.calibrate(data(3, 50))
    uniform.scale.copy_(scale * torch.tensor([1.0, 0.7, 3.0]) if axis == 0 else torch.tensor(scale))
    if not symmetric:
        uniform.zero_point.copy_(torch.tensor([0, 1, 2**bits - 2]) if axis == 0 else torch.tensor(1))
    ties = (torch.arange(-(2**bits) - 2, 2**bits + 2) + 0.5).repeat(3, 1) * uniform.scale.reshape(-1, 1)
    near = [ties, *(ties.nextafter(torch.tensor(end)) for end in (-9.0, 9.0))]
    for ranges in ("own", "shared"):
        quantizer = make(data(3, 50), (2, bits) if bits > 2 else (2,), axis=axis, symmetric=symmetric, ranges=ranges)
        index = len(quantizer.gates.precisions) - 1
        quantizer.scale(index).data.copy_(uniform.scale)
        quantizer.get_buffer(f"zero_point{index}").copy_(uniform.zero_point)
        assert all(torch.equal(quantizer(x), uniform(x)) for x in near)


@pytest.mark.parametrize("ranges", ["own", "shared"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_there_are_no_more_values_than_gates_allow(ranges, bits):
    x = data(4000)
    quantizer = make(x, range(2, 6), bits=bits, ranges=ranges, symmetric=False)
    for shift in quantizer.shifts:
        shift.data.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    found = quantizer(x).unique()
    assert 2 ** (bits - 1) < len(found) <= 2**bits


def test_shared_ranges_average_pairs_where_the_last_gate_goes_off():
    x = data(4000)
    quantizer = make(x, (3, 4), ranges="shared")
    for shift in quantizer.shifts:
        shift.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(1))
    wide = torch.linspace(-9, 9, 5001)
    fine = quantizer(wide).unique()
    quantizer.gates.settle(3)
    torch.testing.assert_close(quantizer(wide).unique(), (fine[::2] + fine[1::2]) / 2)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), bits=st.integers(1, 5), axis=st.sampled_from([None, 1]))
def test_the_nearest_level_is_taken_and_gradients_are_exact(seed, bits, axis):
    generator = torch.Generator().manual_seed(seed)
    even = torch.arange(2**bits, dtype=torch.float64)
    levels = (even + torch.rand(2**bits, generator=generator, dtype=torch.float64) - 0.5).requires_grad_()
    channels = 1 if axis is None else 3
    step = (0.5 + torch.rand(channels, generator=generator, dtype=torch.float64)).requires_grad_()
    first = torch.round(-(2**bits) * torch.rand(channels, generator=generator, dtype=torch.float64))
    if axis is None:
        step, first = step.detach()[0].requires_grad_(), first[0]
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64) * 2**bits
    y = nearest(x, step, first, levels, axis)
    values = step.detach()[..., None] * (first[..., None] + levels.detach())  # (channels) x levels
    distance = (x[..., None] - values).abs()
    assert torch.allclose((y - x).abs(), distance.min(-1).values)

    upstream = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (y * upstream).sum().backward()
    index = distance.argmin(-1)
    one_hot = torch.nn.functional.one_hot(index, 2**bits).double()  # x_o of the paper
    expected = ((upstream * step.detach())[..., None] * one_hot).sum((0, 1))
    assert torch.allclose(levels.grad, expected)
    for k in range(2**bits):  # finite differences, each value on the level that it is on
        moved = levels.detach().clone()
        moved[k] += 1e-3
        change = ((step * (first + moved[index]) - y) * upstream).sum() / 1e-3
        assert float(levels.grad[k]) == pytest.approx(float(change.detach()), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), bits=st.integers(1, 5), axis=st.sampled_from([None, 1]))
def test_levels_that_are_moved_too_far_keep_their_order(seed, bits, axis):
    generator = torch.Generator().manual_seed(seed)
    even = torch.arange(2.0**bits)
    levels = even + 4 * torch.rand(2**bits, generator=generator).round() - 2  # by 2 steps, either way
    step, first = torch.tensor(0.7), torch.tensor(-3.0)
    if axis is not None:
        step, first = step * torch.tensor([1.0, 2.0]), first + torch.tensor([0.0, 1.0])
    x = torch.randn(40, 2, generator=generator) * 2**bits
    places = even + (levels - even).sign() / 2
    assert bool((places.diff() >= 0).all())
    values = step[..., None] * (first[..., None] + places)
    y = nearest(x, step, first, levels, axis)
    torch.testing.assert_close((y - x).abs(), (x[..., None] - values).abs().amin(-1))


def test_a_level_at_its_bound_goes_no_further_and_comes_back_when_its_gradient_turns():
    x = data(200)
    quantizer = make(x, (2,), bits=2, correction=0.0)
    (shift,) = quantizer.shifts
    shift.data.copy_(torch.tensor([0.6, -0.6, 0.6, -0.6]))  # both sides, past the bound
    for upward in (1.0, -1.0):
        shift.grad = None
        (-upward * quantizer(x)).sum().backward()  # descent moves levels upward, or down
        back = shift.detach() * upward < 0
        assert torch.equal(shift.grad != 0, back) and bool((shift.grad[back] * upward < 0).all())
    optimizer = torch.optim.SGD([shift], lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(x).sum().backward()  # down
        optimizer.step()
    assert bool((shift[::2] < 0.5).all()) and torch.equal(shift[1::2], torch.tensor([-0.6, -0.6]))


@pytest.mark.parametrize("axis", [None, 0])
def test_what_is_no_number_stays_none(axis):
    x = data(3, 40)
    quantizer = make(x, axis=axis)
    expected = quantizer(x).detach()
    broken = x.clone().index_fill(1, torch.tensor([7]), torch.nan).requires_grad_()
    y = quantizer(broken)
    assert bool(y[:, 7].isnan().all())
    kept = torch.arange(40) != 7
    assert torch.equal(y[:, kept], expected[:, kept])
    y[:, kept].sum().backward()
    assert bool(broken.grad[:, kept].isfinite().all())
    assert torch.equal(
        quantizer(torch.tensor([[torch.inf, -torch.inf]] * 3)), quantizer(torch.tensor([[1e9, -1e9]] * 3))
    )


@pytest.mark.parametrize("bits", [2, 3])
def test_the_gradient_of_q_is_a_row_of_u(bits):
    """d(sum x_q)/dq_k = sum over x of (U / Z)_k x_o, by finite differences in q itself."""
    q = torch.arange(8.0, dtype=torch.float64) + 0.2 * data(8, seed=3).double()
    x = 3.5 + 3 * data(50, seed=4).double()
    block = 2 ** (3 - bits)

    def total(q):
        levels = (block_means(q, bits) - (block - 1) / 2) / block
        return nearest(x, torch.tensor(float(block)), torch.tensor((block - 1) / 2 / block), levels, None).sum()

    by_q = torch.autograd.functional.jacobian(total, q)
    index = (x[:, None] - block_means(q, bits)).abs().argmin(1)
    assert torch.allclose(by_q, torch.bincount(index, minlength=2**bits).repeat_interleave(block).double() / block)
    for k in range(8):
        moved = q.clone()
        moved[k] += 1e-7  # too little for any value to change its level
        assert float(by_q[k]) == pytest.approx(float(total(moved) - total(q)) / 1e-7, abs=1e-4)


@pytest.mark.parametrize("levels", ["learned", "uniform"])
def test_values_are_pulled_to_their_levels_and_those_out_of_range_are_left(levels):
    x = torch.tensor([-9.0, -0.3, 0.1, 0.4, 9.0], requires_grad=True)
    quantizer = make(torch.linspace(-1, 1, 100), bits=2, levels=levels, correction=0.5)
    upstream = torch.tensor([1.0, 1.0, -2.0, 3.0, 1.0])
    y = quantizer(x)
    (y * upstream).sum().backward()
    step = quantizer.scale(0).detach()
    pull = 0.5 * upstream.abs() * (x - y).detach() / step
    assert torch.allclose(x.grad[1:4], upstream[1:4] + pull[1:4])
    assert x.grad[0] == 0.0 and x.grad[4] == 0.0
    moved = (x - 0.01 * (x.grad - upstream)).detach()  # along the correction alone
    assert bool(((moved - y).abs()[1:4] < (x - y).abs()[1:4]).all())
    with torch.no_grad():
        assert pulled(y, x, step, 0.5, None) is y


def test_the_step_learns_as_lsq_does():
    x = data(32, 20)
    lsq = make(x, bits=4, levels="uniform", correction=0.0)
    free = make(x, bits=4, levels="learned", correction=0.0)
    gradients = []
    for quantizer in (lsq, free):
        (quantizer(2 * x) * x).sum().backward()
        gradients.append(float(quantizer.scale(1).grad))
        assert quantizer.scale(0).grad is None and quantizer.scale(2).grad is None
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-3)


def test_only_the_shifts_of_the_precision_in_use_learn():
    x = data(500)
    quantizer = make(x, bits=4)
    quantizer(x).square().sum().backward()
    assert [shift.grad is not None and bool(shift.grad.any()) for shift in quantizer.shifts] == [False, True, False]
    quantizer.shifts[0].data.fill_(0.25)
    moved = quantizer.levels(0) - torch.arange(256.0)
    assert torch.equal(moved, torch.full((256,), 16.0))  # a quarter of a coarse step everywhere


@pytest.mark.parametrize("levels", ["learned", "uniform"])
def test_gates_learn_what_another_precision_would_change(levels):
    x = data(300)
    quantizer = make(x, levels=levels, correction=0.0)
    quantizer.gates.logits.data = torch.tensor([0.0, -0.0001])  # 4 bits
    upstream = data(300, seed=1)
    (quantizer(x) * upstream).sum().backward()
    at = [quantizer.at(x, i).detach() for i in range(3)]
    slopes = [float((upstream * (at[i + 1] - at[i])).sum()) / 4 for i in (0, 1)]  # a sigmoid's slope is 1/4 at 0
    assert quantizer.gates.logits.grad.tolist() == pytest.approx(slopes, rel=1e-3)


def test_sixteen_bits_leave_the_tensor_alone():
    x = data(300)
    quantizer = make(x, (4, 8, 16))
    assert quantizer.bits == 8 and quantizer.gates.bits == 16
    assert torch.equal(quantizer(x), x)
    (quantizer(x) * x).sum().backward()
    assert bool(torch.isfinite(quantizer.gates.logits.grad).all())
    quantizer.gates.settle(4)
    assert len(quantizer(x).unique()) <= 16


@pytest.mark.parametrize("levels", ["learned", "uniform"])
def test_states_round_trip(levels):
    x = data(8, 30)
    quantizer = make(x, axis=0, bits=4, levels=levels)
    for shift in quantizer.shifts:
        shift.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(1))
    empty = DdqQuantizer(Resolution(levels=levels), Gates((2, 4, 8)), (8,), 0)
    with pytest.raises(InputError, match="has seen no data yet"):
        empty(x)
    empty.load_state_dict(quantizer.state_dict())
    assert torch.equal(empty(x), quantizer(x)) and torch.equal(copy.deepcopy(quantizer)(x), quantizer(x))


def test_fitting_again_forgets_what_was_learned():
    x = data(500)
    quantizer = make(x, bits=4)
    before = quantizer(x)
    quantizer.shifts[1].data.fill_(0.3)
    assert not torch.equal(quantizer(x), before)
    quantizer.calibrate(x)
    assert torch.equal(quantizer(x), before)


def test_words_and_numbers_out_of_range():
    with pytest.raises(UnknownName, match="unknown value of option 'levels' of DDQ 'learnt'.*Did you mean 'learned'"):
        Resolution(levels="learnt")
    with pytest.raises(UnknownName, match="unknown value of option 'ranges' of DDQ 'own one'"):
        Resolution(ranges="own one")
    for correction in (-0.1, float("inf"), float("nan")):
        with pytest.raises(InputError, match=re.escape(f"option 'correction' of DDQ is {correction!r}; expected 0 or")):
            Resolution(correction=correction)
