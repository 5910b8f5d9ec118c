"""What every pass works on: the network as a graph of layers, and the questions that passes ask of it."""

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

# what leaves each channel to itself, and zeros zero
CHANNELWISE = frozenset({F.relu, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d})
# what makes memory of its own for its result, unlike views and what works in place
_FRESH = CHANNELWISE | {F.pad, torch.cat, torch.sigmoid, operator.add, operator.mul}
_FRESH_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear, Clamp, ScaleShift)


def traced(model: nn.Module) -> GraphModule:
    """A copy of the network as a graph, in doubles on the CPU, in evaluation mode, without dropout and identities.

    Raises UsageError for a network whose computation is not the one that its layers describe.
    """
    _check(model)
    network = copy.deepcopy(model).eval().requires_grad_(False).to("cpu", torch.float64)
    graph_module = fx.symbolic_trace(network)
    seen = set()
    for node, layer in nodes_of(graph_module, nn.Module):
        if node.target in seen:
            raise UsageError(f"{node.target} is used twice in a forward pass, so that it cannot be rewritten for one")
        seen.add(node.target)
        if isinstance(layer, (nn.Dropout, nn.Identity)):
            replace(node, source(node))
    for node in list(graph_module.graph.nodes):
        if node.target is F.dropout:
            replace(node, source(node))
    return graph_module


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = name or "the network"
        if parametrize.is_parametrized(module):
            raise UsageError(f"{where} computes its weights (a parametrization); remove it, leaving the weights")
        if has_hooks(module, below=False):
            raise UsageError(f"{where} has forward hooks, which a rewritten network would not call; remove them first")
        if isinstance(module, nn.BatchNorm2d) and (module.running_mean is None or module.running_var is None):
            raise UsageError(
                f"{where} keeps no running statistics, so that its scale depends on the batch; give it some"
            )
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise UsageError(f"{name} has no values (meta device); load weights before optimizing")


def has_hooks(model: nn.Module, *, below: bool = True) -> bool:
    """Tell whether a module, or one `below` it, has hooks that are called in a forward pass."""
    modules = model.modules() if below else (model,)
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def layer_of(graph_module: GraphModule, node: Node | None) -> nn.Module | None:
    """The layer that a node calls."""
    return graph_module.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def nodes_of(graph_module: GraphModule, kind: type[nn.Module]) -> Iterator[tuple[Node, Any]]:
    """Every node that calls a layer of a kind, in order, with the layer; nodes may be removed meanwhile."""
    for node in list(graph_module.graph.nodes):
        layer = layer_of(graph_module, node)
        if isinstance(layer, kind):
            yield node, layer


def source(node: Node) -> Node:
    """What a node reads first."""
    found = node.args[0]
    assert isinstance(found, Node)
    return found


def only_user(node: Node) -> Node | None:
    """The one node that reads this one's result, or None where there are more."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def is_relu(graph_module: GraphModule, node: Node | None) -> bool:
    layer = layer_of(graph_module, node)
    return (isinstance(layer, nn.ReLU) and not layer.inplace) or (node is not None and node.target is F.relu)


def is_sum(node: Node | None) -> bool:
    """Tell whether a node adds two maps."""
    return node is not None and node.target is operator.add and all(isinstance(term, Node) for term in node.args)


def channel_padding(node: Node | None) -> tuple[int, int] | None:
    """How many zero channels a node puts before and after those of a map; None where it does something else."""
    if node is None or node.target is not F.pad or len(node.args) != 2:
        return None
    if node.kwargs.get("mode", "constant") != "constant" or node.kwargs.get("value"):
        return None
    *pixels, before, after = node.args[1] if isinstance(node.args[1], tuple) else ()
    if pixels != [0, 0, 0, 0] or not isinstance(before, int) or not isinstance(after, int):
        return None
    return before, after


def is_fresh(graph_module: GraphModule, node: Node) -> bool:
    """Whether no other value shares the memory of a node's result: it may be overwritten after its last use."""
    if node.target in (add_into_channels, operator.iadd, operator.imul):  # they hand back their first argument
        return only_user(source(node)) is node and is_fresh(graph_module, source(node))
    layer = layer_of(graph_module, node)
    return node.target in _FRESH or isinstance(layer, _FRESH_LAYERS) or is_relu(graph_module, node)


def channels(graph_module: GraphModule, node: Node) -> int | None:
    """How many channels a node's result has, where a layer tells."""
    layer = layer_of(graph_module, node)
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features
    passing = CHANNELWISE | {add_into_channels, operator.add, operator.mul}
    if (padding := channel_padding(node)) is not None:
        width = channels(graph_module, source(node))
        return None if width is None else width + sum(padding)
    if node.target in passing or isinstance(layer, (nn.ReLU, nn.MaxPool2d, Clamp)):
        return channels(graph_module, node.all_input_nodes[0])
    return None


def replace(node: Node, other: Node) -> None:
    """Let everybody who reads `node` read `other`, and remove it."""
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BN in evaluation mode as x * scale + shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def constant(tensor: Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
