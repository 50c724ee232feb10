from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from mobo_mpq.errors import InputError, PolicyError
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.quant import (
    LsqScheme,
    QuantizedNetwork,
    Role,
    UniformScheme,
    apply_policy,
    calibrate,
    quantized,
    quantizers,
)

LSQ = {"weight": LsqScheme(), "activation": LsqScheme(symmetric=False, per_channel=False)}


def uniform(network: Network, weight: int, activation: int) -> Policy:
    return Policy.uniform(network.layers, weight, activation)


@pytest.mark.parametrize("bits", [16, 32])
def test_wide_bits_leave_the_network_as_it_is(network: Network, images: Tensor, bits: int) -> None:
    same = apply_policy(network, uniform(network, bits, bits))
    torch.testing.assert_close(same(images), network(images), rtol=0, atol=1e-6)
    assert not quantizers(same)


def test_more_bits_are_closer_to_float(network: Network, images: Tensor) -> None:
    errors = []
    for bits in (2, 3, 4, 6, 8):
        mine = apply_policy(network, uniform(network, bits, bits))
        calibrate(mine, [images])
        errors.append(float((mine(images) - network(images)).detach().square().mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-2 * errors[0]


def test_every_quantizer_knows_its_site(network: Network) -> None:
    mine = apply_policy(network, uniform(network, 4, 8))
    found = quantizers(mine)
    weights = {q.site.tensor: q for q in found.values() if q.site.role is Role.WEIGHT}
    assert {q.site.layers[0] for q in weights.values()} == {layer.name for layer in network.layers}
    for name, quantizer in weights.items():
        assert quantizer.bits == 4 and quantizer.axis == quantizer.site.axis == 0
        assert quantizer.qparams().scale.shape == (mine.get_parameter(name).shape[0],)
    inputs = {q.site.tensor: q for q in found.values() if q.site.role is Role.ACTIVATION}
    for layer in network.layers:
        assert layer.name in inputs[layer.input_tensor].site.layers
    assert all(q.bits == 8 and q.axis is None for q in inputs.values())
    targets = {node.target for node in mine.graph.nodes if node.op == "call_module"}
    assert targets == set(found)


def test_operands_and_results_of_tied_additions_are_quantized(network: Network, images: Tensor) -> None:
    """Read from the graph: every addition reads and gives tensors on a grid."""
    layers = {layer.name: layer for layer in network.layers}
    tie = "block1.conv1"
    for name in ("block1.conv1", "block2.conv1", "block2.downsample.0"):
        assert layers[name].activation_group == tie
    bits = {name: (8, 4 if layer.activation_group == tie else 8) for name, layer in layers.items()}
    mine = apply_policy(network, Policy.of(bits))
    calibrate(mine, [images])
    tied = [q for q in quantizers(mine).values() if q.bits == 4]
    assert len(tied) == 3  # the stem's output, the second convolution's, and their rectified sum
    additions = [node for node in mine.graph.nodes if str(node.target) == "aten.add.Tensor"]
    first, last = additions
    assert all(operand.op == "call_module" for operand in first.args)
    assert all(operand.op != "call_module" for operand in last.args)  # no layer reads that stream: it stays in float


def test_layers_that_read_one_tensor_share_its_quantizer(network: Network) -> None:
    mine = apply_policy(network, uniform(network, 8, 8))
    shared = [q.site.layers for q in quantizers(mine).values() if len(q.site.layers) > 1]
    assert shared == [("block2.conv1", "block2.downsample.0")]


def test_values_lie_on_the_grids(network: Network, images: Tensor) -> None:
    mine = apply_policy(network, uniform(network, 3, 3))
    calibrate(mine, [images])
    seen: dict[str, Tensor] = {}
    for name, quantizer in quantizers(mine).items():
        quantizer.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.detach()}))
    mine(images)
    for name, quantizer in quantizers(mine).items():
        if quantizer.axis is None:
            assert seen[name].unique().numel() <= 8
        else:
            assert all(channel.unique().numel() <= 8 for channel in seen[name])


