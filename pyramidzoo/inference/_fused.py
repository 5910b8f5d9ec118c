"""Passes that compute ReLU and sums inside a convolution or in place.

They save memory traffic: a map is read and written less often. The arithmetic stays the same.
"""

from __future__ import annotations

import operator

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pyramidzoo.inference._graph import (
    channel_padding,
    count_channels,
    first_input,
    is_relu,
    is_sum,
    layer_of,
    nodes_with_layer,
    owns_memory,
    replace_node,
    single_user,
)
from pyramidzoo.inference._layers import FusedConv2d, add_into_channels


def fuse(graph_module: GraphModule) -> bool:
    """Replace conv-ReLU, conv-add and conv-add-ReLU by one layer each.

    The layer computes ReLU(W x + b + y) for each pixel before it stores the result; ReLU and y may be
    missing. These are the same operations in the same order. The sum is stored over y, so y must be read by
    nothing else afterwards.
    """
    for node, conv in nodes_with_layer(graph_module, nn.Conv2d):
        if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            graph_module.set_submodule(str(node.target), FusedConv2d(conv))
    positions = {node: position for position, node in enumerate(graph_module.graph.nodes)}
    for node in list(graph_module.graph.nodes):
        if is_sum(node):
            _fuse_sum(graph_module, node, positions)
    for node, conv in nodes_with_layer(graph_module, FusedConv2d):
        relu = single_user(node)
        if relu is not None and is_relu(graph_module, relu):
            conv.relu = True
            replace_node(relu, node)
    return True


def _fuse_sum(graph_module: GraphModule, node: Node, positions: dict[Node, int]) -> None:
    """Let the convolution that computes the later term of a sum add the earlier one, if that one may be overwritten."""
    terms = [term for term in node.args[:2] if isinstance(term, Node)]
    if len(set(terms)) < 2 or len({count_channels(graph_module, term) for term in terms}) != 1:
        return
    total, last = sorted(terms, key=positions.__getitem__)
    if not isinstance(layer_of(graph_module, last), FusedConv2d) or single_user(last) is not node:
        return
    # Other readers of the overwritten map must have run before, and their results must not share its memory.
    other_users = [user for user in total.users if user is not node]
    are_finished = all(positions[user] < positions[last] and owns_memory(graph_module, user) for user in other_users)
    if not owns_memory(graph_module, total) or not are_finished:
        return
    last.args = (*last.args, total)
    replace_node(node, last)


def slice_add(graph_module: GraphModule) -> bool:
    """Compute the sum with a padded shortcut in place.

    y + pad(x) becomes: y[:, before:before + C] += x, where pad puts `before` zero channels in front of the C
    channels of x. All other channels of y stay, because y + 0 = y. This needs no zeros and no second map.
    Nothing but the sum may read y.
    """
    changed = False
    for node in list(graph_module.graph.nodes):
        if not is_sum(node):
            continue
        first, second = node.args
        if channel_padding(second) is None:
            first, second = second, first
        padding = channel_padding(second)
        if padding is None or not _may_overwrite(graph_module, first) or single_user(second) is not node:
            continue
        if second.next is not node:
            continue  # x would now be read later than before. Something in between could overwrite it.
        with graph_module.graph.inserting_before(node):
            overwriting = graph_module.graph.call_function(add_into_channels, (first, first_input(second), *padding))
        replace_node(node, overwriting)
        graph_module.graph.erase_node(second)
        changed = True
    return changed


def in_place(graph_module: GraphModule) -> bool:
    """Compute ReLU, sums and products in place where nothing else reads the overwritten map.

    y = ReLU(x), y = a + b and y = a * b store the same numbers over x or a.
    """
    changed = False
    for node in list(graph_module.graph.nodes):
        if is_relu(graph_module, node) and _may_overwrite(graph_module, first_input(node)):
            with graph_module.graph.inserting_before(node):
                overwriting = graph_module.graph.call_function(F.relu_, (first_input(node),))
            replace_node(node, overwriting)
            changed = True
        elif node.target in (operator.add, operator.mul) and all(isinstance(term, Node) for term in node.args):
            first, second = node.args
            if not _may_overwrite(graph_module, first) and node.target is operator.add:
                first, second = second, first
            if _may_overwrite(graph_module, first) and first is not second:
                node.target = operator.iadd if node.target is operator.add else operator.imul
                node.args = (first, second)
                changed = True
    return changed


def _may_overwrite(graph_module: GraphModule, node: Node) -> bool:
    """Tell whether the one reader of a map may overwrite it."""
    return len(node.users) == 1 and owns_memory(graph_module, node)
