"""Quantizers and the decisions that give them bits."""

import torch
from torch import Tensor, nn

from mobo_mpq.choices import ROLES
from mobo_mpq.graph import Network
from mobo_mpq.hardware import HardwareTarget
from mobo_mpq.layers import OpKind
from mobo_mpq.quant import Role, apply_policy, quantizers
from mobo_mpq.space import SearchSpace
from mobo_mpq.testing.toys import SerialLatency
from mobo_mpq.training.sites import decisions_of, policy_of


class Residual(nn.Module):
    """Two layers read one tensor, and an addition ties what no layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right, self.last = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        total: Tensor = self.last(self.left(x) + self.right(x))
        return total + x


def space_of(network: Network, tie: tuple[str, str] | None = None) -> SearchSpace:
    pairs = frozenset((w, a) for w in (2, 4, 8) for a in (2, 4, 8))
    target = HardwareTarget("any", {kind: pairs for kind in OpKind}, SerialLatency())
    return SearchSpace.from_layers(network.layers, target, tie=[tie] if tie else ())


def test_every_quantizer_gets_the_bits_of_its_decision() -> None:
    network = Network.from_model(Residual(), torch.randn(2, 4))
    for space in (space_of(network), space_of(network, ("first", "last"))):
        bits = [decision.choices[i % 3] for i, decision in enumerate(space.decisions)]
        quantized = apply_policy(network, policy_of(space, bits))
        found = decisions_of(quantized, space)
        assert found.keys() == quantizers(quantized).keys()
        for name, index in found.items():
            quantizer = quantizers(quantized)[name]
            assert quantizer.site is not None and quantizer.site.role == space.decisions[index].role
            assert quantizer.bits == bits[index]
        assert set(found.values()) == set(range(len(space.decisions)))
        unread = [q for q in quantizers(quantized).values() if q.site and q.site.role is Role.ACTIVATION]
        assert any(not q.site.layers for q in unread if q.site)  # results of the additions have a decision, too


def test_policies_of_decisions() -> None:
    network = Network.from_model(Residual(), torch.randn(2, 4))
    space = space_of(network)
    policy = policy_of(space, range(len(space.decisions)))
    for index, decision in enumerate(space.decisions):
        assert decision.role in ROLES
        assert {getattr(policy[name], decision.role) for name in decision.layers} == {index}