@pytest.mark.parametrize("schemes", [{}, LSQ], ids=["uniform", "lsq"])
def test_a_state_dict_restores_a_calibrated_network(network: Network, images: Tensor, schemes: dict) -> None:
    policy = uniform(network, 4, 4)
    trained = apply_policy(network, policy, **schemes)
    calibrate(trained, [images])
    optimizer = torch.optim.SGD(trained.parameters(), 1e-2)
    trained(images).square().mean().backward()
    optimizer.step()
    assert not torch.equal(trained(images), network(images))

    restored = apply_policy(network, policy, **schemes)
    restored.load_state_dict(load(save(trained.state_dict())))
    assert torch.equal(restored(images), trained(images))
    twin = copy.deepcopy(trained)
    assert isinstance(twin, QuantizedNetwork) and twin.policy == policy
    assert torch.equal(twin(images), trained(images))
    assert {name for name, _ in network.named_parameters()} <= set(trained.state_dict())


def test_training_reaches_weights_biases_and_steps_of_lsq(network: Network, images: Tensor) -> None:
    mine = apply_policy(network, uniform(network, 4, 4), **LSQ)
    calibrate(mine, [images])
    mine(images).square().mean().backward()
    for name, parameter in mine.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_calibration_sees_every_batch_and_any_structure(network: Network, images: Tensor) -> None:
    policy = uniform(network, 8, 8)
    minmax = UniformScheme(symmetric=False, per_channel=False, observer="minmax")
    together, apart = (apply_policy(network, policy, activation=minmax) for _ in range(2))
    calibrate(together, [images])
    calibrate(apart, [images[:2], (images[2:5],), {"x": images[5:]}])
    for one, other in zip(quantizers(together).values(), quantizers(apart).values(), strict=True):
        torch.testing.assert_close(one.qparams().scale, other.qparams().scale)


def test_calibration_of_nothing_or_nonsense_keeps_what_was(network: Network, images: Tensor) -> None:
    mine = apply_policy(network, uniform(network, 8, 8))
    with pytest.raises(InputError, match="the activation quantizer of 'x' has seen no data yet; run calibrate"):
        mine(images)
    with pytest.raises(InputError, match=r"calibrate\(\) got no batch; pass at least one"):
        calibrate(mine, [])
    calibrate(mine, [images])
    expected = mine(images)
    with pytest.raises(InputError, match="a tensor to be quantized holds NaN or infinity"):
        calibrate(mine, [images * float("nan")])
    assert torch.equal(mine(images), expected)


def test_bits_that_no_quantizer_has(network: Network) -> None:
    with pytest.raises(InputError, match="1 bits are not supported"):
        apply_policy(network, uniform(network, 1, 8))


def test_policies_of_other_models(network: Network) -> None:
    policy = uniform(network, 8, 8)
    names = [layer.name for layer in network.layers]
    strange = Policy.of({**policy, "conv9": (8, 8), "conv10": (8, 8)})
    with pytest.raises(PolicyError, match="another model: it names 'conv9' and 1 more, which the model does not have;"):
        apply_policy(network, strange)
    short = Policy.of({name: policy[name] for name in names[1:]})
    with pytest.raises(PolicyError, match="another model: it lacks 'stem'; make one for this model's layers"):
        apply_policy(network, short)
    with pytest.raises(PolicyError, match="it names 'a', which the model does not have and it lacks 'stem' and 6 more"):
        apply_policy(network, Policy.of({"a": (8, 8)}))
    torn = policy.with_bits("block2.downsample.0", activation=4)
    with pytest.raises(
        PolicyError,
        match="'block1.conv1' and 'block2.downsample.0' share their activation, but the policy gives them 8 and 4 bits",
    ):
        apply_policy(network, torn)


