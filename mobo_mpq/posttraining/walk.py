"""Run a network on several batches in lockstep, one operator at a time.

A layer has then seen all batches before the next one runs, so that what is changed at a layer is felt by all behind it
within one pass, and no more is held in memory than what later operators still read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from mobo_mpq.graph import Network, split_inputs
from mobo_mpq.training.data import Inputs


class Walk:
    """One pass over a network.

    ``for node in Walk(network, batches)`` yields each operator after it ran, while its operands are still there.

    Args:
        network: in float or quantized; parameters that change on the way count from the next operator on.
        batches: inputs without labels, on the network's device.
    """

    def __init__(self, network: Network, batches: Sequence[Inputs]) -> None:
        self.network = network
        self._runs = [Interpreter(network, garbage_collect_values=False) for _ in batches]
        for run, inputs in zip(self._runs, batches, strict=True):
            args, kwargs = split_inputs(inputs)
            bound = inspect.signature(network.forward).bind(*args, **kwargs)
            run.args_iter = iter(pytree.tree_leaves(list(bound.arguments.values())))

    def __iter__(self) -> Iterator[Node]:
        """Yield the operators in the order in which they run."""
        nodes = list(self.network.graph.nodes)
        last = {source: node for node in nodes for source in node.all_input_nodes}
        finished: dict[Node, list[Node]] = {}
        for source, node in last.items():
            finished.setdefault(node, []).append(source)
        for node in nodes:
            if node.op == "output":
                return
            with torch.no_grad():  # left before the yield: who walks may want gradients of their own
                for run in self._runs:
                    run.env[node] = run.run_node(node)
            yield node
            for source in finished.get(node, []) if node in last else [*finished.get(node, []), node]:
                for run in self._runs:
                    run.env.pop(source, None)

    def values(self, node: Node) -> list[Any]:
        """Results of an operator that has run and is still read, one for each batch."""
        return [run.env[node] for run in self._runs]

    def replace(self, node: Node, values: Sequence[Any]) -> None:
        """Let the operators behind a node read other results."""
        for run, value in zip(self._runs, values, strict=True):
            run.env[node] = value
