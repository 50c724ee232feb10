"""Target documents: what is read, and what is refused with which words."""

import tomllib
from importlib.resources import files
from itertools import product

import pytest
import tomli_w

from mobo_mpq.errors import InputError, UnknownName
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.objectives.costs import cost_model
from mobo_mpq.objectives.hardware import load_target, target_names
from mobo_mpq.policy import LayerBits

NAMES = target_names()

LAYERS = [
    LayerSpec("conv", OpKind.CONV, (48, 24, 3, 3), (24, 14, 14), (48, 14, 14)),
    LayerSpec("pointwise", OpKind.CONV, (48, 96, 1, 1), (96, 14, 14), (48, 14, 14)),
    LayerSpec("depthwise", OpKind.DEPTHWISE, (48, 1, 3, 3), (48, 14, 14), (48, 14, 14), groups=48),
    LayerSpec("linear", OpKind.LINEAR, (100, 320), (320,), (100,)),
    LayerSpec("matmul", OpKind.MATMUL, (), (4, 16, 32), (4, 16, 16)),
]

UNPRICED = ["ane", "edge-tpu", "hexagon"]

NOT_MONOTONE = {
    "diana": "its two arrays differ: a few weights are computed faster by the digital one",
    "x86-ort": "tiny products are faster in float, and of narrow weights, those of 2 bits are slow",
}


def document(name: str) -> dict:
    return tomllib.loads((files("mobo_mpq.objectives.targets") / f"{name}.toml").read_text())


def refusal(tmp_path, content: dict | str) -> str:
    """The message for a document, which names the file."""
    path = tmp_path / "board.toml"
    path.write_text(content if isinstance(content, str) else tomli_w.dumps(content))
    with pytest.raises(InputError) as caught:
        load_target(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_names():
    assert sorted(NAMES) == NAMES
    assert {"bismo-cloud", "bismo-edge", "bitfusion", "bops", "diana", "gap8", "mpic", "ne16", *UNPRICED} < set(NAMES)
    assert {"ethos-u55-128", "ethos-u55-256", "ethos-u65-512"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_built_in_targets(name):
    target = load_target(name)
    assert isinstance(target, HardwareTarget)
    assert (target.name, target.schema) == (name, 1)
    assert target.description
    assert target.bit_pairs[OpKind.LINEAR] >= {(8, 8)}
    assert (target.clock_hz is not None) == (document(name).get("clock_hz") is not None)
    for source in target.sources.values():
        assert source.split(":")[0] in ("published", "derived", "assumed", "measured")


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNPRICED])
def test_every_pair_has_a_price(name, layer):
    target = load_target(name)
    assert target.pairs_of(layer) == target.bit_pairs.get(layer.kind, frozenset())
    for model in filter(None, (target.latency, target.energy)):
        costs = {pair: model.layer_cost(layer, LayerBits(*pair)) for pair in target.pairs_of(layer)}
        assert all(0 < cost < float("inf") for cost in costs.values())
        if name in NOT_MONOTONE:
            continue
        for few, many in product(costs, repeat=2):
            if few[0] <= many[0] and few[1] <= many[1]:
                assert costs[few] <= costs[many], f"{few} costs more than {many}"


@pytest.mark.parametrize("name", UNPRICED)
def test_devices_without_a_formula_know_their_pairs_and_refuse_prices(name):
    target = load_target(name)
    layer = LAYERS[0]
    assert target.pairs_of(layer) == target.bit_pairs[OpKind.CONV] > frozenset()
    widest = tuple(map(max, zip(*target.pairs_of(layer), strict=True)))
    assert widest in target.pairs_of(layer)
    message = f"target '{name}' has no latency: .*'mobo-mpq profile import FILE --target {name}'"
    with pytest.raises(InputError, match=message):
        target.latency.layer_cost(layer, LayerBits(8, 8))
    assert cost_model("size", target, [layer]).layer_cost(layer, LayerBits(8, 8)) == layer.num_weights
    with pytest.raises(InputError, match=f"target '{name}' has no energy model"):
        cost_model("energy", target, [layer])


