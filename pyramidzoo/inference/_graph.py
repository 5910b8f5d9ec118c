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

# Functions that compute each channel of the result from the same channel of the input. A channel of zeros stays zero.
CHANNELWISE = frozenset({F.relu, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d})
# Functions and layers that allocate memory for their result. Views and operations in place do not allocate.
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
        UsageError: The network cannot be rewritten exactly: it has hooks, parametrizations, BN without running
            statistics, tensors without values, or a layer that is used twice.
    """
    _check_can_be_rewritten(model)
    network = copy.deepcopy(model).eval().requires_grad_(False).to("cpu", torch.float64)
    graph_module = fx.symbolic_trace(network)
    called_layers = set()
    for node, layer in find_nodes_with_layer(graph_module, nn.Module):
        if node.target in called_layers:
            raise UsageError(f"{node.target} is used twice in a forward pass, so that it cannot be rewritten for one")
        called_layers.add(node.target)
        if isinstance(layer, (nn.Dropout, nn.Identity)):
            replace_node(node, get_first_input(node))
    for node in list(graph_module.graph.nodes):
        if node.target is F.dropout:
            replace_node(node, get_first_input(node))
    return graph_module


def _check_can_be_rewritten(model: nn.Module) -> None:
    """Raise UsageError if a module or a tensor of a network makes an exact rewrite impossible."""
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
    """Tell whether a module has hooks for the forward pass. If `recursive`, its submodules are checked too."""
    modules = model.modules() if recursive else (model,)
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def get_layer(graph_module: GraphModule, node: Node | None) -> nn.Module | None:
    """Return the layer that a node calls. Return None if the node is None or calls no layer."""
    return graph_module.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def find_nodes_with_layer(graph_module: GraphModule, layer_class: type[nn.Module]) -> Iterator[tuple[Node, Any]]:
    """Yield each node that calls a layer of a class, together with the layer.

    The caller may remove nodes from the graph between two results.
    """
    for node in list(graph_module.graph.nodes):
        layer = get_layer(graph_module, node)
        if isinstance(layer, layer_class):
            yield node, layer


def get_first_input(node: Node) -> Node:
    """Return the node whose result is a node's first argument."""
    argument = node.args[0]
    assert isinstance(argument, Node)
    return argument


def get_single_user(node: Node) -> Node | None:
    """Return the only node that reads a node's result. Return None if no node or several nodes read it."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_relu(graph_module: GraphModule, node: Node | None) -> bool:
    """Tell whether a node computes ReLU into new memory, so not in place."""
    layer = get_layer(graph_module, node)
    return (isinstance(layer, nn.ReLU) and not layer.inplace) or (node is not None and node.target is F.relu)


def is_sum(node: Node | None) -> bool:
    """Tell whether a node adds the results of two nodes."""
    return node is not None and node.target is operator.add and all(isinstance(term, Node) for term in node.args)


def get_channel_padding(node: Node | None) -> tuple[int, int] | None:
    """Return how many zero channels a node adds before and after the channels of a map.

    Return None if the node does anything else.
    """
    if node is None or node.target is not F.pad or len(node.args) != 2:
        return None
    if node.kwargs.get("mode", "constant") != "constant" or node.kwargs.get("value"):
        return None
    *pixels, before, after = node.args[1] if isinstance(node.args[1], tuple) else ()
    if pixels != [0, 0, 0, 0] or not isinstance(before, int) or not isinstance(after, int):
        return None
    return before, after


def owns_memory(graph_module: GraphModule, node: Node) -> bool:
    """Tell whether no result of another node shares the memory of a node's result.

    Such a result may be overwritten as soon as nobody reads it any more.
    """
    # These three write into their first argument and return it, so the result has the memory of that argument.
    if node.target in (add_into_channels, operator.iadd, operator.imul):
        return get_single_user(get_first_input(node)) is node and owns_memory(graph_module, get_first_input(node))
    layer = get_layer(graph_module, node)
    return node.target in _ALLOCATING_FUNCTIONS or isinstance(layer, _ALLOCATING_LAYERS) or is_relu(graph_module, node)


def count_channels(graph_module: GraphModule, node: Node) -> int | None:
    """Count the channels of a node's result.

    A convolution or BN tells the number. For other nodes the inputs are followed back to such a layer. Return
    None if a node on the way is of an unknown kind.
    """
    layer = get_layer(graph_module, node)
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features
    if (padding := get_channel_padding(node)) is not None:
        input_channels = count_channels(graph_module, get_first_input(node))
        return None if input_channels is None else input_channels + sum(padding)
    keep_number_of_channels = CHANNELWISE | {add_into_channels, operator.add, operator.mul}
    if node.target in keep_number_of_channels or isinstance(layer, (nn.ReLU, nn.MaxPool2d, Clamp)):
        return count_channels(graph_module, node.all_input_nodes[0])
    return None


def replace_node(node: Node, replacement: Node) -> None:
    """Let all readers of `node` read the result of `replacement` instead, and remove `node` from the graph."""
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)


def compute_bn_scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Compute the scale and the shift of each channel for which BN in evaluation mode is x * scale + shift.

    BN computes (x - mean) / sqrt(variance + eps) * weight + bias. So scale = weight / sqrt(variance + eps) and
    shift = bias - mean * scale. Without `affine`, weight is 1 and bias is 0.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def make_frozen_parameter(tensor: Tensor) -> nn.Parameter:
    """Copy a tensor into a parameter that has no gradient."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
