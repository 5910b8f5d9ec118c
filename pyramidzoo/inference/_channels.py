"""Channels that are not in the network: one that is always 1, and zeros up to a multiple."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._graph import (
    CHANNELWISE,
    channel_padding,
    channels,
    constant,
    is_sum,
    layer_of,
    nodes_of,
    only_user,
    replace,
    scale_and_shift,
    source,
)


def constant_channel(graph_module: GraphModule) -> bool:
    """BN-conv3x3 without the BN, exact at the zero-padded border too: the trunk carries one more channel, the first,
    that is 1 everywhere, and the convolution reads the shift from it: for each tap, sum over c of W[o, c, tap] t[c].

    A tap outside the map sees neither x nor the 1, as it saw neither x nor the shift. The 1 comes from the bias of the
    first convolution; residual branches add 0 to it, and averages of ones are 1.
    """
    leads = [
        (node, norm)
        for node, norm in nodes_of(graph_module, nn.BatchNorm2d)
        if _is_padded(layer_of(graph_module, only_user(node)))
    ]
    if not leads:
        return False
    trunk = _trunk(graph_module, [source(node) for node, _ in leads])
    readers = {user for node in trunk for user in node.users} - trunk
    if None in (roles := {node: _starts(graph_module, node, trunk) for node in trunk}).values() or not all(
        isinstance(layer_of(graph_module, reader), nn.BatchNorm2d) for reader in readers
    ):
        return False  # something reads or makes the trunk that could not cope with one channel more
    for node, value in roles.items():
        if value != "passes on":
            conv = layer_of(graph_module, node)
            assert isinstance(conv, nn.Conv2d)
            _first_output(conv, 1.0 if value == "first" else 0.0)
    for node, norm in leads:
        conv = layer_of(graph_module, only_user(node))
        assert isinstance(conv, nn.Conv2d)
        scale, shift = scale_and_shift(norm)
        ones = torch.einsum("oihw,i->ohw", conv.weight, shift).unsqueeze(1)
        conv.weight = constant(torch.cat((ones, conv.weight * scale.view(1, -1, 1, 1)), dim=1))
        conv.in_channels += 1
        replace(node, source(node))
        readers.remove(node)
    for reader in readers:
        with graph_module.graph.inserting_before(reader):
            norm = layer_of(graph_module, reader)
            assert isinstance(norm, nn.BatchNorm2d)
            rest = graph_module.graph.call_method("narrow", (source(reader), 1, 1, norm.num_features))
        reader.args = (rest,)
    return True


def _is_padded(conv: nn.Module | None) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.padding != (0, 0) and conv.groups == 1 and conv.padding_mode == "zeros"


def _trunk(graph_module: GraphModule, start: list[Node]) -> set[Node]:
    """Everything that sums, zero channels and average pooling connect with these nodes."""
    trunk: set[Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node in trunk:
            continue
        trunk.add(node)
        if _is_passage(node):
            waiting += node.all_input_nodes
        waiting += [user for user in node.users if _is_passage(user)]
    return trunk


def _is_passage(node: Node) -> bool:
    return is_sum(node) or channel_padding(node) is not None or node.target is F.avg_pool2d


def _starts(graph_module: GraphModule, node: Node, trunk: set[Node]) -> str | None:
    """What a node of the trunk does with the constant: starts it, adds nothing to it, passes it on, or None."""
    if is_sum(node):
        # the end of a branch adds 0; if both terms had the 1, the sum would have 2
        return "passes on" if _ends_branch(graph_module, source(node)) and len(node.all_input_nodes) == 2 else None
    if (padding := channel_padding(node)) is not None:
        first = any(is_sum(user) and source(user) is node for user in node.users)
        return "passes on" if padding[0] == 0 and not first else None  # the constant stays the first channel
    if node.target is F.avg_pool2d and not node.kwargs.get("count_include_pad") and not node.kwargs.get("padding"):
        return "passes on"
    if isinstance(layer_of(graph_module, node), nn.Conv2d):
        return "adds nothing" if _ends_branch(graph_module, node) else "first"
    return None


def _ends_branch(graph_module: GraphModule, node: Node) -> bool:
    """Whether it is a convolution that only a sum reads, as its first term."""
    user = only_user(node)
    is_first = user is not None and is_sum(user) and source(user) is node
    return is_first and isinstance(layer_of(graph_module, node), nn.Conv2d)


def _first_output(conv: nn.Conv2d, value: float) -> None:
    """Give a convolution one more output channel, before all others, of a constant value."""
    bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
    conv.weight = constant(F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 1, 0)))
    conv.bias = constant(F.pad(bias, (1, 0), value=value))
    conv.out_channels += 1


def align(graph_module: GraphModule, multiple: int) -> bool:
    """Zero channels after the existing ones, up to a multiple: zero filters make them, BN and ReLU leave them zero, and
    the weights that read them are zero.

    Raises UsageError for a network with a layer where channels mean something else (groups, concatenation, gates).
    """
    more: dict[Node, int] = {}  # zero channels of each value
    for node in list(graph_module.graph.nodes):
        layer = layer_of(graph_module, node)
        given = max((more.get(argument, 0) for argument in node.all_input_nodes), default=0)
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            more[node] = -layer.out_channels % multiple
            _pad_convolution(layer, given, more[node])
        elif isinstance(layer, nn.BatchNorm2d):
            more[node] = given
            _pad_norm(layer, given)
        elif isinstance(layer, nn.Linear) and given:
            layer.weight = constant(F.pad(layer.weight, (0, given)))
            layer.in_features += given
        elif (padding := channel_padding(node)) is not None and (width := channels(graph_module, source(node))):
            more[node] = -(width - given + sum(padding)) % multiple  # as many as the other term of the sum has
            _pad_again(node, padding[0], padding[1] + more[node] - given)
        elif is_sum(node) and len({channels(graph_module, term) for term in node.all_input_nodes}) == 1:
            more[node] = min(more.get(term, 0) for term in node.all_input_nodes)  # a shortcut may have fewer of its own
        elif _leaves_channels(node, layer):
            more[node] = given
        elif given and node.op == "call_method" and node.target == "narrow":
            pass  # reads real channels only
        elif given:
            raise UsageError(
                f"channels cannot be aligned to {multiple}: {node.name} would not leave zero channels alone"
            )
    return any(more.values())


def _pad_again(node: Node, before: int, after: int) -> None:
    """Put other numbers of zero channels around a shortcut, which may need none any more."""
    if before or after:
        node.args = (source(node), (0, 0, 0, 0, before, after))
    else:
        replace(node, source(node))


def _leaves_channels(node: Node, layer: nn.Module | None) -> bool:
    if node.op == "call_method" and node.target == "flatten":
        return _is_pooled_to_a_pixel(node)
    return node.target in CHANNELWISE or isinstance(layer, (nn.ReLU, nn.MaxPool2d))


def _is_pooled_to_a_pixel(node: Node) -> bool:
    before = node.args[0]
    return isinstance(before, Node) and before.target is F.adaptive_avg_pool2d and before.args[1:] == (1,)


def _pad_convolution(conv: nn.Conv2d, inputs: int, outputs: int) -> None:
    conv.weight = constant(F.pad(conv.weight, (0, 0, 0, 0, 0, inputs, 0, outputs)))
    if conv.bias is not None:
        conv.bias = constant(F.pad(conv.bias, (0, outputs)))
    conv.in_channels += inputs
    conv.out_channels += outputs


def _pad_norm(norm: nn.BatchNorm2d, more: int) -> None:
    def padded(tensor: Tensor | None, value: float = 0.0) -> Tensor | None:
        return None if tensor is None else F.pad(tensor, (0, more), value=value)

    norm.running_mean, norm.running_var = padded(norm.running_mean), padded(norm.running_var, 1.0)
    if norm.affine:
        norm.weight, norm.bias = constant(F.pad(norm.weight, (0, more))), constant(F.pad(norm.bias, (0, more)))
    norm.num_features += more
