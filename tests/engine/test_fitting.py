import numpy as np
import pytest
import torch
from botorch.optim.core import OptimizationResult, OptimizationStatus
from botorch.optim.fit import fit_gpytorch_mll_scipy
from linear_operator.utils.errors import NotPSDError

from mobo_mpq.engine import fitting
from mobo_mpq.engine.features import Features
from mobo_mpq.engine.fitting import Data, Fitter, State, build, optimise, state_of
from mobo_mpq.engine.kernel import Parameters

LOG_4 = np.log(4.0)


def planted(
    seed: int, *, n: int = 60, rho: float = 1.0, noise: float = 0.0, scrambled: bool = False, exact: bool = False
) -> tuple[Features, Data]:
    """Losses that add up over 8 variables, whose sizes are told as they are or scrambled."""
    rng = np.random.default_rng(seed)
    size = rng.normal(0, 1.5, 8)
    fading = -LOG_4 * np.tile(np.arange(4.0), (8, 1))
    levels = rng.integers(0, 4, (n, 8))
    table = np.exp(size[:, None] + rho * fading)
    loss = (table - table[:, -1:])[np.arange(8), levels].sum(-1) + noise * rng.standard_normal(n)
    told = rng.permutation(size) if scrambled else size
    features = Features(told, fading, np.ones(8, dtype=np.bool_), True)
    return features, Data(levels, loss, exact, loss, 1e9, 1.0)


def first(data: Data, n: int) -> Data:
    return Data(data.levels[:n], data.signal[:n], data.exact, data.loss[:n], data.knee, data.span)


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fitted(features: Features, data: Data) -> tuple[Parameters, float]:
    """Hyper-parameters, and the noise's standard deviation in units of the signal."""
    model = build(features, data)
    assert optimise(model, None) in ("converged", "iterations")
    return Parameters.of(model.covar_module), model.likelihood.noise.sqrt().item() * data.unit


# --- what a fit finds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_true_sensitivities_earn_more_trust_than_scrambled_ones(seed: int) -> None:
    true, scrambled = (fitted(*planted(seed, scrambled=scrambled))[0].trust for scrambled in (False, True))
    assert true is not None and scrambled is not None
    assert true > scrambled + 0.15


def test_the_decay_is_learned() -> None:
    slow, fast = (fitted(*planted(0, rho=rho))[0].rho_weight for rho in (0.7, 1.4))
    assert slow < 0.85 and fast > 1.15


@pytest.mark.parametrize("seed", range(2))
def test_the_noise_is_learned(seed: int) -> None:
    assert fitted(*planted(seed, noise=0.5))[1] == pytest.approx(0.5, rel=0.25)
    assert fitted(*planted(seed))[1] < 0.05


# --- how a fit ends --------------------------------------------------------------------------------------------------


def test_a_fit_stops_by_iterations() -> None:
    features, data = planted(0, noise=0.5)
    assert optimise(build(features, data), None, iterations=2) == "iterations"


def test_a_fit_that_a_time_limit_stops_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    features, data = planted(0, noise=0.5)
    monkeypatch.setattr(fitting, "TIME_LIMIT_S", -1.0)
    fitter = Fitter(features, lambda n: first(data, n))
    fit = fitter.fit(6)
    assert fit is not None and fit.status == "time limit"


def test_a_fit_that_fails_keeps_the_hyper_parameters_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    features, data = planted(0, noise=0.5)
    fitter = Fitter(features, lambda n: first(data, n))
    good = fitter.fit(6)
    real = fit_gpytorch_mll_scipy

    def not_positive(*_: object, **__: object) -> None:
        raise NotPSDError("as it happens")

    def no_number(mll: torch.nn.Module, **kwargs: object) -> object:
        result = real(mll, **kwargs)
        with torch.no_grad():
            next(iter(mll.parameters())).fill_(float("nan"))
        return result

    fits = [good]
    for count, fails in ((8, not_positive), (10, no_number)):
        monkeypatch.setattr(fitting, "fit_gpytorch_mll_scipy", fails)
        fits.append(fitter.fit(count))
    assert [fit.status for fit in fits[1:] if fit] == ["failed", "failed"]
    assert good is not None and all(fit is not None and equal(fit.state, good.state) for fit in fits)
    monkeypatch.setattr(fitting, "fit_gpytorch_mll_scipy", real)
    later = fitter.fit(12)
    assert later is not None and later.status != "failed" and not equal(later.state, good.state)


