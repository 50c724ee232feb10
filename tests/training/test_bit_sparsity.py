"""The lasso's steps on bit planes, in closed form."""

import math

import pytest
import torch

from mobo_mpq.quant.bsq import BitPlanes, group_lasso, plane_norms
from mobo_mpq.training.bit_sparsity import MEMORY, Group, Shrinkage, shares_kept


def planes_of(*values: float, bits: int = 4) -> BitPlanes:
    made = BitPlanes(bits)
    made.calibrate(torch.tensor(values))
    return made


def test_groups_weigh_by_weights_and_bits() -> None:
    """#Para #Bit / sum #Para: 300 weights of 8 bits and 100 of 4."""
    many, few = Group((planes_of(1.0, bits=8),), saved=0.75), Group((planes_of(1.0, bits=4),), saved=0.25)
    assert (many.weight, few.weight) == (6.0, 1.0)


def test_rates_follow_the_gradients() -> None:
    group = Group((planes_of(1.0, -0.5), planes_of(0.3)), saved=1.0)
    assert [rate for _, rate in group.rates(0.04)] == [0.01, 0.02, 0.04] * 2
    assert [id(plane) for plane, _ in group.rates(1.0)] == [id(p) for one in group.tied for p in one.planes]


def test_gradients_are_read_off_the_highest_planes() -> None:
    tied = (planes_of(1.0, -0.5, 0.25), planes_of(3.0, 1.0, bits=4))
    slopes = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 4.0])]
    group = Group(tied, saved=1.0)
    assert group.squared_gradient().item() == 0.0  # nothing was trained yet
    sum((one(slope) * slope).sum() for one, slope in zip(tied, slopes, strict=True)).backward()
    expected = 14.0 * tied[0].scale.item() ** 2 + 16.25 * tied[1].scale.item() ** 2
    assert group.squared_gradient().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("amount", [0.0, 0.01, 0.1, 1.0])
def test_norms_fall_by_the_amount_over_the_gradient(amount: float) -> None:
    tied = [planes_of(1.0, -0.5, 0.3, 0.8), planes_of(0.2, 1.0)]
    gradient, norms = 0.6, plane_norms(tied).tolist()
    for bit, (share, norm) in enumerate(zip(shares_kept(tied, gradient, amount), norms, strict=True)):
        rms = 2**bit / 7 * gradient / math.sqrt(6)
        assert share * norm == pytest.approx(max(0.0, norm - amount / rms), abs=1e-12)


def test_beside_the_loss_the_lasso_weighs_twice_as_much_on_each_lower_plane_as_in_the_paper() -> None:
    """Steps as they are taken, of the loss by Adam and of the lasso, against gradients of the paper's loss."""
    group, strength = Group((planes_of(1.0, -0.5, 0.3, 0.8, -0.1, bits=5),), saved=0.5), 1e-3
    (one,) = group.tied
    planes = list(one.planes)
    (0.3 * one(torch.zeros(5))).sum().backward()
    penalty = torch.autograd.grad(strength * group.weight * group_lasso(group.tied), planes)
    paper = [by.norm() / plane.grad.norm() for by, plane in zip(penalty, planes, strict=True) if plane.grad is not None]

    before = [plane.detach().clone() for plane in planes]
    torch.optim.Adam([{"params": [plane], "lr": rate} for plane, rate in group.rates(0.01)]).step()
    moved = [(plane.detach() - old).norm() for plane, old in zip(planes, before, strict=True)]
    with torch.no_grad():
        for plane, old in zip(planes, before, strict=True):
            plane.copy_(old)
    Shrinkage([group], strength, rate=0.01).step(1.0)
    fell = [(plane.detach() - old).norm() for plane, old in zip(planes, before, strict=True)]

    ratios = [(a / b / c).item() for a, b, c in zip(fell, moved, paper, strict=True)]
    assert ratios == pytest.approx([8.0, 4.0, 2.0, 1.0], rel=1e-3)


@pytest.mark.parametrize(("gradient", "amount", "kept"), [(0.0, 0.0, 1.0), (0.0, 1e-9, 0.0), (1.0, 1e300, 0.0)])
def test_extremes_are_no_nan(gradient: float, amount: float, kept: float) -> None:
    tied = [planes_of(1.0, -0.5)]
    assert shares_kept(tied, gradient, amount) == [kept] * 3
    with torch.no_grad():
        for plane in tied[0].planes:
            plane.zero_()
    assert shares_kept(tied, gradient, amount) == [kept] * 3


def test_a_step_shrinks_by_the_running_mean_and_keeps_bits_within_bounds() -> None:
    group = Group((planes_of(1.0, -0.5),), saved=1.0)
    (one,) = group.tied
    shrinkage = Shrinkage([group], strength=0.02, rate=0.5)
    squares = 0.0
    for step, slope in enumerate((1.0, 3.0), 1):
        with torch.no_grad():
            one.planes[2][0, 0] = 5.0
            one.planes[1][1, 0] = -1.0
        for plane in one.planes:
            plane.grad = None
        (one(torch.zeros(2)) * slope).sum().backward()
        squares = MEMORY * squares + (1 - MEMORY) * group.squared_gradient().item()
        gradient = math.sqrt(squares / (1 - MEMORY**step))
        kept = shares_kept(group.tied, gradient, 0.25 * 0.5 * 0.02 * 4)
        before = [plane.detach().clone() for plane in one.planes]
        shrinkage.step(0.25)
        for plane, old, share in zip(one.planes, before, kept, strict=True):
            assert 0.0 < share < 1.0
            torch.testing.assert_close(plane.detach(), (old * share).clamp(0.0, 2.0))


def test_the_highest_planes_can_be_spared() -> None:
    (one,) = (group := Group((planes_of(1.0, -0.5, 0.7),), saved=1.0, spared=2)).tied
    one(torch.zeros(3)).sum().backward()
    before = [plane.detach().clone() for plane in one.planes]
    Shrinkage([group], strength=1e9, rate=1.0).step(1.0)
    assert not one.planes[0].any()
    assert all(torch.equal(plane, old) for plane, old in zip(list(one.planes)[1:], before[1:], strict=True))