def alone(name: str) -> list[str]:
    """Fields whose source is the only one that covers them."""
    sources = document(name)["sources"]
    return [field for field in sources if not any(field.startswith(f"{other}.") for other in sources)]


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in NAMES for field in alone(name)])
def test_a_number_without_its_source_is_refused(tmp_path, name, field):
    content = document(name)
    del content["sources"][field]
    assert f"field '{field}" in (message := refusal(tmp_path, content))
    assert "has no source; say in [sources]" in message


def test_a_document_of_ones_own_equals_the_built_in_one(tmp_path):
    path = tmp_path / "copy.toml"
    path.write_text(tomli_w.dumps(document("mpic")))
    assert load_target(str(path)) == load_target("mpic")


def test_a_source_of_a_whole_table_covers_its_numbers(tmp_path):
    content = document("bitfusion")
    for field in [field for field in content["sources"] if field.startswith("latency.")]:
        del content["sources"][field]
    content["sources"]["latency"] = "published: one page"
    path = tmp_path / "board.toml"
    path.write_text(tomli_w.dumps(content))
    assert load_target(path).sources["latency"] == "published: one page"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "field 'schema' is 2; this version reads schema 1"),
        ({"clock_hz": None}, "field 'clock_hz' is missing; latency model 'mac_rate' gives cycles"),
        ({"clock_hz": "fast"}, "field 'clock_hz': Input should be a valid number"),
        ({"clock_hz": -1.0}, "field 'clock_hz': Input should be greater than 0"),
        ({"clock_hz": float("inf")}, "field 'clock_hz': Input should be a finite number"),
        ({"batch": 0}, "field 'batch': Input should be greater than 0"),
        ({"cores": 2}, "field 'cores': Extra inputs are not permitted"),
        ({"description": ""}, "field 'description': String should have at least 1 character"),
        ({"bit_pairs": []}, "field 'bit_pairs': List should have at least 1 item"),
        ({"latency": {}}, "field 'latency.model' is missing; known: "),
        ({"latency": {"model": "mac_rate"}}, "field 'latency.macs_per_cycle': Field required"),
        ({"latency": {"model": "mac_rate", "macs_per_cycle": {"8/8": 0}}}, "field 'latency.macs_per_cycle.8/8': Input"),
        ({"latency": {"model": "mac_rate", "macs_per_cycle": {"8": 1.0}}}, "key '8' is not WEIGHT/ACTIVATION bits"),
        ({"latency": {"model": "mac_rate", "macs_per_cycle": {"8/8": 1.0}}}, "which have no latency; it covers 8/8"),
        ({"energy": {"model": "active_power"}}, "field 'energy.power_w': Field required"),
        (
            {"energy": {"model": "bit_composable", "unit_cycle_j": 1.0, "dram_bit_j": 1.0}},
            "field 'energy.model' is 'bit_composable', which cannot stand on latency model 'mac_rate'",
        ),
        (
            {"bit_pairs": [{"kinds": ["matmul"], "weight": [8], "activation": [8]}]},
            "field 'bit_pairs.0.kinds' has 'matmul', which latency model 'mac_rate' cannot price",
        ),
        (
            {"bit_pairs": [{"kinds": ["conv"], "weight": [8], "activation": [8], "carrier": [4, 8]}]},
            "field 'bit_pairs.0': carrier 4/8 is narrower than what it carries; expected at least 8/8",
        ),
        (
            {"bit_pairs": [{"kinds": ["conv"], "weight": [3], "activation": [8], "carrier": [8, 8]}]},
            "field 'bit_pairs.0.carrier' is (8, 8), which 'conv' layers do not compute with themselves",
        ),
        ({"size": {"containers": [0]}}, "field 'size.containers.0': Input should be greater than 0"),
        (
            {"size": {"bytes_per_channel": -1.0}},
            "field 'size.bytes_per_channel': Input should be greater",
        ),
        ({"latency": None}, "field 'energy' has no [latency] to stand on; add that table"),
        ({"sources": {**document("mpic")["sources"], "batch": "x"}}, "'sources.batch' is the source of no number"),
    ],
)
def test_malformed_documents(tmp_path, change, words):
    content = {key: value for key, value in {**document("mpic"), **change}.items() if value is not None}
    assert words in refusal(tmp_path, content)


