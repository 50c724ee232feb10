"""Which operator is which layer."""

import pytest

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.profiles.entries import CONVOLUTIONS, PRODUCTS, Entry, Profile
from mobo_mpq.objectives.profiles.matching import match

STEM = LayerSpec("stem.0", OpKind.CONV, (16, 3, 3, 3), (3, 8, 8), (16, 8, 8))
DEEP = LayerSpec("block.depthwise", OpKind.DEPTHWISE, (16, 1, 3, 3), (16, 8, 8), (16, 8, 8), groups=16)
WIDE = LayerSpec("block.pointwise", OpKind.CONV, (20, 16, 1, 1), (16, 8, 8), (20, 8, 8))
HEAD = LayerSpec("head", OpKind.LINEAR, (10, 20), (20,), (10,))
LAYERS = (STEM, DEEP, WIDE, HEAD)


def profile(*entries: Entry) -> Profile:
    return Profile("p.json", "a runtime", entries)


def conv(name: str, us: float = 1.0, shape=()) -> Entry:
    return Entry(name, us * 1e-6, CONVOLUTIONS, shape, 1e-7, 9)


def product(name: str, us: float = 1.0, shape=()) -> Entry:
    return Entry(name, us * 1e-6, PRODUCTS, shape)


def other(name: str, us: float = 1.0) -> Entry:
    return Entry(name, us * 1e-6)


def found(matched) -> dict[str, tuple[tuple[str, ...], str]]:
    return {one.layer.name: (one.names, one.by) for one in matched.matches}


@pytest.mark.parametrize(
    "names",
    [
        ("stem.0", "block.depthwise", "block.pointwise", "head"),
        ("/stem/stem.0/Conv", "/block/depthwise/Conv", "/block/pointwise/Conv", "/head/Gemm"),
        ("stem.0_nchwc", "block.depthwise_nchwc", "block.pointwise_quant", "head_token_161"),
        ("/stem/stem.0/Conv + /stem/stem.2/Relu", "/block/depthwise/Conv", "/block/pointwise/Conv", "head"),
    ],
)
def test_names_with_the_prefixes_and_suffixes_of_fusion(names):
    matched = match(profile(*map(conv, names[:3]), other("add", 7), product(names[3])), LAYERS, {})
    expected = {layer.name: ((name,), "name") for layer, name in zip(LAYERS, names, strict=True)}
    assert found(matched) == expected
    assert [entry.name for entry in matched.rest] == ["add"]
    assert matched.overhead_s == pytest.approx(7e-6)
    assert (matched.matches[0].std_s, matched.matches[0].repeats) == (1e-7, 9)


def test_children_of_nested_sequences():
    layer = LayerSpec("features.1.conv.0.0", OpKind.CONV, (16, 3, 3, 3), (3, 8, 8), (16, 8, 8))
    name = "/features/features.1/conv/conv.0/conv.0.0/Conv"
    assert found(match(profile(conv(name)), [layer], {})) == {layer.name: ((name,), "name")}


def test_the_longest_name_wins_and_a_name_ends_where_it_ends():
    one, eleven, inner = (
        LayerSpec(name, OpKind.CONV, (16, 3, 3, 3), (3, 8, 8), (16, 8, 8)) for name in ("conv1", "conv11", "conv1.0")
    )
    matched = match(profile(conv("conv11"), conv("conv1.0/x"), conv("conv1/y")), [one, eleven, inner], {})
    assert found(matched) == {
        "conv1": (("conv1/y",), "name"),
        "conv11": (("conv11",), "name"),
        "conv1.0": (("conv1.0/x",), "name"),
    }


def test_operators_of_one_layer_add_up():
    matched = match(profile(other("stem.0/Quantize", 2), conv("stem.0/Conv", 5)), [STEM], {})
    assert matched.matches[0].seconds == pytest.approx(7e-6)
    assert matched.matches[0].std_s is None


