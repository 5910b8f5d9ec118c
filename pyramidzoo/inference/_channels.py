"""Passes that add channels to maps: one channel that is always 1, or zero channels up to a multiple of 8 or 16."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._graph import (
    CHANNELWISE,
    compute_bn_scale_and_shift,
    count_channels,
    find_nodes_with_layer,
    get_channel_padding,
    get_first_input,
    get_layer,
    get_single_user,
    is_sum,
    make_frozen_parameter,
    replace_node,
)

# What a node of the trunk does for the channel of ones: it makes the ones, it ends a branch whose zeros are added to
# the ones, or it computes ones from ones without any change.
_Role = Literal["makes the ones", "adds zeros", "keeps the ones"]


def constant_channel(graph_module: GraphModule) -> bool:
    """Replace BN-conv3x3 by one convolution, which reads the shift of the BN from a channel that is always 1.

    BN has scale s and shift t, and the convolution has weights W. A tap is one of the 3x3 positions of the
    filter. Output channel o, summed over all input channels c and all taps, is
    sum W[o, c, tap] (s[c] x[c] + t[c]) = sum (W s)[o, c, tap] x[c] + sum_tap (sum_c W[o, c, tap] t[c]) * 1.
    So the new filters for the channel of ones are sum_c W[o, c, tap] t[c]. This is exact at the border of the
    map too: there the convolution reads the zeros of its padding, for the channel of ones as for s x + t.

    The trunk is the map that all blocks add to. The channel of ones is the first channel of the trunk. The
    bias of the first convolution of the trunk makes it. Residual branches add 0 to it. An average of ones is 1.

    A network stays as it is if a layer of another kind makes a part of its trunk, or reads its trunk.
    """
    leading_norms = [
        (node, norm)
        for node, norm in find_nodes_with_layer(graph_module, nn.BatchNorm2d)
        if _is_padded(get_layer(graph_module, get_single_user(node)))
    ]
    if not leading_norms:
        return False
    trunk = _find_trunk(graph_module, [get_first_input(node) for node, _ in leading_norms])
    readers = {user for node in trunk for user in node.users} - trunk
    roles = {node: _find_role(graph_module, node) for node in trunk}
    all_have_roles = None not in roles.values()
    if not all_have_roles or not all(isinstance(get_layer(graph_module, reader), nn.BatchNorm2d) for reader in readers):
        return False
    for node, role in roles.items():
        if role != "keeps the ones":
            _prepend_constant_output(_get_conv(graph_module, node), 1.0 if role == "makes the ones" else 0.0)
    for node, norm in leading_norms:
        conv = _get_conv(graph_module, get_single_user(node))
        scale, shift = compute_bn_scale_and_shift(norm)
        filters_of_ones = torch.einsum("oihw,i->ohw", conv.weight, shift).unsqueeze(1)
        conv.weight = make_frozen_parameter(torch.cat((filters_of_ones, conv.weight * scale.view(1, -1, 1, 1)), dim=1))
        conv.in_channels += 1
        replace_node(node, get_first_input(node))
        readers.remove(node)
    for reader in readers:  # Each is a BN that was not folded, for instance because a ReLU follows it.
        _skip_first_channel(graph_module, reader)
    return True


def _get_conv(graph_module: GraphModule, node: Node | None) -> nn.Conv2d:
    """Return the convolution that a node calls. The node must call one."""
    conv = get_layer(graph_module, node)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _is_padded(layer: nn.Module | None) -> bool:
    """Tell whether a layer is a convolution without groups that pads its input with zeros."""
    return (
        isinstance(layer, nn.Conv2d) and layer.padding != (0, 0) and layer.groups == 1 and layer.padding_mode == "zeros"
    )


def _find_trunk(graph_module: GraphModule, start_nodes: list[Node]) -> set[Node]:
    """Find the start nodes, and all nodes that sums, added zero channels and average pooling connect with them."""
    trunk: set[Node] = set()
    unvisited = list(start_nodes)
    while unvisited:
        node = unvisited.pop()
        if node in trunk:
            continue
        trunk.add(node)
        if _continues_trunk(node):
            unvisited += node.all_input_nodes
        unvisited += [user for user in node.users if _continues_trunk(user)]
    return trunk


def _continues_trunk(node: Node) -> bool:
    """Tell whether both the inputs and the result of a node belong to the same trunk."""
    return is_sum(node) or get_channel_padding(node) is not None or node.target is F.avg_pool2d


def _find_role(graph_module: GraphModule, node: Node) -> _Role | None:
    """Find what a node of the trunk does for the channel of ones. Return None if the ones would not stay ones."""
    if is_sum(node):
        # The first term must be the end of a branch, which has zeros. If both terms had ones, the sum would have twos.
        has_branch = _ends_branch(graph_module, get_first_input(node)) and len(node.all_input_nodes) == 2
        return "keeps the ones" if has_branch else None
    if (padding := get_channel_padding(node)) is not None:
        is_first_term = any(is_sum(user) and get_first_input(user) is node for user in node.users)
        # Zero channels must come after the others, so that the channel of ones stays the first one.
        return "keeps the ones" if padding[0] == 0 and not is_first_term else None
    if node.target is F.avg_pool2d and not node.kwargs.get("count_include_pad") and not node.kwargs.get("padding"):
        return "keeps the ones"
    if isinstance(get_layer(graph_module, node), nn.Conv2d):
        return "adds zeros" if _ends_branch(graph_module, node) else "makes the ones"
    return None


def _ends_branch(graph_module: GraphModule, node: Node) -> bool:
    """Tell whether a node is the last convolution of a branch: only a sum reads it, as the first term."""
    user = get_single_user(node)
    is_first_term = user is not None and is_sum(user) and get_first_input(user) is node
    return is_first_term and isinstance(get_layer(graph_module, node), nn.Conv2d)


def _prepend_constant_output(conv: nn.Conv2d, value: float) -> None:
    """Add an output channel before all others. Its weights are 0 and its bias is `value`, so its result is `value`."""
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    conv.weight = make_frozen_parameter(F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 1, 0)))
    conv.bias = make_frozen_parameter(F.pad(bias, (1, 0), value=value))
    conv.out_channels += 1


def _skip_first_channel(graph_module: GraphModule, reader: Node) -> None:
    """Change the input of a BN from a map to a view of the map without its first channel."""
    norm = get_layer(graph_module, reader)
    assert isinstance(norm, nn.BatchNorm2d)
    with graph_module.graph.inserting_before(reader):
        other_channels = graph_module.graph.call_method("narrow", (get_first_input(reader), 1, 1, norm.num_features))
    reader.args = (other_channels,)


def align(graph_module: GraphModule, multiple: int) -> bool:
    """Add zero channels after the other channels of each map, so that their number is a multiple of `multiple`.

    Added filters of zeros make the zero channels: 0 x = 0. BN (with scale and shift 0), ReLU and pooling keep
    them 0. The weights that read them are 0 too, so the results of the other channels stay: W x + 0 * 0 = W x.

    Args:
        graph_module: The network.
        multiple: The number of output channels of each convolution becomes a multiple of this.

    Returns:
        Whether any channel was added.

    Raises:
        UsageError: A layer mixes the zero channels with other channels (groups, concatenation, gates).
    """
    added_channels: dict[Node, int] = {}  # How many zero channels were added to the result of each node.
    for node in list(graph_module.graph.nodes):
        layer = get_layer(graph_module, node)
        added_inputs = max((added_channels.get(argument, 0) for argument in node.all_input_nodes), default=0)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            added_channels[node] = -layer.out_channels % multiple
            _pad_convolution(layer, added_inputs, added_channels[node])
        elif isinstance(layer, nn.BatchNorm2d):
            added_channels[node] = added_inputs
            _pad_norm(layer, added_inputs)
        elif isinstance(layer, nn.Linear) and added_inputs:
            layer.weight = make_frozen_parameter(F.pad(layer.weight, (0, added_inputs)))
            layer.in_features += added_inputs
        elif (padding := get_channel_padding(node)) and (
            input_channels := count_channels(graph_module, get_first_input(node))
        ):
            # The padded shortcut gets as many channels as the other term of the sum has after it was aligned.
            added_channels[node] = -(input_channels - added_inputs + sum(padding)) % multiple
            _change_padding(node, padding[0], padding[1] + added_channels[node] - added_inputs)
        elif is_sum(node) and len({count_channels(graph_module, term) for term in node.all_input_nodes}) == 1:
            # Both terms have the same number of channels. If fewer of them were added to one term, then the others of
            # its zero channels count as ordinary channels.
            added_channels[node] = min(added_channels.get(term, 0) for term in node.all_input_nodes)
        elif _keeps_zero_channels(node, layer):
            added_channels[node] = added_inputs
        elif added_inputs and node.op == "call_method" and node.target == "narrow":
            pass  # `narrow` selects the channels after the channel of ones, and none of the zero channels.
        elif added_inputs:
            raise UsageError(
                f"channels cannot be aligned to {multiple}: {node.name} would not leave zero channels alone"
            )
    return any(added_channels.values())


def _change_padding(node: Node, before: int, after: int) -> None:
    """Let a padding node add `before` and `after` zero channels. Remove the node if both are 0."""
    if before or after:
        node.args = (get_first_input(node), (0, 0, 0, 0, before, after))
    else:
        replace_node(node, get_first_input(node))


def _keeps_zero_channels(node: Node, layer: nn.Module | None) -> bool:
    """Tell whether the last channels of a node's result are 0 if those of its input are 0."""
    if node.op == "call_method" and node.target == "flatten":
        return _is_pooled_to_a_pixel(node)
    return node.target in CHANNELWISE or isinstance(layer, (nn.ReLU, nn.MaxPool2d))


