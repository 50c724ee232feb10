"""The policies and the single layers of the benchmark of predicted latencies; nothing is timed."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from predicted_latency import draw, report, single

from mobo_mpq.layers import LayerSpec, OpKind
from mobo_mpq.policy import LayerBits, Policy
from mobo_mpq.testing.networks import small_mobilenet_v2, traced

LAYERS = traced(small_mobilenet_v2, 3, 16, 16).layers


def test_twelve_policies_that_keep_ties() -> None:
    policies = draw(LAYERS, np.random.default_rng(0))
    assert len(policies) == len(set(policies.values())) == 12
    for policy in policies.values():
        assert set(policy.values()) <= {(8, 8), (32, 32)}
        bits = {(layer.activation_tie, policy[layer.name]) for layer in LAYERS}
        assert len(bits) == len({tie for tie, _ in bits})


@pytest.mark.parametrize("bits", [LayerBits(8, 8), LayerBits(32, 32)])
@pytest.mark.parametrize("kind", [OpKind.CONV, OpKind.DEPTHWISE, OpKind.LINEAR])
def test_a_layer_alone_is_a_model(kind: OpKind, bits: LayerBits) -> None:
    layer: LayerSpec = next(layer for layer in LAYERS if layer.kind is kind)
    session = onnxruntime.InferenceSession(single(layer, bits).SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.ones((1, *layer.input_shape), np.float32)})
    assert result.shape == (1, *layer.output_shape)


def test_the_report_says_how_good_predictions_are(capsys: pytest.CaptureFixture[str]) -> None:
    policies = draw(LAYERS, np.random.default_rng(0))
    weights = {layer.name: float(layer.macs) for layer in LAYERS}

    def cost(policy: Policy) -> float:
        return 1e-9 * sum(weights[name] * (1 if bits == (8, 8) else 2) for name, bits in policy.items())

    report(policies, {name: cost(policy) for name, policy in policies.items()}, {"twice": lambda p: 2 * cost(p)})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 12 + 3
    assert "all 12            rank correlation 1.000, mean error 100.0 %, worst +100 %" in lines[-3]
