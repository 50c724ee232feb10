"""Lockstep: the same numbers as calling the network, and changes that are felt on the way."""

import torch
from torch import Tensor, nn

from mobo_mpq.folding import tensor_of
from mobo_mpq.graph import Network
from mobo_mpq.posttraining.walk import Walk


def results(network: Network, walk: Walk) -> list[Tensor]:
    """What the network's output reads."""
    last = next(node for node in network.graph.nodes if node.op == "output").all_input_nodes[0]
    for node in walk:
        if node is last:
            return walk.values(node)
    raise AssertionError("the walk ended early")


def test_every_batch_gets_what_a_call_gives(network: Network, batches: list[Tensor]) -> None:
    uneven = [*batches, batches[0][:3]]
    for got, x in zip(results(network, Walk(network, uneven)), uneven, strict=True):
        assert torch.equal(got, network(x))
        assert not got.requires_grad


def test_keyword_inputs_are_taken_by_name() -> None:
    class Two(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return first - 2 * second

    batches = [{"first": torch.full((2, 3), 5.0), "second": torch.full((2, 3), value)} for value in (1.0, 2.0)]
    network = Network.from_model(Two(), batches[0])
    swapped = [{"second": batch["second"], "first": batch["first"]} for batch in batches]
    assert [float(value[0, 0]) for value in results(network, Walk(network, swapped))] == [3.0, 1.0]


def test_changed_parameters_and_replaced_results_count_from_then_on(network: Network, batches: list[Tensor]) -> None:
    operators = {operator.spec.name: operator for operator in network.trace.operators}
    walk = Walk(network, batches)
    before = [network(x).detach() for x in batches]
    for node in walk:
        if node.name == operators["stem.0"].node:
            walk.replace(node, [torch.zeros_like(value) for value in walk.values(node)])
        if node.name == operators["pointwise"].node:
            tensor_of(network, operators["head"].weight).data.zero_()
        if node.name == operators["head"].node:
            assert all(float(value.abs().max()) == 0.0 for value in walk.values(node))
            assert all(float(value.abs().max()) > 0.0 for value in before)
            return


def test_results_that_nobody_reads_again_are_let_go(network: Network, batches: list[Tensor]) -> None:
    walk = Walk(network, batches)
    most = max(len(walk._runs[0].env) for node in walk if node.op == "call_function")
    assert most < len(network.graph.nodes) - 4
