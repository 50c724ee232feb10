import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.engine.squeeze import Squeeze

knees = st.floats(-10, 10)
spans = st.floats(0.01, 10)
values = st.lists(st.floats(-100, 1e6), min_size=1, max_size=8)


@settings(deadline=None)
@given(knees, spans, values)
def test_nothing_changes_up_to_the_knee_and_beyond_it_only_a_logarithm_is_left(
    knee: float, span: float, listed: list[float]
) -> None:
    f = np.array(listed)
    squeezed = Squeeze(knee, span)(f)
    inside = f <= knee
    assert squeezed[inside] == pytest.approx(f[inside])
    expected = knee + span * np.log((span + f[~inside] - knee) / span)
    assert squeezed[~inside] == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(knees, spans, values)
def test_numpy_and_torch_agree_and_the_slope_is_the_derivative(knee: float, span: float, listed: list[float]) -> None:
    squeeze = Squeeze(knee, span)
    f = torch.tensor([one for one in listed if one != knee], dtype=torch.float64, requires_grad=True)
    squeezed = squeeze(f)
    (slope,) = torch.autograd.grad(squeezed.sum(), f)
    assert squeezed.detach().numpy() == pytest.approx(squeeze(f.detach().numpy()))
    assert squeeze.slope(f).detach().numpy() == pytest.approx(slope.numpy(), rel=1e-6, abs=1e-9)
    assert squeeze.slope(f.detach().numpy()) == pytest.approx(slope.numpy(), rel=1e-6, abs=1e-9)
