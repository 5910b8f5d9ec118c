"""Passes over the map that need not be made: ReLU and additions inside the convolution, or in place."""

from __future__ import annotations

import operator

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pyramidzoo.inference._graph import (
    channel_padding,
    channels,
    is_fresh,
    is_relu,
    is_sum,
    layer_of,
    nodes_of,
    only_user,
    replace,
    source,
)
from pyramidzoo.inference._layers import FusedConv2d, add_into_channels


def fuse(graph_module: GraphModule) -> bool:
    """conv-ReLU, conv-add and conv-add-ReLU as one layer each: the same operations before the result is stored.

    The sum is stored over the addend, which nobody reads afterwards.
    """
    for node, conv in nodes_of(graph_module, nn.Conv2d):
        if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            graph_module.set_submodule(str(node.target), FusedConv2d(conv))
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for node in list(graph_module.graph.nodes):
        if is_sum(node):
            _fuse_addition(graph_module, node, order)
    for node, conv in nodes_of(graph_module, FusedConv2d):
        relu = only_user(node)
        if relu is not None and is_relu(graph_module, relu):
            conv.relu = True
            replace(relu, node)
    return True


def _fuse_addition(graph_module: GraphModule, node: Node, order: dict[Node, int]) -> None:
    terms = [term for term in node.args[:2] if isinstance(term, Node)]
    if len(set(terms)) < 2 or len({channels(graph_module, term) for term in terms}) != 1:
        return
    total, last = sorted(terms, key=order.__getitem__)
    if not isinstance(layer_of(graph_module, last), FusedConv2d) or only_user(last) is not node:
        return
    earlier = [user for user in total.users if user is not node]
    if not is_fresh(graph_module, total) or not all(
        order[user] < order[last] and is_fresh(graph_module, user) for user in earlier
    ):
        return
    last.args = (*last.args, total)
    replace(node, last)


def slice_add(graph_module: GraphModule) -> bool:
    """The sum of a map and one that zero channels make as wide: added into a slice of the first map, in place.

    The same additions, without the zeros and without a second map. Nobody but the sum may read the first map.
    """
    found = False
    for node in list(graph_module.graph.nodes):
        if not is_sum(node):
            continue
        first, second = node.args
        if channel_padding(second) is None:
            first, second = second, first
        padding = channel_padding(second)
        if padding is None or not _may_overwrite(graph_module, first) or only_user(second) is not node:
            continue
        if second.next is not node:
            continue  # what is padded could be overwritten before the sum, where it would now be read
        with graph_module.graph.inserting_before(node):
            overwriting = graph_module.graph.call_function(add_into_channels, (first, source(second), *padding))
        replace(node, overwriting)
        graph_module.graph.erase_node(second)
        found = True
    return found


def in_place(graph_module: GraphModule) -> bool:
    """ReLU, additions and gates that overwrite what nobody reads after them: the same operation, stored elsewhere."""
    found = False
    for node in list(graph_module.graph.nodes):
        if is_relu(graph_module, node) and _may_overwrite(graph_module, source(node)):
            with graph_module.graph.inserting_before(node):
                overwriting = graph_module.graph.call_function(F.relu_, (source(node),))
            replace(node, overwriting)
            found = True
        elif node.target in (operator.add, operator.mul) and all(isinstance(term, Node) for term in node.args):
            first, second = node.args
            if not _may_overwrite(graph_module, first) and node.target is operator.add:
                first, second = second, first
            if _may_overwrite(graph_module, first) and first is not second:
                node.target = operator.iadd if node.target is operator.add else operator.imul
                node.args = (first, second)
                found = True
    return found


def _may_overwrite(graph_module: GraphModule, node: Node) -> bool:
    return len(node.users) == 1 and is_fresh(graph_module, node)