@pytest.mark.parametrize(
    ("success", "message", "value", "status"),
    [
        (OptimizationStatus.SUCCESS, "", 1.0, "converged"),
        (OptimizationStatus.STOPPED, "Optimization timed out after 3 seconds.", 1.0, "time limit"),
        (OptimizationStatus.STOPPED, "TOTAL NO. OF ITERATIONS REACHED LIMIT", 1.0, "iterations"),
        (OptimizationStatus.FAILURE, "ABNORMAL", 1.0, "stalled"),
        (OptimizationStatus.FAILURE, "ABNORMAL", float("nan"), "failed"),
    ],
)
def test_every_end_has_a_name(
    monkeypatch: pytest.MonkeyPatch, success: OptimizationStatus, message: str, value: float, status: str
) -> None:
    result = OptimizationResult(step=1, fval=value, status=success, message=message)
    monkeypatch.setattr(fitting, "fit_gpytorch_mll_scipy", lambda *_, **__: result)
    assert optimise(build(*planted(0)), None) == status


# --- the chain of fits -----------------------------------------------------------------------------------------------


def test_fits_do_not_depend_on_when_somebody_asked() -> None:
    features, data = planted(1, noise=0.2)
    often, once = (Fitter(features, lambda n: first(data, n)) for _ in range(2))
    assert often.fit(5) is None
    asked = {count: often.fit(count) for count in range(6, 21)}
    last = once.fit(20)
    assert last is not None
    for count, fit in asked.items():
        again = once.fit(count)
        assert fit is not None and again is not None
        assert fit.count == again.count <= count and equal(fit.state, again.state)
    assert [asked[count].count for count in (6, 7, 8, 9, 10, 11)] == [6, 6, 8, 8, 10, 10]  # type: ignore[union-attr]


def test_fits_become_rarer_as_observations_grow() -> None:
    sizes: list[int] = []
    features, data = planted(1, n=200)

    def data_of(n: int) -> Data:
        sizes.append(n)
        return first(data, min(n, 8))

    assert Fitter(features, data_of).fit(100) is not None
    assert sizes[:3] == [6, 8, 10]
    assert all(1.2 * a <= b < 1.2 * a + 1 for a, b in zip(sizes, sizes[1:], strict=False))
    assert 100 / 1.2 - 1 < sizes[-1] <= 100


def test_exact_observations_before_noisy_ones_hand_on_what_they_have() -> None:
    features, exact = planted(2, exact=True)
    _, noisy = planted(2)
    model = build(features, exact)
    optimise(model, None)
    state = state_of(model)
    assert not any("noise" in name for name in state)
    later = build(features, noisy, state)
    assert later.likelihood.noise.item() == pytest.approx(0.003)
    assert torch.equal(later.covar_module.log_tau, model.covar_module.log_tau)
    assert equal({name: value for name, value in state_of(later).items() if name in state}, state)


def test_exact_observations_are_taken_at_their_word() -> None:
    features, data = planted(3, exact=True)
    model = build(features, data)
    assert model.likelihood.noise.max().item() == pytest.approx(1e-6)
    mean = model.eval().posterior(torch.from_numpy(data.levels.astype(float))).mean.detach().numpy()[:, 0]
    assert mean == pytest.approx(data.standardised, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2])
def test_a_fit_to_next_to_nothing(n: int) -> None:
    features, data = planted(4)
    model = build(features, first(data, n))
    assert optimise(model, None) in ("converged", "iterations", "stalled")


def test_a_fit_to_equal_losses_and_one_to_replicates() -> None:
    features, data = planted(5)
    same = Data(data.levels, np.full(60, 0.3), False, np.full(60, 0.3), 1.0, 1.0)
    again = Data(np.repeat(data.levels[:3], 20, axis=0), data.signal, True, data.loss, 1e9, 1.0)
    for one in (same, again):
        model = build(features, one)
        assert optimise(model, None) != "failed"
