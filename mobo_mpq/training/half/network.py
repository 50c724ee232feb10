"""A network in half precision that shares its parameters, in float32, with the one it is made from."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from mobo_mpq.dataflow import data_nodes, is_float, moved, value
from mobo_mpq.graph import Network
from mobo_mpq.layers import LayerSpec
from mobo_mpq.training.data import device_of
from mobo_mpq.training.half.ledger import Carried, Ledger
from mobo_mpq.training.half.scaled import InFloat32, Meet, Outlet, ScaledLayer, Unscaled


class HalfNetwork(Network):
    """Computes with the parameters of another network, in the type of its ledger; made by :func:`in_half`.

    Layers multiply operands of that type. Other operators run in the type that ``torch.autocast`` chooses, quantizers
    and whatever depends on parameters alone in float32. Outputs are float32, and neither they nor the parameters see a
    scale: what comes back to an output is multiplied by that of the loss, as if the loss had been.
    """

    @property
    def ledger(self) -> Ledger:
        """Scales and counts."""
        return self.meta["ledger"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network."""
        dtype = self.ledger.dtype
        half = dtype is not torch.float32
        with torch.autocast(device_of(self).type, dtype if half else None, enabled=half, cache_enabled=False):
            return super().__call__(*args, **kwargs)


def in_half(network: Network, ledger: Ledger) -> HalfNetwork:
    """A network that computes what ``network`` does, in the ledger's type, with the same parameters.

    Args:
        network: float or quantized, and then calibrated; left as it is.
        ledger: a new one.
    """
    twin = network.twin()
    half = HalfNetwork(twin, twin.graph)
    half.meta = {**network.meta, "ledger": ledger}
    _Rewriting(half, ledger).run()
    half.graph.lint()
    half.recompile()
    return half


class _Rewriting:
    """One pass over a graph, from its outputs to its inputs: the way that gradients take."""

    def __init__(self, network: HalfNetwork, ledger: Ledger) -> None:
        self.network, self.ledger, self.graph = network, ledger, network.graph
        self.data = data_nodes(self.graph)
        self.learned = _learned(self.graph, network, self.data)
        self.layers: dict[str, LayerSpec] = {found.node: found.spec for found in network.trace.operators}
        self.above: dict[Node, Carried] = {}  # scale of the gradient of a node's result
        self.below: dict[Node, Carried] = {}  # and of what it passes on, where that is another

    def run(self) -> None:
        for node in reversed(list(self.graph.nodes)):
            if node.op == "output":
                self._let_out(node)
            elif node.op == "call_module" and not node.users:
                self._let_out(node)  # it keeps what it sees, and the loss reads it there
            elif node in self.learned:
                self._keep_wide(node)
            elif node in self.data and node.op != "placeholder" and _differentiable(node) and not _is_member(node):
                carried = self._readers(node)
                if carried is not None:
                    self.above[node] = carried
                    self._replace(node, carried)

    def _readers(self, node: Node) -> Carried | None:
        """The scale of the gradient of a node's result, once those of all its readers are one; None without any."""
        sources = [node]
        if not isinstance(value(node), Tensor):  # an operator of several results: their gradients come back as one
            sources = [user for user in node.users if is_float(user)]
            for member in reversed(sources):
                node.append(member)  # side by side, before their readers
        edges = [(source, reader) for source in sources for reader in source.users if reader in self.above]
        if len(edges) < 2:
            return self._passed_by(edges[0][1]) if edges else None
        meet = Meet(self.ledger, [self._passed_by(reader) for _, reader in edges])
        target = self._add(f"meet/{node.name}", meet)
        with self.graph.inserting_after(sources[-1]):
            met = self.graph.call_module(target, tuple(source for source, _ in edges))
        for index, (source, reader) in reversed(list(enumerate(edges))):
            with self.graph.inserting_after(met):
                same = self.graph.call_function(operator.getitem, (met, index))
            reader.replace_input_with(source, same)
        return meet.below

    def _passed_by(self, reader: Node) -> Carried:
        return self.below.get(reader) or self.above[reader]

    def _replace(self, node: Node, carried: Carried) -> None:
        """Put something in a node's place that knows the scale."""
        leaves = pytree.tree_leaves((node.args, node.kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Node) and leaf in self.data]
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            node.target = self._add(f"float32/{node.name}", InFloat32(module, carried))
        elif node.name in self.layers and len(places) == 1:
            function: Any = node.target
            layer = ScaledLayer(function, places[0], self.layers[node.name], self.ledger, carried)
            node.op, node.target = "call_module", self._add(f"layer/{node.name}", layer)
            self.below[node] = layer.below
        else:
            for source in [source for source in node.all_input_nodes if source in self.learned]:
                target = self._add(f"unscaled/{source.name}/{node.name}", Unscaled(carried))
                with self.graph.inserting_before(node):
                    node.replace_input_with(source, self.graph.call_module(target, (source,)))

    def _keep_wide(self, node: Node) -> None:
        """What depends on parameters alone is computed in float32."""
        if node.op == "call_module":
            module = self.network.get_submodule(str(node.target))
            node.target = self._add(f"float32/{node.name}", InFloat32(module, Carried()))
        elif node.op == "call_function" and moved(node) is None:
            function: Any = node.target
            node.args, node.target = (function, *node.args), _without_autocast

    def _let_out(self, reader: Node) -> None:
        """What a loss reads leaves in float32, and its gradient gets its first scale there."""
        for source in reader.all_input_nodes:
            if source in self.data and is_float(source):
                outlet = Outlet(self.ledger)
                target = self._add(f"outlet/{source.name}/{reader.name}", outlet)
                with self.graph.inserting_before(reader):
                    way = self.graph.call_module(target, (source,))
                reader.replace_input_with(source, way)
                self.above[way] = outlet.below

    def _add(self, name: str, module: nn.Module) -> str:
        target = f"scaled.{name}"  # `half` is a method
        self.network.add_submodule(target, module)
        return target


def _learned(graph: Graph, network: Network, data: set[Node]) -> set[Node]:
    """Nodes that depend on parameters, and on nothing that the user feeds."""
    names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    learned: set[Node] = set()
    for node in graph.nodes:
        read = any(source in learned for source in node.all_input_nodes) or str(node.target) in names
        if read and node not in data and node.op != "output":
            learned.add(node)
    return learned


def _differentiable(node: Node) -> bool:
    result = value(node)
    results = result if isinstance(result, tuple | list) else [result]
    return any(isinstance(one, Tensor) and one.dtype.is_floating_point for one in results)


def _is_member(node: Node) -> bool:
    """Whether a node is one of several results of another."""
    return (
        node.target is operator.getitem
        and isinstance(node.args[0], Node)
        and not isinstance(value(node.args[0]), Tensor)
    )


def _without_autocast(function: Any, *args: Any, **kwargs: Any) -> Any:
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    with torch.autocast(tensors[0].device.type if tensors else "cpu", enabled=False):
        return function(*args, **kwargs)
