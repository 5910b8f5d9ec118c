"""Channels that are not in the network: one that is always 1, and zeros up to a multiple."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._graph import (
    CHANNELWISE,
    constant,
    is_slice_add,
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
    """Everything that slice additions and average pooling connect with these nodes."""
    trunk: set[Node] = set()
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node in trunk:
            continue
        trunk.add(node)
        if is_slice_add(node) or node.target is F.avg_pool2d:
            waiting += [argument for argument in node.args if isinstance(argument, Node)]
        waiting += [user for user in node.users if is_slice_add(user) or user.target is F.avg_pool2d]
    return trunk


def _starts(graph_module: GraphModule, node: Node, trunk: set[Node]) -> str | None:
    """What a node of the trunk does with the constant: starts it, adds nothing to it, passes it on, or None."""
    if is_slice_add(node):
        return "passes on"
    if node.target is F.avg_pool2d and not node.kwargs.get("count_include_pad") and not node.kwargs.get("padding"):
        return "passes on"
    if isinstance(layer_of(graph_module, node), nn.Conv2d):
        user = only_user(node)
        return "adds nothing" if is_slice_add(user) and user is not None and source(user) is node else "first"
    return None


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
    for node in graph_module.graph.nodes:
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
        elif is_slice_add(node):
            more[node] = more.get(source(node), 0)
        elif _leaves_channels(node, layer) or node.target is operator.add:
            more[node] = given
        elif given and node.op == "call_method" and node.target == "narrow":
            pass  # reads real channels only
        elif given:
            raise UsageError(
                f"channels cannot be aligned to {multiple}: {node.name} would not leave zero channels alone"
            )
    return any(more.values())


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
