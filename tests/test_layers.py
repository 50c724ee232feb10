import json
from dataclasses import asdict

import pytest

from mobo_mpq.layers import LayerSpec, OpKind, architecture_digest, readers


def test_macs_and_weights_of_a_convolution() -> None:
    layer = LayerSpec("conv1", OpKind.CONV, (64, 3, 7, 7), (3, 224, 224), (64, 112, 112), stride=2)
    assert layer.macs == 118_013_952  # the first layer of ResNet-18
    assert layer.num_weights == 9408


def test_macs_of_a_depthwise_convolution() -> None:
    layer = LayerSpec("dw", OpKind.DEPTHWISE, (32, 1, 3, 3), (32, 112, 112), (32, 112, 112), groups=32)
    assert layer.macs == 3_612_672


def test_macs_of_a_linear_layer_count_every_position() -> None:
    assert LayerSpec("fc", OpKind.LINEAR, (1000, 512), (512,), (1000,)).macs == 512_000
    assert LayerSpec("query", OpKind.LINEAR, (768, 768), (197, 768), (197, 768)).macs == 197 * 768 * 768


def test_macs_of_a_product_of_two_activations() -> None:
    scores = LayerSpec("scores", OpKind.MATMUL, (), (12, 197, 64), (12, 197, 197))
    assert (scores.macs, scores.num_weights) == (12 * 197 * 197 * 64, 0)


def test_kind_and_shapes_may_come_as_strings_and_lists() -> None:
    layer = LayerSpec("fc", "linear", [10, 4], [4], [10])  # type: ignore[arg-type]
    assert layer.kind is OpKind.LINEAR
    assert layer.weight_shape == (10, 4)
    with pytest.raises(ValueError, match="'lstm' is not a valid OpKind"):
        LayerSpec("rnn", "lstm", (1,), (1,), (1,))  # type: ignore[arg-type]


def test_a_layer_that_was_written_as_json_is_the_same() -> None:
    layer = LayerSpec("a", OpKind.LINEAR, (4, 4), (4,), (4,), reader="b", reused=True, held=(("b", 64), ("", 40)))
    read = LayerSpec(**json.loads(json.dumps(asdict(layer))))
    assert read == layer
    assert hash(read) == hash(layer)


def test_a_layer_decides_alone_unless_it_is_in_a_group() -> None:
    alone = LayerSpec("a", OpKind.LINEAR, (1, 1), (1,), (1,))
    tied = LayerSpec("b", OpKind.LINEAR, (1, 1), (1,), (1,), activation_group="sum", weight_group="embedding")
    assert (alone.weight_tie, alone.activation_tie) == ("a", "a")
    assert (tied.weight_tie, tied.activation_tie) == ("embedding", "sum")


def test_the_digest_tells_architectures_apart() -> None:
    layers = [LayerSpec(name, OpKind.LINEAR, (4, 4), (4,), (4,)) for name in "ab"]
    other = [*layers[:1], LayerSpec("b", OpKind.LINEAR, (4, 4), (4,), (4,), activation_group="tie")]
    assert architecture_digest(layers) == architecture_digest(list(layers))
    assert len({architecture_digest(layers), architecture_digest(layers[::-1]), architecture_digest(other)}) == 3


def test_who_reads_an_output() -> None:
    by_hand = [LayerSpec(name, OpKind.LINEAR, (4, 4), (4,), (4,)) for name in "abc"]
    assert readers(by_hand) == ("b", "c", "")
    traced = [LayerSpec(name, OpKind.LINEAR, (4, 4), (4,), (4,), input_tensor=name, reader="c") for name in "ab"]
    assert readers([*traced, LayerSpec("c", OpKind.LINEAR, (4, 4), (4,), (4,), input_tensor="c")]) == ("c", "c", "")
