"""Passes that compute ReLU and sums inside a convolution, or in place.

They save time because each map is read from memory, and written to memory, less often. The arithmetic
stays the same.
"""

from __future__ import annotations

import operator

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pyramidzoo.inference._graph import (
    count_channels,
    find_nodes_with_layer,
    get_channel_padding,
    get_first_input,
    get_layer,
    get_single_user,
    is_relu,
    is_sum,
    owns_memory,
    replace_node,
)
from pyramidzoo.inference._layers import FusedConv2d, add_into_channels


def fuse(graph_module: GraphModule) -> bool:
    """Replace conv-ReLU, conv-add and conv-add-ReLU by one layer each.

    For a convolution with weights W and bias b, a second map y and ReLU, the layer (`FusedConv2d`) computes
    ReLU(W x + b + y) for each pixel before it stores the result. A layer without y or without ReLU leaves them
    out. These are the same operations in the same order. The result is stored in the memory of y, so no other
    node may read y afterwards.
    """
    for node, conv in find_nodes_with_layer(graph_module, nn.Conv2d):
        if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            graph_module.set_submodule(str(node.target), FusedConv2d(conv))
    positions = {node: position for position, node in enumerate(graph_module.graph.nodes)}
    for node in list(graph_module.graph.nodes):
        if is_sum(node):
            _fuse_sum(graph_module, node, positions)
    for node, conv in find_nodes_with_layer(graph_module, FusedConv2d):
        relu = get_single_user(node)
        if relu is not None and is_relu(graph_module, relu):
            conv.has_relu = True
            replace_node(relu, node)
    return True


def _fuse_sum(graph_module: GraphModule, node: Node, positions: dict[Node, int]) -> None:
    """Replace a sum of two maps: the convolution that computes the later map also adds the earlier map.

    Nothing is changed if the earlier map may not be overwritten.

    Args:
        graph_module: The network.
        node: The sum.
        positions: Position of each node in the order of computation.
    """
    terms = [term for term in node.args[:2] if isinstance(term, Node)]
    if len(set(terms)) < 2 or len({count_channels(graph_module, term) for term in terms}) != 1:
        return
    earlier, later = sorted(terms, key=positions.__getitem__)
    if not isinstance(get_layer(graph_module, later), FusedConv2d) or get_single_user(later) is not node:
        return
    # The convolution overwrites the earlier map. So all its other readers must have run before the convolution, and
    # their results must not share its memory.
    other_users = [user for user in earlier.users if user is not node]
    are_finished = all(positions[user] < positions[later] and owns_memory(graph_module, user) for user in other_users)
    if not owns_memory(graph_module, earlier) or not are_finished:
        return
    later.args = (*later.args, earlier)
    replace_node(node, later)


def slice_add(graph_module: GraphModule) -> bool:
    """Compute the sum with a padded shortcut in place.

    y + pad(x) becomes: y[:, before:before + C] += x, where pad puts `before` zero channels in front of the C
    channels of x. All other channels of y stay, because y + 0 = y. So neither the padded map nor the sum needs
    new memory. y is overwritten, so only the sum may read y.
    """
    changed = False
    for node in list(graph_module.graph.nodes):
        if not is_sum(node):
            continue
        first, second = node.args
        if get_channel_padding(second) is None:
            first, second = second, first
        padding = get_channel_padding(second)
        if padding is None or not _may_overwrite(graph_module, first) or get_single_user(second) is not node:
            continue
        if second.next is not node:
            continue  # The sum would read x later than the padding did. A node between them could overwrite x.
        with graph_module.graph.inserting_before(node):
            overwriting = graph_module.graph.call_function(
                add_into_channels, (first, get_first_input(second), *padding)
            )
        replace_node(node, overwriting)
        graph_module.graph.erase_node(second)
        changed = True
    return changed


def in_place(graph_module: GraphModule) -> bool:
    """Compute ReLU, sums and products in place, if no other node reads the overwritten map.

    y = ReLU(x) is stored in the memory of x. y = a + b and y = a * b are stored in the memory of a, or of b for
    a sum if a may not be overwritten. The numbers are the same.
    """
    changed = False
    for node in list(graph_module.graph.nodes):
        if is_relu(graph_module, node) and _may_overwrite(graph_module, get_first_input(node)):
            with graph_module.graph.inserting_before(node):
                overwriting = graph_module.graph.call_function(F.relu_, (get_first_input(node),))
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
    """Tell whether a node's result has only one reader, and that reader may overwrite the result."""
    return len(node.users) == 1 and owns_memory(graph_module, node)
