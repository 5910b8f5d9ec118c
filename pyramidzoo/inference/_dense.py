"""The pass that computes dense blocks without concatenation."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node

from pyramidzoo.inference import _dense  # torch.fx finds a wrapped function only as an attribute of its module.
from pyramidzoo.inference._graph import compute_bn_scale_and_shift, count_channels, get_layer
from pyramidzoo.inference._layers import ScaleShift, is_recorded


@fx.wrap
def start_buffer(x: Tensor, y: Tensor, channels: int) -> Tensor:
    """Allocate a map, and write x and then y into its first channels. The other channels have no values yet.

    Args:
        x: Map (N, C, H, W).
        y: Map (N, D, H, W).
        channels: Number of channels of the allocated map, at least C + D.

    Returns:
        Map (N, channels, H, W). If operations are recorded (`is_recorded`), the ordinary concatenation of x and
        y instead, a map (N, C + D, H, W).
    """
    if is_recorded(x):
        return torch.cat((x, y), dim=1)
    buffer_shape = (x.shape[0], channels, x.shape[2], x.shape[3])
    buffer = torch.empty(buffer_shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    buffer.narrow(1, 0, x.shape[1]).copy_(x)
    return _dense.write_channels(buffer, y, x.shape[1])


@fx.wrap
def write_channels(buffer: Tensor, y: Tensor, start: int) -> Tensor:
    """Write y into the channels `start` to `start + D - 1` of a wider map.

    Args:
        buffer: Map (N, channels, H, W), which is changed.
        y: Map (N, D, H, W).
        start: The first channel to write.

    Returns:
        `buffer`. If operations are recorded (`is_recorded`), the ordinary concatenation of `buffer` and y
        instead: `buffer` then has only the channels that were concatenated before.
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
    has the same numbers in the same order. A later y is written outside of every earlier view.

    A BN that reads a view becomes a multiplication and an addition, because PyTorch's BN is slow on views.
    """
    changed = False
    for chain in _find_chains(graph_module):
        # x0, y1, y2, ... and the number of channels of each.
        maps = [_get_concatenated_maps(chain[0])[0], *(_get_concatenated_maps(node)[1] for node in chain)]
        channel_counts = [count for node in maps if (count := count_channels(graph_module, node)) is not None]
        if len(channel_counts) < len(maps):
            continue
        buffer = None
        for index, node in enumerate(chain):
            start = sum(channel_counts[: index + 1])
            first, new = _get_concatenated_maps(node)
            with graph_module.graph.inserting_before(node):
                if buffer is None:
                    buffer = graph_module.graph.call_function(start_buffer, (first, new, sum(channel_counts)))
                else:
                    buffer = graph_module.graph.call_function(write_channels, (buffer, new, start))
                view = graph_module.graph.call_method("narrow", (buffer, 1, 0, start + channel_counts[index + 1]))
            node.replace_all_uses_with(view)
            for user in view.users:
                norm = get_layer(graph_module, user)
                if isinstance(norm, nn.BatchNorm2d):
                    graph_module.set_submodule(str(user.target), ScaleShift(*compute_bn_scale_and_shift(norm)))
        for node in reversed(chain):  # Only a node that no other node reads can be erased, so the last one goes first.
            graph_module.graph.erase_node(node)
        changed = True
    return changed


def _get_concatenated_maps(node: Node) -> tuple[Node, Node]:
    """Return the nodes of the two maps that a node concatenates."""
    first, second = node.all_input_nodes
    return first, second


def _find_chains(graph_module: GraphModule) -> list[list[Node]]:
    """Find all chains of at least two concatenations, such as x1 = cat(x0, y1), x2 = cat(x1, y2), ..."""
    chains: dict[Node, list[Node]] = {}  # The key is the last concatenation of the chain.
    for node in graph_module.graph.nodes:
        if node.target is torch.cat and len(node.all_input_nodes) == 2:
            chains[node] = [*chains.pop(_get_concatenated_maps(node)[0], []), node]
    return [chain for chain in chains.values() if len(chain) > 1]
