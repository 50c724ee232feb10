import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.engine.observations import POWERS, Link, Observations


def observations(
    loss: list[float], divergence: list[float] | None = None, reference: float = 1.0, exact: bool = True
) -> Observations:
    levels = np.arange(len(loss), dtype=np.intp)[:, None]
    signal = None if divergence is None else np.array(divergence)
    return Observations(levels, np.array(loss), signal, reference, np.full(len(loss), exact))


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", POWERS)
def test_known_links_are_recovered(power: float) -> None:
    true = Link(-0.9, 0.37, power)
    divergence = np.linspace(0.01, 3.0, 20)
    link = Link.between(divergence, true.loss(divergence))
    assert (link.offset, link.factor, link.power) == pytest.approx((-0.9, 0.37, power))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-10, 10)), min_size=2, max_size=12))
def test_no_link_falls(pairs: list[tuple[float, float]]) -> None:
    divergence, loss = np.array(pairs).T
    link = Link.between(divergence, loss)
    assert link.factor >= 0
    assert (np.diff(link.loss(np.linspace(0, 10, 50))) >= 0).all()
    if link.factor == 0:
        assert link.offset == pytest.approx(loss.mean())


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(0.01, 10), st.sampled_from(POWERS), st.floats(1e-3, 10))
def test_the_signal_of_a_loss_inverts_the_link(offset: float, factor: float, power: float, signal: float) -> None:
    link = Link(offset, factor, power)
    assert link.signal(float(link.loss(np.array(signal)))) == pytest.approx(signal, rel=1e-4)
    assert link.signal(offset - 1.0) == 0.0


@pytest.mark.parametrize("power", POWERS)
def test_the_slope_is_the_derivative_and_bounded(power: float) -> None:
    link = Link(0.1, 2.0, power)
    signal = np.array([0.5, 2.0])
    numeric = (link.loss(signal + 1e-6) - link.loss(signal - 1e-6)) / 2e-6
    assert link.slope(signal, 0.1) == pytest.approx(numeric, rel=1e-6)
    if power != 1.0:
        assert link.slope(np.array([-1.0, 0.0]), 0.1) == pytest.approx(link.slope(np.array([0.1, 0.1]), 0.1))


def test_without_a_link_the_signal_is_the_loss() -> None:
    signal = np.array([-2.0, 0.0, 3.0])
    assert Link().loss(signal).tolist() == signal.tolist()
    assert Link().slope(signal, 1.0).tolist() == [1.0] * 3


# --- observations ----------------------------------------------------------------------------------------------------


def test_the_knee_is_half_a_span_beyond_the_reference() -> None:
    data, link = observations([0.2, 0.6, 5.0]).direct()
    assert (data.span, data.knee) == pytest.approx((0.8, 1.4))
    assert link == Link()
    assert data.signal.tolist() == [0.2, 0.6, 5.0] and data.exact


def test_where_nothing_is_better_than_the_reference_the_best_is_the_knees_origin() -> None:
    data, _ = observations([3.0, 2.0, 6.0], reference=1.0).direct()
    assert (data.span, data.knee) == pytest.approx((4.0, 4.0))
    assert data.squeezed[:2].tolist() == [3.0, 2.0] and 4.0 < data.squeezed[2] < 6.0


@pytest.mark.parametrize("loss", [[0.5], [0.5] * 4, [1.0] * 4, [-0.9] * 3])
def test_equal_losses_are_standardised_to_zero(loss: list[float]) -> None:
    data, _ = observations(loss).direct()
    assert data.unit == data.span > 0
    assert data.standardised == pytest.approx(0.0, abs=1e-12)
    assert data.squeeze.span > 0


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e6])
def test_the_unit_of_the_loss_does_not_matter(factor: float) -> None:
    loss = np.array([0.1, 0.4, 0.9, 3.0])
    plain, _ = observations(loss.tolist()).direct()
    scaled, _ = observations((factor * loss).tolist(), reference=factor).direct()
    assert scaled.standardised == pytest.approx(plain.standardised)
    assert scaled.squeeze == pytest.approx(plain.squeeze)
    assert plain.standardised.std() == pytest.approx(1.0) and plain.standardised.mean() == pytest.approx(0.0)


def test_a_disaster_leaves_room_for_the_differences_near_the_front() -> None:
    loss = [0.1, 0.2, 0.3, 1e6]
    data, _ = observations(loss).direct()
    assert np.isfinite(data.standardised).all()
    assert data.squeezed[3] < 20
    assert data.standardised[1] - data.standardised[0] > 0.01


def test_the_first_observations_know_nothing_of_later_ones() -> None:
    everything = observations([0.5, 0.6, 0.1], [1.0, 2.0, 3.0])
    first = everything.first(2)
    assert first.levels.tolist() == [[0], [1]] and first.loss.tolist() == [0.5, 0.6]
    assert first.divergence is not None and first.divergence.tolist() == [1.0, 2.0]
    assert observations([0.5, 0.6]).first(1).divergence is None
    assert first.span == pytest.approx(0.5)


def test_only_policies_near_the_reference_teach_the_link() -> None:
    loss = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 50.0]
    assert observations(loss).near().tolist() == list(range(7))
    disasters = [0.5, *np.linspace(10, 20, 9).tolist()]
    assert observations(disasters).near().tolist() == list(range(6))  # the best few


def test_the_divergence_is_modelled_where_it_speaks_of_the_loss() -> None:
    divergence = np.linspace(0.0, 2.0, 8)
    loss = 0.1 + 0.5 * divergence
    made = observations(loss.tolist(), divergence.tolist()).by_divergence()
    assert made is not None
    data, link = made
    assert (link.offset, link.factor, link.power) == pytest.approx((0.1, 0.5, 1.0))
    assert data.signal.tolist() == divergence.tolist() and data.loss.tolist() == loss.tolist()
    assert link.loss(np.array(data.knee)) == pytest.approx(1.0 + 0.5 * 0.9)  # where the direct one has its knee
    assert data.span == pytest.approx(data.knee)


def test_a_divergence_that_is_unknown_or_says_nothing_is_not_modelled() -> None:
    loss = np.linspace(0.1, 0.9, 8).tolist()
    assert observations(loss).by_divergence() is None
    assert observations(loss[:5], loss[:5]).by_divergence() is None  # too few to link
    assert observations(loss, loss[::-1]).by_divergence() is None  # the more divergence the better
    assert observations(loss, [1.0] * 8).by_divergence() is None
    assert observations([0.5] * 8, loss).by_divergence() is None


def test_noise_counts_from_the_first_noisy_observation_on() -> None:
    mixed = Observations(np.zeros((3, 1), dtype=np.intp), np.arange(3.0), None, 1.0, np.array([True, True, False]))
    assert [mixed.first(n).direct()[0].exact for n in (1, 2, 3)] == [True, True, False]
