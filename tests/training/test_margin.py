import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mobo_mpq.errors import InputError
from mobo_mpq.graph import Network
from mobo_mpq.policy import Policy
from mobo_mpq.training.loop import Settings, finetune
from mobo_mpq.training.margin import FeatureRecorder, large_margin, with_margin
from mobo_mpq.training.recipes import TrainingContext, run_recipe
from mobo_mpq.trial import Recipe

SAMPLES, WIDTH, CLASSES = 24, 7, 4


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (SAMPLES,), generator=generator)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_directions_alone_count(seed: int, scale: float) -> None:
    """The same for features that are turned about the origin, scaled, or come in another order."""
    x, y = drawn(seed)
    turn, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=x.dtype, generator=torch.Generator().manual_seed(seed)))
    value = float(large_margin(x, y))
    assert value > 0
    assert float(large_margin(scale * x @ turn, y)) == pytest.approx(value, rel=1e-9)
    assert float(large_margin(x.flip(0), y.flip(0))) == pytest.approx(value, rel=1e-9)
    assert float(large_margin(x, CLASSES - y)) == pytest.approx(value, rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_as_the_formula_says(seed: int) -> None:
    """Class by class, and pair by pair."""
    x, y = drawn(seed)
    f = x / x.norm(dim=1, keepdim=True)
    present = sorted(set(y.tolist()))
    centre = {k: f[y == k].mean(0) for k in present}
    within = sum(float((one - centre[int(k)]).square().sum()) for one, k in zip(f, y, strict=True)) / SAMPLES
    gaps = [max(0.0, 0.9 - float((centre[j] - centre[k]).norm())) ** 2 for j in present for k in present if j < k]
    assert float(large_margin(x, y, 0.9)) == pytest.approx(within + sum(gaps) / len(gaps), rel=1e-9)


def test_nothing_is_lost_once_classes_are_points_far_enough_apart() -> None:
    y = torch.arange(CLASSES).repeat(3)
    x = torch.eye(CLASSES)[y] * torch.linspace(1, 2, len(y))[:, None]  # at right angles: sqrt(2) apart
    assert float(large_margin(x, y, 1.41)) == pytest.approx(0.0, abs=1e-12)
    assert float(large_margin(x, y, 1.5)) == pytest.approx((1.5 - math.sqrt(2)) ** 2, rel=1e-5)


def test_shrinks_while_classes_collapse() -> None:
    x, y = drawn(0)
    centres = torch.eye(WIDTH, dtype=x.dtype)[y]
    values = [float(large_margin((1 - t) * F.normalize(x) + t * centres, y)) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.5
    assert values[-1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "classes",
    [[3] * SAMPLES, list(range(SAMPLES)), [0] * (SAMPLES - 1) + [1]],
    ids=["one class", "classes of one sample", "both"],
)
def test_batches_of_few_are_no_trouble(classes: list[int]) -> None:
    x = drawn(1)[0].requires_grad_()
    value = large_margin(x, torch.tensor(classes))
    value.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(value)) and x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_one_sample_has_nothing_to_lose() -> None:
    assert float(large_margin(torch.ones(1, 3), torch.tensor([1]))) == 0.0


@pytest.mark.parametrize("dead", [1, SAMPLES], ids=["one sample", "all samples"])
def test_features_of_zeros_pull_on_nothing_hard(dead: int) -> None:
    """Two bits may leave nothing of a sample; its direction is not made up from rounding errors."""
    x = drawn(2)[0]
    x[:dead] = 0.0
    x.requires_grad_()
    large_margin(x, drawn(2)[1]).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 10.0


def test_gradient_is_that_of_finite_differences() -> None:
    x, y = drawn(3)
    assert torch.autograd.gradcheck(lambda features: large_margin(features, y), x.requires_grad_(), atol=1e-6)


def quantized(context: TrainingContext, bits: int) -> Any:
    return run_recipe(Recipe("qat", epochs=0), context, Policy.uniform(context.network.layers, bits, bits), seed=0)


@pytest.mark.parametrize("bits", [4, 32])
def test_features_are_what_the_last_layer_reads(trained: TrainingContext, bits: int) -> None:
    network = quantized(trained, bits)
    before, nodes = network.state_dict(), len(network.graph.nodes)
    recorder = FeatureRecorder(network)
    x, y = next(iter(trained.train))
    output = recorder.network(x)
    features = recorder.features(y)
    assert torch.equal(output, network(x))
    weight, bias = network.get_parameter("last.weight"), network.get_parameter("last.bias")
    if bits != 32:
        weight = network.get_submodule("quantizers.weight/last/weight")(weight)
    torch.testing.assert_close(F.linear(features, weight, bias), output)
    assert len(network.graph.nodes) == nodes and network.state_dict().keys() == before.keys()
    assert {id(p) for p in recorder.network.parameters()} == {id(p) for p in network.parameters()}


class Pooled(nn.Module):
    """A classifier that is a convolution, and averages over positions at the very end; or a ``Linear`` by ``addmm``."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 5, 3)
        self.convolution = convolution
        self.last = nn.Conv2d(5, 3, 1) if convolution else nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        if self.convolution:
            pooled: Tensor = self.last(x).mean((2, 3))
            return pooled
        return torch.addmm(self.last.bias, x.mean((2, 3)), self.last.weight.T)


@pytest.mark.parametrize("convolution", [True, False])
def test_positions_within_a_sample_are_averaged(convolution: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Pooled(convolution)
    network = Network.from_model(model, torch.zeros(2, 1, 6, 6))
    recorder = FeatureRecorder(network)
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    recorder.network(x)
    expected = torch.relu(model.first(x)).mean((2, 3))
    torch.testing.assert_close(recorder.features(torch.zeros(4, dtype=torch.long)), expected)


@pytest.mark.parametrize(
    ("target", "what"),
    [
        (torch.ones(32, 3), "of shape \\(32, 3\\), torch.float32"),
        (torch.zeros(32, 2, dtype=torch.long), "of shape \\(32, 2\\), torch.int64"),
        (None, "None"),
    ],
)
def test_needs_a_class_for_each_sample(trained: TrainingContext, target: Any, what: str) -> None:
    x, _ = next(iter(trained.train))

    def loss(output: Tensor, _: Any) -> Tensor:
        return output.square().mean()

    expected = f"option 'margin' needs one class for each of the 32 samples of a batch, but the target is {what}; set"
    with pytest.raises(InputError, match=expected):
        finetune(quantized(trained, 4), [(x, target)], loss, 1, Settings(margin=0.1), trained.network)


def tuned(context: TrainingContext, **options: float) -> dict[str, Tensor]:
    policy = Policy.uniform(context.network.layers, 3, 3)
    return run_recipe(Recipe("qat", epochs=1, options=options), context, policy, seed=5).state_dict()


def test_a_fine_tune_with_a_margin_repeats_and_differs(trained: TrainingContext) -> None:
    plain, none, some, again = (tuned(trained, **o) for o in ({}, {"margin": 0.0}, {"margin": 0.3}, {"margin": 0.3}))
    assert all(torch.equal(plain[name], none[name]) for name in plain)
    assert some.keys() == plain.keys()  # nothing of the recorder stays
    assert all(torch.equal(some[name], again[name]) for name in plain)
    assert not all(torch.equal(some[name], plain[name]) for name in plain)


def test_a_margin_is_what_a_fine_tune_gets(trained: TrainingContext) -> None:
    margins: dict[float, float] = {}
    x, y = (torch.cat(parts) for parts in zip(*trained.train, strict=True))
    for weight in (0.0, 20.0):
        recipe = Recipe("qat", epochs=2, options={"margin": weight, "distill": 0.0})
        recorder = FeatureRecorder(run_recipe(recipe, trained, Policy.uniform(trained.network.layers, 3, 3), seed=0))
        recorder.network(x)
        margins[weight] = float(large_margin(recorder.features(y), y))
    assert margins[20.0] < 0.9 * margins[0.0]


def test_objective_and_margin_are_added(trained: TrainingContext) -> None:
    recorder = FeatureRecorder(trained.network)
    x, y = next(iter(trained.train))

    def objective(inputs: Any, target: Any) -> Tensor:
        return trained.loss(recorder.network(inputs), target)

    value = with_margin(objective, 0.25, recorder)(x, y)
    expected = trained.loss(trained.network(x), y) + 0.25 * large_margin(recorder.features(y), y)
    torch.testing.assert_close(value, expected)


def test_weight_out_of_range() -> None:
    with pytest.raises(InputError, match="option 'margin' of the fine-tune is -0.5; expected 0 or more"):
        replace(Settings(), margin=-0.5)
