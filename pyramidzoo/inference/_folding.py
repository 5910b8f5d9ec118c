"""BN into the convolution beside it. A pass changes the graph in place and tells whether it found anything."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pyramidzoo.inference._graph import (
    constant,
    is_relu,
    layer_of,
    nodes_of,
    only_user,
    replace,
    scale_and_shift,
    source,
)
from pyramidzoo.inference._layers import Clamp


def fold_bn(graph_module: GraphModule) -> bool:
    """conv-BN as one convolution: s * (W * x + b) + t = (s W) * x + (s b + t), for each output channel."""
    found = False
    for node, norm in nodes_of(graph_module, nn.BatchNorm2d):
        conv = layer_of(graph_module, source(node))
        if isinstance(conv, nn.Conv2d) and only_user(source(node)) is node:
            graph_module.set_submodule(str(source(node).target), fuse_conv_bn_eval(conv, norm))
            replace(node, source(node))
            found = True
    return found


def fold_bn_into_next_conv(graph_module: GraphModule) -> bool:
    """BN-conv1x1 as one convolution: W (s x + t) + b = (W s) x + (W t + b), and without padding every pixel sees t."""
    found = False
    for node, norm in nodes_of(graph_module, nn.BatchNorm2d):
        if _feeds_pointwise(graph_module, node):
            scale, shift = scale_and_shift(norm)
            for user in node.users:
                _absorb(layer_of(graph_module, user), scale, shift)
            replace(node, source(node))
            found = True
    return found


def clamp(graph_module: GraphModule) -> bool:
    """BN-ReLU-conv1x1 as clamp-convolution: ReLU(s x + t) is s max(x, -t/s) + t for s > 0, s min(x, -t/s) + t for s < 0
    and the constant ReLU(t) for s = 0, and the convolution takes the scale and the shift.

    One pass over the map instead of two. Where -t/s is beyond single precision, the channel counts as constant too.
    """
    found = False
    for node, norm in nodes_of(graph_module, nn.BatchNorm2d):
        relu = only_user(node)
        if relu is None or not is_relu(graph_module, relu) or not _feeds_pointwise(graph_module, relu):
            continue
        scale, shift = scale_and_shift(norm)
        bounds = Clamp(scale, shift)
        scale = torch.where(bounds.constant, 0.0, scale)
        shift = torch.where(bounds.constant, shift.relu(), shift)
        for user in relu.users:
            _absorb(layer_of(graph_module, user), scale, shift)
        graph_module.set_submodule(str(node.target), bounds)
        replace(relu, node)
        found = True
    return found


def _feeds_pointwise(graph_module: GraphModule, node: Node) -> bool:
    """Whether convolutions of single pixels, and nothing else, read a node's result."""
    users = [layer_of(graph_module, user) for user in node.users]
    return bool(users) and all(
        isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
        for conv in users
    )


def _absorb(conv: nn.Module | None, scale: Tensor, shift: Tensor) -> None:
    """Let a 1x1 convolution read x where it read scale * x + shift."""
    assert isinstance(conv, nn.Conv2d)
    bias = conv.weight.flatten(1) @ shift
    conv.bias = constant(bias if conv.bias is None else conv.bias + bias)
    conv.weight = constant(conv.weight * scale.view(1, -1, 1, 1))
