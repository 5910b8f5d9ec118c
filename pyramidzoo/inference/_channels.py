"""Passes that add channels: one that is always 1, or zero channels up to a multiple."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._graph import (
    CHANNELWISE,
    bn_scale_and_shift,
    channel_padding,
    count_channels,
    first_input,
    frozen_parameter,
    is_sum,
    layer_of,
    nodes_with_layer,
    replace_node,
    single_user,
)

# What a node of the trunk does with the constant channel.
_Role = Literal["starts it", "adds 0 to it", "passes it on"]


def constant_channel(graph_module: GraphModule) -> bool:
    """Replace BN-conv3x3 by one convolution, which reads the shift of the BN from a channel that is always 1.

    For scale s, shift t and weights W, the sum over all channels c and all taps of the filter is
    sum W[o, c, tap] (s[c] x[c] + t[c]) = sum (W s)[o, c, tap] x[c] + sum_tap (sum_c W[o, c, tap] t[c]) * 1.
    So the new filters for the channel of ones are sum_c W[o, c, tap] t[c]. This is exact at the border too:
    zero padding hides the 1 from a tap outside the map, as it hid x and the shift.

    The channel of ones is the first channel of the trunk, the map that blocks add to. The bias of the
    trunk's first convolution makes it. Residual branches add 0 to it, and an average of ones is 1.

    Networks whose trunk is read or made by other layers are left alone.
    """
    leading_norms = [
        (node, norm)
        for node, norm in nodes_with_layer(graph_module, nn.BatchNorm2d)
        if _is_padded(layer_of(graph_module, single_user(node)))
    ]
    if not leading_norms:
        return False
    trunk = _find_trunk(graph_module, [first_input(node) for node, _ in leading_norms])
    readers = {user for node in trunk for user in node.users} - trunk
    roles = {node: _find_role(graph_module, node) for node in trunk}
    can_carry = None not in roles.values()
    if not can_carry or not all(isinstance(layer_of(graph_module, reader), nn.BatchNorm2d) for reader in readers):
        return False
    for node, role in roles.items():
        if role != "passes it on":
            _add_first_output(_conv_of(graph_module, node), 1.0 if role == "starts it" else 0.0)
    for node, norm in leading_norms:
        conv = _conv_of(graph_module, single_user(node))
        scale, shift = bn_scale_and_shift(norm)
        filters_of_ones = torch.einsum("oihw,i->ohw", conv.weight, shift).unsqueeze(1)
        conv.weight = frozen_parameter(torch.cat((filters_of_ones, conv.weight * scale.view(1, -1, 1, 1)), dim=1))
        conv.in_channels += 1
        replace_node(node, first_input(node))
        readers.remove(node)
    for reader in readers:
        _skip_first_channel(graph_module, reader)
    return True


def _conv_of(graph_module: GraphModule, node: Node | None) -> nn.Conv2d:
    conv = layer_of(graph_module, node)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _is_padded(conv: nn.Module | None) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.padding != (0, 0) and conv.groups == 1 and conv.padding_mode == "zeros"


def _find_trunk(graph_module: GraphModule, start: list[Node]) -> set[Node]:
    """Find all nodes that sums, zero channels and average pooling connect with some nodes."""
    trunk: set[Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node in trunk:
            continue
        trunk.add(node)
        if _continues_trunk(node):
            waiting += node.all_input_nodes
        waiting += [user for user in node.users if _continues_trunk(user)]
    return trunk


def _continues_trunk(node: Node) -> bool:
    return is_sum(node) or channel_padding(node) is not None or node.target is F.avg_pool2d


def _find_role(graph_module: GraphModule, node: Node) -> _Role | None:
    """Find what a node of the trunk does with the constant channel; None if the node would break it."""
    if is_sum(node):
        # The first term must be the end of a branch, which adds 0. If both terms had the 1, the sum would have 2.
        return (
            "passes it on" if _ends_branch(graph_module, first_input(node)) and len(node.all_input_nodes) == 2 else None
        )
    if (padding := channel_padding(node)) is not None:
        is_first_term = any(is_sum(user) and first_input(user) is node for user in node.users)
        # Zero channels must come after the others, so that the constant stays the first channel.
        return "passes it on" if padding[0] == 0 and not is_first_term else None
    if node.target is F.avg_pool2d and not node.kwargs.get("count_include_pad") and not node.kwargs.get("padding"):
        return "passes it on"
    if isinstance(layer_of(graph_module, node), nn.Conv2d):
        return "adds 0 to it" if _ends_branch(graph_module, node) else "starts it"
    return None


def _ends_branch(graph_module: GraphModule, node: Node) -> bool:
    """Tell whether a node is a convolution that only a sum reads, as its first term."""
    user = single_user(node)
    is_first_term = user is not None and is_sum(user) and first_input(user) is node
    return is_first_term and isinstance(layer_of(graph_module, node), nn.Conv2d)


def _add_first_output(conv: nn.Conv2d, value: float) -> None:
    """Add an output channel of a constant value before all others."""
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    conv.weight = frozen_parameter(F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 1, 0)))
    conv.bias = frozen_parameter(F.pad(bias, (1, 0), value=value))
    conv.out_channels += 1


def _skip_first_channel(graph_module: GraphModule, reader: Node) -> None:
    """Let a BN read all channels but the first one."""
    norm = layer_of(graph_module, reader)
    assert isinstance(norm, nn.BatchNorm2d)
    with graph_module.graph.inserting_before(reader):
        others = graph_module.graph.call_method("narrow", (first_input(reader), 1, 1, norm.num_features))
    reader.args = (others,)


def align(graph_module: GraphModule, multiple: int) -> bool:
    """Add zero channels after the others, up to a multiple.

    More filters of zeros make the zero channels: 0 x = 0. BN (with scale and shift 0), ReLU and pooling keep
    them 0. The weights that read them are 0 too, so the results of the other channels stay: W x + 0 * 0 = W x.

    Args:
        graph_module: The network.
        multiple: Each convolution gets a multiple of so many output channels.

    Returns:
        Whether there was anything to add.

    Raises:
        UsageError: A layer does not keep zero channels apart (groups, concatenation, gates).
    """
    added: dict[Node, int] = {}  # how many zero channels the result of each node has
    for node in list(graph_module.graph.nodes):
        layer = layer_of(graph_module, node)
        inputs_added = max((added.get(argument, 0) for argument in node.all_input_nodes), default=0)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            added[node] = -layer.out_channels % multiple
            _pad_convolution(layer, inputs_added, added[node])
        elif isinstance(layer, nn.BatchNorm2d):
            added[node] = inputs_added
            _pad_norm(layer, inputs_added)
        elif isinstance(layer, nn.Linear) and inputs_added:
            layer.weight = frozen_parameter(F.pad(layer.weight, (0, inputs_added)))
            layer.in_features += inputs_added
        elif (padding := channel_padding(node)) and (width := count_channels(graph_module, first_input(node))):
            # The padded map gets as many zero channels as the other term of the sum has.
            added[node] = -(width - inputs_added + sum(padding)) % multiple
            _change_padding(node, padding[0], padding[1] + added[node] - inputs_added)
        elif is_sum(node) and len({count_channels(graph_module, term) for term in node.all_input_nodes}) == 1:
            # A padded shortcut may have fewer zero channels of its own than the other term.
            added[node] = min(added.get(term, 0) for term in node.all_input_nodes)
        elif _keeps_zero_channels(node, layer):
            added[node] = inputs_added
        elif inputs_added and node.op == "call_method" and node.target == "narrow":
            pass  # It reads none of the zero channels.
        elif inputs_added:
            raise UsageError(
                f"channels cannot be aligned to {multiple}: {node.name} would not leave zero channels alone"
            )
    return any(added.values())


def _change_padding(node: Node, before: int, after: int) -> None:
    """Change how many zero channels a node adds, or remove the node if it would add none."""
    if before or after:
        node.args = (first_input(node), (0, 0, 0, 0, before, after))
    else:
        replace_node(node, first_input(node))


def _keeps_zero_channels(node: Node, layer: nn.Module | None) -> bool:
    if node.op == "call_method" and node.target == "flatten":
        return _is_pooled_to_a_pixel(node)
    return node.target in CHANNELWISE or isinstance(layer, (nn.ReLU, nn.MaxPool2d))


def _is_pooled_to_a_pixel(node: Node) -> bool:
    before = node.args[0]
    return isinstance(before, Node) and before.target is F.adaptive_avg_pool2d and before.args[1:] == (1,)


def _pad_convolution(conv: nn.Conv2d, inputs: int, outputs: int) -> None:
    """Add input and output channels with weights and biases of 0."""
    conv.weight = frozen_parameter(F.pad(conv.weight, (0, 0, 0, 0, 0, inputs, 0, outputs)))
    if conv.bias is not None:
        conv.bias = frozen_parameter(F.pad(conv.bias, (0, outputs)))
    conv.in_channels += inputs
    conv.out_channels += outputs


def _pad_norm(norm: nn.BatchNorm2d, count: int) -> None:
    """Add channels with scale, shift and mean 0 and variance 1."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean = F.pad(norm.running_mean, (0, count))
    norm.running_var = F.pad(norm.running_var, (0, count), value=1.0)
    if norm.affine:
        norm.weight = frozen_parameter(F.pad(norm.weight, (0, count)))
        norm.bias = frozen_parameter(F.pad(norm.bias, (0, count)))
    norm.num_features += count
