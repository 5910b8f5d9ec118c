"""Dense blocks without concatenation."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node

from pyramidzoo.inference import _dense  # torch.fx looks for wrapped functions in their module
from pyramidzoo.inference._graph import channels, layer_of, scale_and_shift
from pyramidzoo.inference._layers import ScaleShift, is_recorded


@fx.wrap
def first_channels(x: Tensor, y: Tensor, total: int) -> Tensor:
    """A map of `total` channels, x and y its first ones, the rest not written yet. Recorded, it has no rest."""
    if is_recorded(x):
        return torch.cat((x, y), dim=1)
    size = (x.shape[0], total, x.shape[2], x.shape[3])
    buffer = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    buffer.narrow(1, 0, x.shape[1]).copy_(x)
    return _dense.next_channels(buffer, y, x.shape[1])


@fx.wrap
def next_channels(buffer: Tensor, y: Tensor, start: int) -> Tensor:
    """Write y into the channels of a map from `start` on. Recorded, it is a concatenation."""
    if is_recorded(y):
        return torch.cat((buffer, y), dim=1)
    buffer.narrow(1, start, y.shape[1]).copy_(y)
    return buffer


def concat_buffer(graph_module: GraphModule) -> bool:
    """A chain x1 = cat(x0, y1), x2 = cat(x1, y2), ... as one map, allocated once: each y is written behind the channels
    that are there, and each x is a view of the first ones, the same numbers in the same order.

    What is written later lies outside of every earlier view. BN on a view becomes a multiplication and an addition.
    """
    found = False
    for chain in _chains(graph_module):
        counts = [channels(graph_module, part) for part in (_parts(chain[0])[0], *(_parts(c)[1] for c in chain))]
        if None in counts:
            continue
        sizes = [count for count in counts if count is not None]
        buffer = None
        for index, node in enumerate(chain):
            start = sum(sizes[: index + 1])
            first, new = _parts(node)
            with graph_module.graph.inserting_before(node):
                if buffer is None:
                    buffer = graph_module.graph.call_function(first_channels, (first, new, sum(sizes)))
                else:
                    buffer = graph_module.graph.call_function(next_channels, (buffer, new, start))
                view = graph_module.graph.call_method("narrow", (buffer, 1, 0, start + sizes[index + 1]))
            node.replace_all_uses_with(view)
            for user in view.users:
                norm = layer_of(graph_module, user)
                if isinstance(norm, nn.BatchNorm2d):
                    graph_module.set_submodule(str(user.target), ScaleShift(*scale_and_shift(norm)))
        for node in reversed(chain):
            graph_module.graph.erase_node(node)
        found = True
    return found


def _parts(node: Node) -> tuple[Node, Node]:
    """The two maps that a node concatenates."""
    first, second = node.all_input_nodes
    return first, second


def _chains(graph_module: GraphModule) -> list[list[Node]]:
    """Concatenations of two maps, each of which begins with the one before; at least two in a row."""
    chains: dict[Node, list[Node]] = {}  # by last link
    for node in graph_module.graph.nodes:
        if node.target is torch.cat and len(node.all_input_nodes) == 2:
            chains[node] = [*chains.pop(_parts(node)[0], []), node]
    return [chain for chain in chains.values() if len(chain) > 1]
