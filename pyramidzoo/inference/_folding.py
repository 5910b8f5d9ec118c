"""Passes that move BN into a convolution next to it.

In evaluation mode BN computes s x + t with constants s and t for each channel. Each pass changes the
graph in place, and returns whether it changed anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pyramidzoo.inference._graph import (
    compute_bn_scale_and_shift,
    find_nodes_with_layer,
    get_first_input,
    get_layer,
    get_single_user,
    is_relu,
    make_frozen_parameter,
    replace_node,
)
from pyramidzoo.inference._layers import Clamp


def fold_bn(graph_module: GraphModule) -> bool:
    """Replace conv-BN by one convolution.

    For each output channel of a convolution with weights W and bias b, where BN has scale s and shift t:
    s (W x + b) + t = (s W) x + (s b + t).
    """
    changed = False
    for node, norm in find_nodes_with_layer(graph_module, nn.BatchNorm2d):
        conv = get_layer(graph_module, get_first_input(node))
        if isinstance(conv, nn.Conv2d) and get_single_user(get_first_input(node)) is node:
            graph_module.set_submodule(str(get_first_input(node).target), fuse_conv_bn_eval(conv, norm))
            replace_node(node, get_first_input(node))
            changed = True
    return changed


def fold_bn_into_next_conv(graph_module: GraphModule) -> bool:
    """Replace BN-conv1x1 by one convolution.

    For a convolution with weights W and bias b, where BN has scale s and shift t:
    W (s x + t) + b = (W s) x + (W t + b). A 1x1 convolution has no padding, so W t is the same at every pixel.
    """
    changed = False
    for node, norm in find_nodes_with_layer(graph_module, nn.BatchNorm2d):
        if _feeds_only_conv1x1(graph_module, node):
            scale, shift = compute_bn_scale_and_shift(norm)
            for user in node.users:
                _fold_into_conv(get_layer(graph_module, user), scale, shift)
            replace_node(node, get_first_input(node))
            changed = True
    return changed


def clamp(graph_module: GraphModule) -> bool:
    """Replace BN-ReLU-conv1x1 by a clamp and a convolution.

    BN has scale s and shift t. ReLU(s x + t) is s max(x, -t/s) + t for s > 0, s min(x, -t/s) + t for s < 0,
    and the constant ReLU(t) for s = 0. The clamp computes the maximum or minimum. The convolution takes over
    s and t as in `fold_bn_into_next_conv`. So the map is read and written once instead of twice.

    A channel is treated as constant, like one with s = 0, if -t/s is outside the range of float32.
    """
    changed = False
    for node, norm in find_nodes_with_layer(graph_module, nn.BatchNorm2d):
        relu = get_single_user(node)
        if relu is None or not is_relu(graph_module, relu) or not _feeds_only_conv1x1(graph_module, relu):
            continue
        scale, shift = compute_bn_scale_and_shift(norm)
        bounds = Clamp(scale, shift)
        # For a constant channel, 0 x + ReLU(t) is folded into the convolution.
        scale = torch.where(bounds.is_constant, 0.0, scale)
        shift = torch.where(bounds.is_constant, shift.relu(), shift)
        for user in relu.users:
            _fold_into_conv(get_layer(graph_module, user), scale, shift)
        graph_module.set_submodule(str(node.target), bounds)
        replace_node(relu, node)
        changed = True
    return changed


def _feeds_only_conv1x1(graph_module: GraphModule, node: Node) -> bool:
    """Tell whether 1x1 convolutions without groups, and nothing else, read a node's result."""
    users = [get_layer(graph_module, user) for user in node.users]
    return bool(users) and all(
        isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
        for conv in users
    )


def _fold_into_conv(conv: nn.Module | None, scale: Tensor, shift: Tensor) -> None:
    """Change a 1x1 convolution so that its result for x is what its result for scale * x + shift was before.

    For weights W and bias b: W (scale x + shift) + b = (W scale) x + (W shift + b).
    """
    assert isinstance(conv, nn.Conv2d)
    added_bias = conv.weight.flatten(1) @ shift
    conv.bias = make_frozen_parameter(added_bias if conv.bias is None else conv.bias + added_bias)
    conv.weight = make_frozen_parameter(conv.weight * scale.view(1, -1, 1, 1))