class Twice(nn.Module):
    """A table that is also the head, and a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(torch.tanh(self.fc(self.table(ids))))))


def test_one_weight_has_one_quantizer_for_all_its_readers() -> None:
    torch.manual_seed(0)
    ids = torch.arange(6).reshape(2, 3)
    network = Network.from_model(Twice(), ids)
    assert [layer.name for layer in network.layers] == ["fc", "fc@1", "head"]
    mine = apply_policy(network, Policy.of({"fc": (4, 32), "fc@1": (4, 32), "head": (2, 32)}))
    found = {q.site.tensor: q for q in quantizers(mine).values()}
    assert {q.site.layers for q in found.values()} == {("fc", "fc@1"), ("head",)}
    table = next(q for q in found.values() if q.site.layers == ("head",))
    looked_up = [node for node in mine.graph.nodes if str(node.target) == "aten.embedding.default"]
    assert looked_up[0].args[0].op == "call_module"
    assert table(mine.get_parameter(table.site.tensor)).unique().numel() <= 4 * 7
    with pytest.raises(PolicyError, match="'fc' and 'fc@1' share their weight, but the policy gives them 4 and 8 bits"):
        apply_policy(network, Policy.of({"fc": (4, 8), "fc@1": (8, 8), "head": (2, 8)}))


def test_transposed_weights_have_their_channels_on_the_other_axis() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))
            self.bias = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight)

    x = torch.randn(5, 4)
    network = Network.from_model(Transposed(), x)
    mine = apply_policy(network, uniform(network, 4, 32))
    (quantizer,) = quantizers(mine).values()
    assert quantizer.axis == 1 and quantizer.qparams().scale.shape == (6,)
    columns = quantizer(mine.get_parameter("weight"))
    torch.testing.assert_close(mine(x), x @ columns + mine.get_parameter("bias"))


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_legal_policy_runs(data: st.DataObject) -> None:
    network, images = _plain()
    bits = st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16, 32])
    policy = Policy.of({layer.name: (data.draw(bits), data.draw(bits)) for layer in network.layers})
    mine = apply_policy(network, policy)
    calibrate(mine, [images])
    assert torch.isfinite(mine(images)).all()
    for name, quantizer in quantizers(mine).items():
        layer = quantizer.site.layers[0]
        assert quantizer.bits == getattr(policy[layer], quantizer.site.role), name


_CACHE: list[tuple[Network, Tensor]] = []


def _plain() -> tuple[Network, Tensor]:
    if not _CACHE:
        torch.manual_seed(0)
        x = torch.randn(4, 6)
        _CACHE.append((Network.from_model(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), x), x))
    return _CACHE[0]


def test_the_context_manager_quantizes_and_restores(model: nn.Module, network: Network, images: Tensor) -> None:
    model.train()
    state = copy.deepcopy(model.state_dict())
    model.eval()
    expected = model(images)
    with quantized(model, uniform(network, 3, 3), example=images, batches=[images]) as inside:
        assert torch.equal(model(images), inside(images)) and not torch.equal(model(images), expected)
        assert torch.equal(model(images[:1]), inside(images[:1]))
        inside.get_parameter("fc.weight").data.zero_()  # its own
    assert torch.equal(model(images), expected)
    assert "forward" not in vars(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_context_manager_restores_after_errors(model: nn.Module, network: Network, images: Tensor) -> None:
    expected = model(images)
    policy = uniform(network, 3, 3)
    with pytest.raises(ZeroDivisionError), quantized(model, policy, example=images, batches=[images]):
        raise ZeroDivisionError
    assert torch.equal(model(images), expected)
    with (
        pytest.raises(PolicyError),
        quantized(model, Policy.of({"a": (8, 8)}), example=images, batches=[images]),
    ):
        raise AssertionError("the block must not run")
    with pytest.raises(InputError, match="got no batch"), quantized(model, policy, example=images, batches=[]):
        raise AssertionError("the block must not run")
    assert torch.equal(model(images), expected) and "forward" not in vars(model)


def test_the_context_manager_keeps_an_own_forward(model: nn.Module, network: Network, images: Tensor) -> None:
    original = model.forward
    model.forward = lambda x: original(x) + 1  # as hooks of some libraries do
    own = model.forward
    with quantized(model, uniform(network, 3, 3), example=images, batches=[images]):
        assert model.forward is not own
    assert model.forward is own
