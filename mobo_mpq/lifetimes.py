"""How long the tensors of a graph live: what has to be in memory while a layer runs."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from mobo_mpq.dataflow import RECTIFIERS, Ties, aten, data_nodes, is_float, moved, op, origin, site
from mobo_mpq.shapes import per_sample

_KEEP_BITS = RECTIFIERS | {
    aten.silu, aten.gelu, aten.sigmoid, aten.tanh, aten.hardswish, aten.hardsigmoid, aten.leaky_relu, aten.elu,
    aten.mish, aten.mul, aten.add, aten.cat, aten.mean, aten.avg_pool1d, aten.avg_pool2d, aten.adaptive_avg_pool1d,
    aten.adaptive_avg_pool2d, aten.upsample_nearest2d, aten.upsample_bilinear2d,
}  # fmt: skip
"""Operators that run on integers, so that what enters them is stored with the bits of what leaves them."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What :class:`mobo_mpq.layers.LayerSpec` says about the memory around one layer; see there."""

    reader: str
    reused: bool
    held: tuple[tuple[str, int], ...]


def read_surroundings(
    graph: Graph, sources: Mapping[Node, Node], names: Mapping[Node, str], ties: Ties, batch: Any
) -> dict[Node, Surroundings]:
    """Surroundings of each layer, by its node.

    Args:
        graph: in the order in which it runs.
        sources: node of a layer -> the node that it reads.
        names: class of tied sites -> a layer that reads one of them.
        ties: of the graph.
        batch: its symbol.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    alive = [
        (node, order[node], max(order[user] for user in node.users))
        for node in data_nodes(graph)
        if node.users and is_float(node)
    ]
    found = {}
    for layer, source in sources.items():
        place, own = order[layer], origin(source)
        outlasting: dict[Node, list[Node]] = defaultdict(list)
        for node, made, last in alive:
            if made < place < last:
                outlasting[origin(node)].append(node)
        reused = outlasting.pop(own, None) is not None
        held = tuple(
            (_reader(tensor, names, ties), min(_elements(tensor, batch), sum(_elements(n, batch) for n in nodes)))
            for tensor, nodes in sorted(outlasting.items(), key=lambda item: order[item[0]])
        )
        found[layer] = Surroundings(_reader(layer, names, ties), reused, held)
    return found


def _elements(node: Node, batch: Any) -> int:
    return math.prod(per_sample(node, batch))


def _reader(node: Node, names: Mapping[Node, str], ties: Ties) -> str:
    """A layer whose input has the bits of this tensor, ``""`` when it stays in float."""
    queue, seen = deque([node]), {node}
    while queue:
        node = queue.popleft()
        if name := names.get(ties.find(site(node))):
            return name
        for user in node.users:
            if user not in seen and (op(user) in _KEEP_BITS or moved(user) is not None):
                seen.add(user)
                queue.append(user)
    return ""
