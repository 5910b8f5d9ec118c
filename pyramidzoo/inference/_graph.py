"""The graph of a network that passes rewrite, and helpers to inspect and change it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F
from torch.nn.utils import parametrize

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._layers import Clamp, ScaleShift, add_into_channels

# Functions that compute each channel from the same channel of the input, and map zeros to zeros.
CHANNELWISE = frozenset({F.relu, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d})
# Functions and layers that put their result into new memory. Views and operations in place do not.
_ALLOCATING_FUNCTIONS = CHANNELWISE | {F.pad, torch.cat, torch.sigmoid, operator.add, operator.mul}
_ALLOCATING_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear, Clamp, ScaleShift)


def trace_network(model: nn.Module) -> GraphModule:
    """Copy a network as a graph of layers, in float64 on the CPU, in evaluation mode.

    Dropout and identities are left out.

    Args:
        model: The network. It is not changed.

    Returns:
        The graph.

    Raises:
        UsageError: Hooks, parametrizations, missing statistics or values, or a layer that is used twice
            make an exact rewrite impossible.
    """
    _check_can_be_rewritten(model)
    network = copy.deepcopy(model).eval().requires_grad_(False).to("cpu", torch.float64)
    graph_module = fx.symbolic_trace(network)
    called_layers = set()
    for node, layer in nodes_with_layer(graph_module, nn.Module):
        if node.target in called_layers:
            raise UsageError(f"{node.target} is used twice in a forward pass, so that it cannot be rewritten for one")
        called_layers.add(node.target)
        if isinstance(layer, (nn.Dropout, nn.Identity)):
            replace_node(node, first_input(node))
    for node in list(graph_module.graph.nodes):
        if node.target is F.dropout:
            replace_node(node, first_input(node))
    return graph_module


def _check_can_be_rewritten(model: nn.Module) -> None:
    for name, module in model.named_modules():
        layer_name = name or "the network"
        if parametrize.is_parametrized(module):
            raise UsageError(f"{layer_name} computes its weights (a parametrization); remove it, leaving the weights")
        if has_hooks(module, recursive=False):
            raise UsageError(
                f"{layer_name} has forward hooks, which a rewritten network would not call; remove them first"
            )
        if isinstance(module, nn.BatchNorm2d) and (module.running_mean is None or module.running_var is None):
            raise UsageError(
                f"{layer_name} keeps no running statistics, so that its scale depends on the batch; give it some"
            )
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise UsageError(f"{name} has no values (meta device); load weights before optimizing")


def has_hooks(model: nn.Module, *, recursive: bool = True) -> bool:
    """Tell whether a module has hooks for the forward pass; with `recursive` also the modules inside it."""
    modules = model.modules() if recursive else (model,)
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def layer_of(graph_module: GraphModule, node: Node | None) -> nn.Module | None:
    """Get the layer that a node calls, or None."""
    return graph_module.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def nodes_with_layer(graph_module: GraphModule, kind: type[nn.Module]) -> Iterator[tuple[Node, Any]]:
    """Iterate over the nodes that call a layer of some class, with the layer. Nodes may be removed meanwhile."""
    for node in list(graph_module.graph.nodes):
        layer = layer_of(graph_module, node)
        if isinstance(layer, kind):
            yield node, layer


def first_input(node: Node) -> Node:
    """Get the node whose result is a node's first argument."""
    argument = node.args[0]
    assert isinstance(argument, Node)
    return argument


def single_user(node: Node) -> Node | None:
    """Get the one node that reads a node's result, or None if there are more."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_relu(graph_module: GraphModule, node: Node | None) -> bool:
    """Tell whether a node computes ReLU, not in place."""
    layer = layer_of(graph_module, node)
    return (isinstance(layer, nn.ReLU) and not layer.inplace) or (node is not None and node.target is F.relu)


def is_sum(node: Node | None) -> bool:
    """Tell whether a node adds two maps."""
    return node is not None and node.target is operator.add and all(isinstance(term, Node) for term in node.args)


def channel_padding(node: Node | None) -> tuple[int, int] | None:
    """Get how many zero channels a node puts before and after those of a map; None if it does something else."""
    if node is None or node.target is not F.pad or len(node.args) != 2:
        return None
    if node.kwargs.get("mode", "constant") != "constant" or node.kwargs.get("value"):
        return None
    *pixels, before, after = node.args[1] if isinstance(node.args[1], tuple) else ()
    if pixels != [0, 0, 0, 0] or not isinstance(before, int) or not isinstance(after, int):
        return None
    return before, after


def owns_memory(graph_module: GraphModule, node: Node) -> bool:
    """Tell whether no other value shares the memory of a node's result."""
    if node.target in (add_into_channels, operator.iadd, operator.imul):  # They return their first argument.
        return single_user(first_input(node)) is node and owns_memory(graph_module, first_input(node))
    layer = layer_of(graph_module, node)
    return node.target in _ALLOCATING_FUNCTIONS or isinstance(layer, _ALLOCATING_LAYERS) or is_relu(graph_module, node)


def count_channels(graph_module: GraphModule, node: Node) -> int | None:
    """Count the channels of a node's result; None if no layer tells."""
    layer = layer_of(graph_module, node)
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features
    keeping = CHANNELWISE | {add_into_channels, operator.add, operator.mul}
    if (padding := channel_padding(node)) is not None:
        width = count_channels(graph_module, first_input(node))
        return None if width is None else width + sum(padding)
    if node.target in keeping or isinstance(layer, (nn.ReLU, nn.MaxPool2d, Clamp)):
        return count_channels(graph_module, node.all_input_nodes[0])
    return None


def replace_node(node: Node, other: Node) -> None:
    """Let all readers of `node` read `other`, and remove `node`."""
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def bn_scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Compute scale and shift of BN in evaluation mode, which is x * scale + shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def frozen_parameter(tensor: Tensor) -> nn.Parameter:
    """Make a parameter without gradient from a copy of a tensor."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