def _is_pooled_to_a_pixel(node: Node) -> bool:
    """Tell whether a node's input was pooled to one pixel, so that `flatten` keeps the order of the channels."""
    argument = node.args[0]
    return isinstance(argument, Node) and argument.target is F.adaptive_avg_pool2d and argument.args[1:] == (1,)


def _pad_convolution(conv: nn.Conv2d, added_inputs: int, added_outputs: int) -> None:
    """Add input and output channels after the others, with weights and biases of 0."""
    # The weights are (outputs, inputs, height, width). `F.pad` takes pairs (before, after), the last dimension first.
    conv.weight = make_frozen_parameter(F.pad(conv.weight, (0, 0, 0, 0, 0, added_inputs, 0, added_outputs)))
    if conv.bias is not None:
        conv.bias = make_frozen_parameter(F.pad(conv.bias, (0, added_outputs)))
    conv.in_channels += added_inputs
    conv.out_channels += added_outputs


def _pad_norm(norm: nn.BatchNorm2d, added_channels: int) -> None:
    """Add channels after the others, with weight 0, bias 0, mean 0 and variance 1."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean = F.pad(norm.running_mean, (0, added_channels))
    norm.running_var = F.pad(norm.running_var, (0, added_channels), value=1.0)
    if norm.affine:
        norm.weight = make_frozen_parameter(F.pad(norm.weight, (0, added_channels)))
        norm.bias = make_frozen_parameter(F.pad(norm.bias, (0, added_channels)))
    norm.num_features += added_channels