def test_an_operator_of_several_layers_is_shared_by_macs():
    twin = LayerSpec("twin", OpKind.CONV, (48, 3, 3, 3), (3, 8, 8), (48, 8, 8))
    matched = match(profile(conv("/stem/stem.0/Conv || /twin/Conv", 8)), [STEM, twin], {})
    assert [one.seconds for one in matched.matches] == pytest.approx([2e-6, 6e-6])


def test_by_order_where_names_say_nothing():
    entries = (conv("node_1"), other("relu"), conv("node_2"), conv("node_3"), product("node_4"))
    matched = match(profile(*entries), LAYERS, {})
    assert [(one.names, one.by) for one in matched.matches] == [((f"node_{i}",), "order") for i in range(1, 5)]


def test_the_rest_by_order_where_some_names_say_something():
    entries = (conv("node_1"), conv("/block/depthwise/Conv"), conv("node_3"), product("/head/Gemm"))
    matched = match(profile(*entries), LAYERS, {})
    assert [one.by for one in matched.matches] == ["order", "name", "order", "name"]
    assert matched.matches[2].names == ("node_3",)


def test_shapes_find_layers_that_run_in_another_order():
    """Axes in any order; channels padded to blocks of 8 or 16, as ONNX Runtime does."""
    entries = (
        conv("a", shape=(1, 8, 8, 24)),
        product("b", shape=(1, 10)),
        conv("c", shape=(1, 16, 8, 8)),
        conv("d", shape=(1, 16, 8, 8)),
    )
    matched = match(profile(*entries), LAYERS, {})
    assert [one.names[0] for one in matched.matches] == ["c", "d", "a", "b"]


def test_maps_go_first():
    entries = (conv("x"), conv("/block/depthwise/Conv"), conv("block.pointwise"), product("y_head"))
    matched = match(profile(*entries), LAYERS, {"stem.0": "/block/depthwise", "block.depthwise": "x"})
    assert found(matched)["stem.0"] == (("/block/depthwise/Conv",), "map")
    assert found(matched)["block.depthwise"] == (("x",), "map")
    assert found(matched)["head"] == (("y_head",), "order")


def refusal(entries, maps=None, batch=1) -> str:
    with pytest.raises(InputError) as caught:
        match(profile(*entries), LAYERS, maps or {}, batch)
    return str(caught.value)


def test_refusals():
    entries = (conv("stem.0"), conv("block.depthwise"), conv("block.pointwise"), product("head"))
    with pytest.raises(UnknownName, match=r"unknown layer 'stem'; known: .*Did you mean 'stem.0'.* --map"):
        match(profile(*entries), LAYERS, {"stem": "x"})
    assert "has no operator 'x', which --map gives to layer 'head'; it has 'stem.0'" in refusal(entries, {"head": "x"})
    message = refusal(entries[:3])
    assert message.startswith("profile 'p.json' has no time for 1 of 4 layers: 'head'; no operator's name begins")
    assert message.endswith("say which is which by --map LAYER=NAME")
    assert "of another model" not in message
    message = refusal([conv(f"n{i}") for i in range(7)])
    assert "no time for 4 of 4 layers" in message
    assert "its 7 other convolutions and products ('n0', 'n1', 'n2', 'n3' and 3 more) do not line up" in message
    assert "it may be of another model" in message
    assert "layer 'head' took no time ('head'); profile more runs" in refusal([*entries[:3], product("head", 0)])


def test_kinds_have_to_line_up():
    entries = (conv("n1"), product("n2"), conv("n3"), conv("n4"))
    assert "do not line up with them in number, kind and shape" in refusal(entries)


def test_another_batch_is_recognised():
    shapes = [(4, 16, 8, 8), (4, 16, 8, 8), (4, 20, 8, 8), (4, 10)]
    entries = [conv(f"n{i}", shape=shape) for i, shape in enumerate(shapes[:3])] + [product("n3", shape=shapes[3])]
    assert refusal(entries) == "profile 'p.json' is of batch 4, not 1; give --batch 4"
    assert len(match(profile(*entries), LAYERS, {}, 4).matches) == 4
