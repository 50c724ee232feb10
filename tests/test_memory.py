import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

import mobo_mpq as mm
from mobo_mpq.layers import architecture_digest
from mobo_mpq.testing.networks import mobilenet_v2, traced


@pytest.fixture(scope="module")
def mobilenet() -> tuple[mm.LayerSpec, ...]:
    return traced(mobilenet_v2, 3, 224, 224).layers


def kib(layers: tuple[mm.LayerSpec, ...], policy: mm.Policy, **switches: bool) -> float:
    return mm.peak_activation_bytes(layers, policy, **switches) / 1024


def test_mobilenet_v2_needs_what_mcunet_v2_says(mobilenet: tuple[mm.LayerSpec, ...]) -> None:
    # Lin et al., NeurIPS 2021: 1372 kB at 224 x 224 in int8; its first layer 539 kB
    eight = mm.Policy.uniform(mobilenet, 8, 8)
    assert kib(mobilenet, eight) == 1372.0
    assert kib(mobilenet, eight, in_place_depthwise=False) == 1470.0
    assert kib(mobilenet[:1], eight) == 539.0
    assert kib(mobilenet, mm.Policy.uniform(mobilenet, 2, 4)) == 1372.0 / 2


def test_a_tensor_has_the_bits_of_those_that_read_it(mobilenet: tuple[mm.LayerSpec, ...]) -> None:
    expand, depthwise = mobilenet[3], mobilenet[4]
    assert expand.reader == depthwise.name
    policy = mm.Policy.uniform(mobilenet, 8, 8).with_bits(depthwise.name, activation=4)
    assert kib(mobilenet[3:4], policy) == 112 * 112 * (16 * 8 + 96 * 4) / 8 / 1024


class Around(nn.Module):
    """Two convolutions, a depthwise one between them, and a shortcut around all three."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.wide = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.down(self.wide(torch.nn.functional.silu(self.up(x))))
        return self.fc(self.pool(x).flatten(1))


def test_shortcuts_stay_in_memory() -> None:
    layers = mm.trace_layers(Around(), torch.zeros(2, 3, 4, 4))
    stem, up, wide, down, fc = layers
    # the sum is read by no layer before it is pooled, so that the tie of its operands is known by who reads one of them
    assert [layer.reader for layer in layers] == ["up", "wide", "down", "up", ""]
    assert [layer.reused for layer in layers] == [False, True, False, False, False]
    assert [layer.held for layer in layers] == [(), (), (("up", 128),), (("up", 128),), ()]
    policy = mm.Policy.of({"stem": (8, 8), "up": (8, 2), "wide": (8, 8), "down": (8, 4), "fc": (8, 4)})
    tensors = {"image": 48 * 8, "stem": 128 * 2, "up": 256 * 8, "wide": 256 * 4, "down": 128 * 2, "skip": 128 * 2}
    bits = [tensors["up"] + tensors["wide"] + tensors["skip"], tensors["up"] + tensors["skip"]]
    assert mm.peak_activation_bytes(layers, policy, in_place_depthwise=False) * 8 == bits[0]
    assert mm.peak_activation_bytes(layers, policy) * 8 == bits[1]
    assert mm.peak_activation_bytes(layers, policy, shortcuts=False) * 8 == tensors["stem"] + tensors["up"]
    # scores stay in float
    assert mm.peak_activation_bytes((fc,), policy) * 8 == 8 * 4 + 5 * 32


class Reread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


def test_a_depthwise_layer_does_not_overwrite_what_is_read_again() -> None:
    layers = mm.trace_layers(Reread(), torch.zeros(2, 4, 4, 4))
    assert layers[0].reused and layers[1].held == (("", 64),)
    policy = mm.Policy.uniform(layers, 8, 8)
    assert mm.peak_activation_bytes(layers[:1], policy) == 64 + 64 * 4
    assert mm.peak_activation_bytes(layers[:1], policy, shortcuts=False) == 64 * 4


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_queries_and_keys_wait_in_float() -> None:
    layers = mm.trace_layers(Attention(), torch.zeros(2, 5, 8))
    assert [layer.reader for layer in layers] == ["", "", "", ""]
    assert [layer.held for layer in layers] == [(), (("", 40),), (("", 40), ("", 40)), ()]
    policy = mm.Policy.uniform(layers, 8, 8)
    assert mm.peak_activation_bytes(layers, policy) == 40 + 3 * 40 * 4


def test_layers_made_by_hand_follow_one_another() -> None:
    shapes = [(4, 8, 8), (16, 8, 8), (16, 4, 4)]
    layers = [
        mm.LayerSpec(f"c{i}", "conv", (b[0], a[0], 3, 3), a, b)  # type: ignore[arg-type]
        for i, (a, b) in enumerate(zip(shapes, shapes[1:], strict=False))
    ]
    policy = {"c0": (8, 8), "c1": (8, 4)}
    first = math.prod(shapes[0]) * 8 + math.prod(shapes[1]) * 4
    last = math.prod(shapes[1]) * 4 + math.prod(shapes[2]) * 32
    assert mm.peak_activation_bytes(layers, policy) * 8 == max(first, last)


def test_what_cannot_be_counted_is_refused(mobilenet: tuple[mm.LayerSpec, ...]) -> None:
    with pytest.raises(mm.InputError, match="the network has no layer; expected at least one"):
        mm.peak_activation_bytes([], {})
    with pytest.raises(mm.InputError, match=r"the policy lacks layer 'features\.0\.0'; expected a policy of the same"):
        mm.peak_activation_bytes(mobilenet, {"conv": (8, 8)})


def test_memory_is_no_part_of_an_architecture(mobilenet: tuple[mm.LayerSpec, ...]) -> None:
    plain = [dataclasses.replace(layer, reader="", reused=False, held=()) for layer in mobilenet]
    assert architecture_digest(plain) == architecture_digest(mobilenet)
