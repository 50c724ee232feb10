"""Contracts that every registered scheme keeps."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.quant import (
    LsqScheme,
    Quantizer,
    Role,
    Site,
    UniformScheme,
    build_quantizer,
    register_scheme,
    scheme_from_dict,
    scheme_to_dict,
    schemes,
)

EVEN = sorted(name for name, scheme in schemes().items() if issubclass(scheme, UniformScheme))
"""Schemes with an even grid; the others have tests of their own."""


def build(scheme: UniformScheme, bits: int, channels: int, axis: int) -> Quantizer:
    shape = [3, 3, 3]
    shape[axis] = channels
    quantizer = build_quantizer(scheme, bits, shape=shape, axis=axis if scheme.per_channel else None)
    assert quantizer is not None
    return quantizer


@settings(deadline=None, max_examples=100)
@given(
    name=st.sampled_from(EVEN),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    axis=st.sampled_from([None, 0, 1, 2]),
    observer=st.sampled_from(["minmax", "percentile", "mse"]),
    spread=st.floats(1e-5, 1e5),
    seed=st.integers(0, 2**16),
)
def test_forward_is_scale_times_integers_minus_zero_point(
    name: str, bits: int, symmetric: bool, axis: int | None, observer: str, spread: float, seed: int
) -> None:
    scheme = scheme_from_dict(
        {"scheme": name, "symmetric": symmetric, "per_channel": axis is not None, "observer": observer}
    )
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 6, 7, generator=generator) * spread
    quantizer = build_quantizer(scheme, bits, shape=x.shape, axis=axis)
    assert quantizer is not None
    quantizer.calibrate(x)
    wide = 3 * x  # beyond the range too
    integers, grid = quantizer.integers(wide), quantizer.qparams()
    assert torch.equal(quantizer(wide), grid.dequantize(integers))
    scale, point = grid.scale, grid.zero_point
    if axis is not None:
        shape = [1, 1, 1]
        shape[axis] = -1
        scale, point = scale.reshape(shape), point.reshape(shape)
    assert torch.equal(quantizer(wide), scale * (integers - point))
    assert torch.equal(integers, integers.round()) and bool((scale > 0).all())
    assert (grid.qmin, grid.qmax) == ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1))
    assert grid.qmin <= integers.min() and integers.max() <= grid.qmax
    torch.testing.assert_close(quantizer(quantizer(wide)), quantizer(wide))


@pytest.mark.parametrize("name", EVEN)
def test_schemes_round_trip_through_json(name: str) -> None:
    scheme = schemes()[name](symmetric=False, per_channel=False, observer="percentile", percentile=99.0)  # type: ignore[call-arg]
    document = json.loads(json.dumps(scheme_to_dict(scheme)))
    assert document["scheme"] == name and document["version"] == 1
    assert scheme_from_dict(document) == scheme
    with pytest.raises(FrozenInstanceError):
        scheme.symmetric = True  # type: ignore[attr-defined]


def test_bad_documents() -> None:
    with pytest.raises(UnknownName, match="unknown scheme 'lqs'; known: .*Did you mean 'lsq'"):
        scheme_from_dict({"scheme": "lqs"})
    with pytest.raises(UnknownName, match="unknown option of scheme 'lsq' 'symetric'; .*Did you mean 'symmetric'"):
        scheme_from_dict({"scheme": "lsq", "symetric": True})
    with pytest.raises(InputError, match="scheme 'uniform' is of version 7; this version reads 1"):
        scheme_from_dict({"scheme": "uniform", "version": 7})
    with pytest.raises(UnknownName, match="unknown observer 'mean'; known: minmax, mse, percentile"):
        UniformScheme(observer="mean")
    for percentile in (50.0, 101.0, float("nan")):
        with pytest.raises(InputError, match=r"percentile .* is out of range; expected more than 50"):
            LsqScheme(percentile=percentile)


def test_a_name_is_registered_once() -> None:
    assert register_scheme("lsq")(LsqScheme) is LsqScheme

    with pytest.raises(InputError, match="scheme 'lsq' is already LsqScheme; choose another name"):

        @register_scheme("lsq")
        @dataclass(frozen=True)
        class Other(UniformScheme):
            pass


def test_sixteen_and_thirty_two_bits_are_off() -> None:
    assert build_quantizer(UniformScheme(), 16, shape=(3, 3), axis=0) is None
    assert build_quantizer(UniformScheme(), 32) is None
    with pytest.raises(InputError, match="12 bits are not supported"):
        build_quantizer(UniformScheme(), 12)


def test_a_scale_per_channel_needs_channels() -> None:
    with pytest.raises(InputError, match="scheme 'lsq' with a scale per channel does not fit an activation; set per_"):
        build_quantizer(LsqScheme(per_channel=True), 4)


@pytest.mark.parametrize("name", EVEN)
def test_an_uncalibrated_quantizer_refuses_to_run(name: str) -> None:
    scheme = schemes()[name](per_channel=False)  # type: ignore[call-arg]
    quantizer = build_quantizer(scheme, 4)
    assert quantizer is not None
    with pytest.raises(InputError, match="this quantizer has seen no data yet; run calibrate"):
        quantizer(torch.ones(2))
    quantizer.site = Site(Role.ACTIVATION, "relu_3", ("conv",))
    with pytest.raises(InputError, match="the activation quantizer of 'relu_3' has seen no data yet"):
        quantizer(torch.ones(2))
    quantizer.start_observing()
    x = torch.linspace(-1, 1, 9)
    assert quantizer(x) is x
    quantizer.stop_observing()
    assert quantizer.calibrated and not torch.equal(quantizer(x), x)
    empty = build_quantizer(scheme, 4)
    assert empty is not None
    empty.load_state_dict(quantizer.state_dict())
    assert torch.equal(empty(x), quantizer(x)) and "bits=4" in repr(empty)
