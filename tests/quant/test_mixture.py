"""Mixtures of bits: their parts, their identities, their gradients."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobo_mpq.errors import InputError
from mobo_mpq.quant import LsqScheme, Role, Site, UniformScheme, build_quantizer, quantizers
from mobo_mpq.quant.base import Scheme
from mobo_mpq.quant.mixture import Mixing, MixtureQuantizer

SCHEMES = {
    "weight": (LsqScheme(), Site(Role.WEIGHT, "w", ("layer",), 0), 0),
    "activation": (LsqScheme(symmetric=False, per_channel=False), Site(Role.ACTIVATION, "x", ("layer",)), None),
    "fixed": (UniformScheme(), Site(Role.WEIGHT, "w", ("layer",), 0), 0),
}


def tensor(seed: int = 0) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


def mixture(
    choices: Sequence[int], scheme: Scheme = SCHEMES["weight"][0], site: Site | None = None, axis: int | None = 0
) -> MixtureQuantizer:
    parts = {bits: build_quantizer(scheme, bits, shape=(6, 5), axis=axis) for bits in choices}
    made = MixtureQuantizer(Mixing(tuple(choices)), parts, site)
    made.calibrate(tensor())
    return made


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("chosen", [2, 4, 8])
def test_one_choice_alone_is_that_quantizer(kind: str, chosen: int) -> None:
    """Bit for bit, as are the gradients of what it quantizes and of its step size."""
    scheme, site, axis = SCHEMES[kind]
    mixed = mixture((2, 4, 8), scheme, site, axis)
    alone = build_quantizer(scheme, chosen, shape=(6, 5), axis=axis)
    assert alone is not None
    alone.site = site
    alone.calibrate(tensor())
    with torch.no_grad():
        mixed.mixing.logits.copy_(torch.tensor([1e4 * (bits == chosen) for bits in (2, 4, 8)]))
    results = []
    for quantizer in (mixed, alone):
        x = tensor(1).requires_grad_()
        y = quantizer(x)
        y.square().sum().backward()
        results.append((y, x.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    part = mixed.part(chosen)
    assert part is not None
    for mine, theirs in zip(part.parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)


@settings(deadline=None, max_examples=30)
@given(logits=st.lists(st.floats(-4, 4), min_size=3, max_size=3), temperature=st.floats(0.1, 2.0))
def test_a_mixture_is_the_weighted_mean(logits: list[float], temperature: float) -> None:
    mixed = mixture((2, 3, 16))
    mixed.mixing.temperature = temperature
    with torch.no_grad():
        mixed.mixing.logits.copy_(torch.tensor(logits))
    two, three = mixed.part(2), mixed.part(3)
    assert two is not None and three is not None and mixed.part(16) is None
    p = (torch.tensor(logits) / temperature).softmax(0)
    x = tensor(2)
    torch.testing.assert_close(mixed(x), p[0] * two(x) + p[1] * three(x) + p[2] * x)


def test_gradients_of_the_logits_are_those_of_finite_differences() -> None:
    mixed, x, aim = mixture((2, 4, 8)), tensor(3), tensor(4)
    start, step = torch.tensor([0.3, -0.5, 0.1]), 1e-2

    def value(logits: Tensor) -> Tensor:
        with torch.no_grad():
            mixed.mixing.logits.copy_(logits)
        return (mixed(x) * aim).double().sum()

    value(start).backward()  # type: ignore[no-untyped-call]
    gradient = mixed.mixing.logits.grad
    with torch.no_grad():
        slopes = [(value(start + e) - value(start - e)) / (2 * step) for e in step * torch.eye(3)]
    torch.testing.assert_close(gradient, torch.stack(slopes).float(), rtol=2e-3, atol=2e-3)


def test_lower_temperatures_tend_to_one_choice() -> None:
    mixing = Mixing((2, 4, 8))
    with torch.no_grad():
        mixing.logits.copy_(torch.tensor([0.1, 0.3, 0.2]))
    largest = []
    for mixing.temperature in (1.0, 0.1, 0.01):
        p = mixing.probabilities()
        assert float(p.detach().sum()) == pytest.approx(1.0)
        largest.append(float(p.detach().max()))
    assert largest == sorted(largest) and largest[-1] > 0.9999


def test_parts_are_no_quantizers_of_the_network_and_logits_no_parameters() -> None:
    mixing = Mixing((4, 8))
    holder = nn.Module()
    for name in ("first", "second"):
        parts = {bits: build_quantizer(LsqScheme(), bits, shape=(6, 5), axis=0) for bits in (4, 8)}
        holder.add_module(name, MixtureQuantizer(mixing, parts, SCHEMES["weight"][1]))
    assert list(quantizers(holder)) == ["first", "second"]
    assert all(parameter is not mixing.logits for parameter in holder.parameters())
    assert len(list(holder.parameters())) == 4  # a step size for each choice of each tensor
    first = holder.get_submodule("first")
    assert isinstance(first, MixtureQuantizer) and first.part(4) is not None
    assert first.part(4).site == first.site  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ((2, 4), "a mixture of 2, 4, 8 bits got quantizers of 2, 4; expected one for each"),
        ((), "got quantizers of none"),
    ],
)
def test_parts_have_to_be_those_of_the_choices(bits: tuple[int, ...], message: str) -> None:
    parts = {b: build_quantizer(LsqScheme(), b, shape=(6, 5), axis=0) for b in bits}
    with pytest.raises(InputError, match=message):
        MixtureQuantizer(Mixing((2, 4, 8)), parts)
