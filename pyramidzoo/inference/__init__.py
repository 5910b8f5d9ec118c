"""Exact rewrites of a network for inference.

A rewritten network computes the same logits up to rounding, in less time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._fused import in_place, slice_add
from pyramidzoo.inference._graph import has_hooks, trace_network
from pyramidzoo.inference._layers import is_recorded
from pyramidzoo.inference._passes import PASSES, check_passes, choose_passes
from pyramidzoo.models._interface import ImageClassifier

__all__ = ["PASSES", "OptimizedClassifier", "optimize", "overwrite_sums"]


def optimize(
    model: ImageClassifier, *, form: str | Sequence[str] = "auto", dtype: torch.dtype | None = None
) -> OptimizedClassifier:
    """Make a rewritten copy of a network for inference on the same device.

    The copy is in evaluation mode, whatever mode `model` is in: BN uses its running statistics, and
    there is no dropout.

    Args:
        model: A network of the zoo. It is not changed.
        form: Which passes (rewrites) to apply. "auto" chooses those that were fastest for this family,
            device and dtype. Otherwise the name of a pass, or several names, from `PASSES`. Their order does
            not matter.
        dtype: dtype of the copy; None for the dtype of `model`.

    Returns:
        The copy. Its attribute `passes` names the passes that changed something.

    Raises:
        UsageError: `model` is not a network of the zoo or cannot be rewritten exactly, a pass is
            unknown, or `dtype` is not a floating type.
    """
    if not isinstance(model, ImageClassifier):
        raise UsageError(
            f"{type(model).__name__} is not a network of pyramidzoo.create_model; only those are optimized"
        )
    parameter = next(model.parameters())  # Its device and dtype are those of the whole network.
    dtype = parameter.dtype if dtype is None else dtype
    if not dtype.is_floating_point:
        raise UsageError(f"{dtype} is not a dtype for a network; torch.float32, bfloat16 and float16 are")
    family = type(model).__module__.rpartition(".")[2]
    pass_names = choose_passes(family, parameter.device.type, dtype) if form == "auto" else check_passes(form)
    with torch.inference_mode(False), torch.no_grad():
        network = trace_network(model)
        # Each pass changes the network, and returns whether it changed anything.
        applied = tuple(name for name, apply_pass in PASSES.items() if name in pass_names and apply_pass(network))
        network.graph.lint()
        network.delete_all_unused_submodules()
        network.recompile()
        return OptimizedClassifier(network, applied, model).to(parameter.device, dtype)


def overwrite_sums(model: ImageClassifier) -> nn.Module:
    """Make a network that computes sums and ReLUs in place, if shortcuts are padded with zero channels.

    The pass `slice_add` adds such a shortcut without making its zero channels. The pass `in_place` computes
    the other sums and the ReLUs in place. Every logit is the same, bit by bit.

    Args:
        model: Network in evaluation mode. It is not changed.

    Returns:
        A graph that has the same layers and tensors as `model` (no copies). It is `model` itself in two
        cases: no shortcut is padded, or a layer has hooks. A hook may keep a map, so the map must not be
        overwritten later.
    """
    if has_hooks(model):
        return model
    graph_module = fx.symbolic_trace(model)
    if not slice_add(graph_module):
        return model
    in_place(graph_module)
    graph_module.recompile()
    return graph_module


class OptimizedClassifier(nn.Module):
    """A rewritten network.

    It is always in evaluation mode and has no gradients. It has no `forward_features`, because its maps
    may have other channels than those of the plain network.

    Args:
        network: The rewritten graph.
        passes: Names of the passes that changed something.
        model: The network that was rewritten.

    Attributes:
        network: The rewritten graph.
        passes: Names of the passes that changed something.
        num_classes: Number of classes.
        preprocessing: The preprocessing of the weights.
    """

    _dtype_marker: Tensor

    def __init__(self, network: GraphModule, passes: tuple[str, ...], model: ImageClassifier) -> None:
        super().__init__()
        self.network = network
        self.passes = passes
        self.num_classes = model.num_classes
        self.preprocessing: Any = model.preprocessing
        # `to` converts this empty buffer together with the network, so its dtype always is the dtype of the network.
        self.register_buffer("_dtype_marker", torch.empty(0), persistent=False)
        super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images (N, in_chans, H, W) of any floating dtype.

        Returns:
            Logits (N, num_classes) in the network's dtype.

        Raises:
            UsageError: The images require a gradient.
        """
        if not is_recorded(x) and x.requires_grad and torch.is_grad_enabled():
            raise UsageError("an optimized network has no gradients; take them from the one it was made from")
        x = x.to(self._dtype_marker.dtype)
        if "channels_last" in self.passes:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.network(x)

    def train(self, mode: bool = True) -> OptimizedClassifier:
        """Stay in evaluation mode. Raise UsageError if `mode` is True."""
        if mode:
            raise UsageError("an optimized network is for inference; train the one it was made from")
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(passes={self.passes}, dtype={self._dtype_marker.dtype})"
