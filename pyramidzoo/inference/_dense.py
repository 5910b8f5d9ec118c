"""The pass that computes dense blocks without concatenation."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node

from pyramidzoo.inference import _dense  # torch.fx finds a wrapped function only as an attribute of its module.
from pyramidzoo.inference._graph import bn_scale_and_shift, count_channels, layer_of
from pyramidzoo.inference._layers import ScaleShift, is_recorded


@fx.wrap
def first_channels(x: Tensor, y: Tensor, total: int) -> Tensor:
    """Make a map whose first channels are x and y. The remaining channels are not written yet.

    Args:
        x: Map (N, C, H, W).
        y: Map (N, D, H, W).
        total: Number of channels of the result.

    Returns:
        Map (N, total, H, W). Where operations are recorded, it is the concatenation of x and y.
    """
    if is_recorded(x):
        return torch.cat((x, y), dim=1)
    size = (x.shape[0], total, x.shape[2], x.shape[3])
    buffer = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    buffer.narrow(1, 0, x.shape[1]).copy_(x)
    return _dense.next_channels(buffer, y, x.shape[1])


@fx.wrap
def next_channels(buffer: Tensor, y: Tensor, start: int) -> Tensor:
    """Write a map into some channels of a wider one.

    Args:
        buffer: Map (N, total, H, W), which is overwritten.
        y: Map (N, D, H, W).
        start: The first channel to write.

    Returns:
        `buffer`. Where operations are recorded, it is the concatenation of `buffer` and y.
    """
    if is_recorded(y):
        return torch.cat((buffer, y), dim=1)
    buffer.narrow(1, start, y.shape[1]).copy_(y)
    return buffer


def concat_buffer(graph_module: GraphModule) -> bool:
    """Replace repeated concatenation by writing into one map.

    A dense block computes x1 = cat(x0, y1), x2 = cat(x1, y2), ... This pass allocates one map of all
    channels. Each y is written after the channels that are already there, and each x is a view of the
    first channels: x_k = map[:, :c0 + d1 + ... + dk], where x0 has c0 channels and y_k has d_k. So each x
    has the same numbers in the same order. What is written later is outside every earlier view.

    BN on a view becomes a multiplication and an addition, because PyTorch's BN is slow on views.
    """
    changed = False
    for chain in _find_chains(graph_module):
        maps = [_concatenated_maps(chain[0])[0], *(_concatenated_maps(node)[1] for node in chain)]
        sizes = [size for part in maps if (size := count_channels(graph_module, part)) is not None]
        if len(sizes) < len(maps):
            continue
        buffer = None
        for index, node in enumerate(chain):
            start = sum(sizes[: index + 1])
            first, new = _concatenated_maps(node)
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
                    graph_module.set_submodule(str(user.target), ScaleShift(*bn_scale_and_shift(norm)))
        for node in reversed(chain):
            graph_module.graph.erase_node(node)
        changed = True
    return changed


def _concatenated_maps(node: Node) -> tuple[Node, Node]:
    """Get the two maps that a node concatenates."""
    first, second = node.all_input_nodes
    return first, second


def _find_chains(graph_module: GraphModule) -> list[list[Node]]:
    """Find rows of at least two concatenations, each of which begins with the result of the one before."""
    chains: dict[Node, list[Node]] = {}  # The key is the last concatenation of each chain.
    for node in graph_module.graph.nodes:
        if node.target is torch.cat and len(node.all_input_nodes) == 2:
            chains[node] = [*chains.pop(_concatenated_maps(node)[0], []), node]
    return [chain for chain in chains.values() if len(chain) > 1]