def test_an_unknown_cost_model_is_named(tmp_path):
    content = {**document("mpic"), "latency": {"model": "mac_rat"}}
    message = refusal(tmp_path, content)
    assert "unknown latency model 'mac_rat'" in message
    assert "Did you mean 'mac_rate'" in message


def test_what_is_no_toml(tmp_path):
    assert "is not TOML" in refusal(tmp_path, "schema = ")


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"target '.*none.toml' cannot be read \(.*No such file"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"target '.*binary.toml' cannot be read \(.*decode"):
        load_target(tmp_path / "binary.toml")


def test_unknown_target():
    with pytest.raises(UnknownName, match="unknown target 'mpik'; known: .*bismo-cloud, .* Did you mean 'mpic'"):
        load_target("mpik")


def written(tmp_path, **change) -> HardwareTarget:
    content = {key: value for key, value in {**document("mpic"), **change}.items() if value is not None}
    path = tmp_path / "board.toml"
    path.write_text(tomli_w.dumps(content))
    return load_target(path)


def with_sources(**more: str) -> dict:
    return {"sources": {**document("mpic")["sources"], **more}}


def test_carried_bits_cost_what_their_carrier_costs(tmp_path):
    pairs = [
        *document("mpic")["bit_pairs"],
        {"kinds": ["conv"], "weight": [3, 4], "activation": [8], "carrier": [8, 8]},
    ]
    target = written(tmp_path, bit_pairs=pairs)
    layer = LayerSpec("c", OpKind.CONV, (8, 8, 3, 3), (8, 6, 6), (8, 6, 6))
    assert target.carriers == {OpKind.CONV: {(3, 8): (8, 8)}}  # 4/8 has a kernel of its own
    for model in (target.latency, target.energy):
        assert model.layer_cost(layer, LayerBits(3, 8)) == model.layer_cost(layer, LayerBits(8, 8))
        assert model.layer_cost(layer, LayerBits(4, 8)) < model.layer_cost(layer, LayerBits(8, 8))
    assert (3, 8) in target.pairs_of(layer)
    linear = LayerSpec("l", OpKind.LINEAR, (8, 8), (8,), (8,))
    assert (3, 8) not in target.pairs_of(linear)


def test_containers_and_channels_make_weights_larger(tmp_path):
    target = written(
        tmp_path, size={"containers": [8, 4], "bytes_per_channel": 8.0}, **with_sources(size="derived: a test")
    )
    layer = LayerSpec("c", OpKind.CONV, (16, 8, 3, 3), (8, 6, 6), (16, 6, 6))
    sizes = [cost_model("size", target, [layer]).layer_cost(layer, LayerBits(bits, 8)) for bits in (2, 4, 5, 8, 32)]
    assert sizes == [576 + 128, 576 + 128, 1152 + 128, 1152 + 128, 4608 + 128]
    assert cost_model("size", load_target("mpic"), [layer]).layer_cost(layer, LayerBits(5, 8)) == 720


def test_a_device_without_a_formula_says_what_to_do(tmp_path):
    sources = {"sources": {"bit_pairs": "published: a test"}}
    target = written(tmp_path, latency=None, energy=None, clock_hz=None, **sources)
    layer = LayerSpec("c", OpKind.CONV, (8, 8, 3, 3), (8, 6, 6), (8, 6, 6))
    assert (2, 4) in target.pairs_of(layer)
    with pytest.raises(InputError, match="target 'mpic' has no latency: nobody has published .*'mobo-mpq profile"):
        target.latency.layer_cost(layer, LayerBits(8, 8))
    assert cost_model("size", target, [layer]).layer_cost(layer, LayerBits(4, 8)) == 288
