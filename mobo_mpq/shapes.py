"""Shapes of one inference, from a graph captured with a batch of two."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Graph, Node

from mobo_mpq.dataflow import value

BATCH = 2
"""Size of the batch that graphs are captured with: 0 and 1 would become constants of the graph."""


def shape(node: Node) -> tuple[int, ...]:
    """Sizes of a node's result for the captured batch."""
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in value(node).shape)


def batch_symbol(graph: Graph) -> Any:
    """The symbol of the batch: the first axis of the first input tensor; None when that is a number."""
    for node in graph.nodes:
        if node.op == "placeholder" and isinstance(value(node), Tensor) and value(node).ndim:
            return symbol(value(node).shape[0])
    return None


def per_sample(node: Node, batch: Any) -> tuple[int, ...]:
    """Shape of a result without the batch.

    The axis of the batch goes; one that holds batch times positions keeps its positions; a result that does not
    depend on the batch keeps its shape.
    """
    sizes = list(shape(node))
    for axis, size in enumerate(value(node).shape):
        expression = symbol(size)
        if expression is not None and batch in expression.free_symbols:
            if expression == batch:
                del sizes[axis]
            else:
                sizes[axis] //= BATCH
            break
    return tuple(sizes)


def symbol(size: Any) -> Any:
    """The symbolic expression of a size, None when it is a number, or has become one while the model ran."""
    return None if isinstance(size, int) or size.node.expr.is_number else size.node.expr
