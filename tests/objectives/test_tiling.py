"""The least traffic against a walk through the loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.tiling import Buffers, Windows, least_traffic

INDEXED = {"weight": "ic", "activation": "pi", "sum": "pc"}  # i: input channels, c: output channels, p: positions


def walked(sizes: dict[str, int], limits: dict[str, float], trips: dict[str, int], order: str) -> float:
    """Bits moved when the loops run, the outermost first, and each operand keeps as many of its tiles as it can."""
    moved = 0
    for name, indices in INDEXED.items():
        if sizes[name] > limits[name]:
            return math.inf
        # what is kept from one iteration of a loop to the next: all tiles that the loops inside of it touch
        kept = {}
        for place, loop in enumerate(order):
            inside = [other for other in order[place + 1 :] if other in indices]
            kept[loop] = sizes[name] * math.prod(trips[other] for other in inside) <= limits[name]
        held: set[tuple[int, ...]] = set()
        last: dict[str, int] = {}
        for step in itertools.product(*(range(trips[loop]) for loop in order)):
            at = dict(zip(order, step, strict=True))
            changed = [loop for loop in order if last.get(loop) != at[loop]]
            if changed and changed[0] not in indices and not kept[changed[0]]:
                held.clear()  # the outermost loop that moved on uses the tiles again, and they are gone
            wanted = tuple(at[loop] for loop in indices)
            if wanted not in held:
                moved += sizes[name] * (2 if name == "sum" else 1)
                held.add(wanted)
            last = at
    return float(moved)


def enumerated(layer: Windows, buffers: Buffers, weight: int, activation: int) -> float:
    limits = {"weight": buffers.weight, "activation": buffers.activation, "sum": buffers.sum}
    best = math.inf
    size = layer.size[0]
    sides = [o for o in {min(2**k, size) for k in range(8)} if size % o == 0]
    inputs = {min(2**k, layer.in_channels) for k in range(8)}
    outputs = {min(buffers.columns * 2**k, layer.out_channels) for k in range(8)}
    for o, i, c in itertools.product(sides, inputs, outputs):
        window = layer.kernel[0] + (o - 1) * layer.stride
        sizes = {
            "weight": i * c * layer.kernel[0] ** 2 * weight,
            "activation": i * window**2 * activation,
            "sum": c * o * o * buffers.sum_bits,
        }
        trips = {
            "p": layer.images * (size // o) ** 2,
            "i": math.ceil(layer.in_channels / i),
            "c": math.ceil(layer.out_channels / c),
        }
        for order in itertools.permutations("pic"):
            best = min(best, walked(sizes, limits, trips, "".join(order)))
    return best


@settings(deadline=None, max_examples=40)
@given(
    layer=st.builds(
        Windows,
        images=st.integers(1, 2),
        size=st.integers(1, 4).map(lambda n: (n, n)),
        kernel=st.sampled_from([(1, 1), (3, 3)]),
        stride=st.integers(1, 2),
        in_channels=st.integers(1, 6),
        out_channels=st.integers(1, 6),
    ),
    buffers=st.builds(
        Buffers,
        weight=st.integers(4, 300),
        activation=st.integers(4, 300),
        sum=st.integers(8, 300),
        sum_bits=st.just(8),
        columns=st.integers(1, 3),
    ),
    weight=st.integers(1, 3),
    activation=st.integers(1, 3),
)
def test_no_order_and_no_tiles_move_less(layer, buffers, weight, activation):
    assert least_traffic(layer, buffers, 3)[weight - 1, activation - 1] == enumerated(
        layer, buffers, weight, activation
    )


def test_large_buffers_move_everything_once():
    layer = Windows(1, (8, 8), (1, 1), 1, 16, 32)
    found = least_traffic(layer, Buffers(1e9, 1e9, 1e9, 32, 4), 8)
    bits = np.arange(1, 9)
    assert found == pytest.approx(16 * 32 * bits[:, None] + 16 * 64 * bits[None] + 2 * 32 * 32 * 64)


def test_windows_of_layers():
    conv = LayerSpec("c", OpKind.CONV, (8, 2, 3, 5), (4, 20, 10), (8, 10, 5), groups=2, stride=2)
    assert Windows.of(conv, 3) == Windows(3, (10, 5), (3, 5), 2, 2, 4)
    image = LayerSpec("c", OpKind.CONV, (8, 3, 3, 3), (3, 20, 20), (8, 10, 10), stride=2)
    assert Windows.of(image, 1, unrolled=True) == Windows(1, (10, 10), (1, 1), 1, 27, 8)
    line = LayerSpec("c", OpKind.CONV, (8, 4, 3), (4, 20), (8, 20))
    assert Windows.of(line, 1) == Windows(1, (20, 1), (3, 1), 1, 4, 8)
    tokens = LayerSpec("l", OpKind.LINEAR, (8, 4), (6, 4), (6, 8))
    assert Windows.of(tokens, 1) == Windows(1, (6, 1), (1, 1), 1, 4, 8)
    one = LayerSpec("l", OpKind.LINEAR, (8, 4), (4,), (8,))
    assert Windows.of(one, 16) == Windows(16, (1, 1), (1, 1), 1, 4, 8)
