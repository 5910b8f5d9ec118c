"""Exact rewrites of a network for inference: the same logits to rounding, in less time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._forms import PASSES, auto_form, checked_form
from pyramidzoo.inference._fused import in_place, slice_add
from pyramidzoo.inference._graph import has_hooks, traced
from pyramidzoo.inference._layers import is_recorded
from pyramidzoo.models._interface import ImageClassifier

__all__ = ["PASSES", "OptimizedClassifier", "optimize", "overwrite_sums"]


def optimize(
    model: ImageClassifier, *, form: str | Sequence[str] = "auto", dtype: torch.dtype | None = None
) -> OptimizedClassifier:
    """A rewritten copy of a network, for inference on the same device, in its dtype or another; `model` stays as it is.

    `form` "auto" takes what was fastest for the family, device and dtype; otherwise it names passes (`PASSES`), which
    are applied in their own order, and left out of `passes` where they find nothing to do. BN computes with its running
    statistics, dropout does nothing, whatever mode `model` is in. Raises UsageError for what is not a network of the
    zoo, for one that cannot be rewritten exactly, for an unknown pass, and for a dtype that is not floating.
    """
    if not isinstance(model, ImageClassifier):
        raise UsageError(
            f"{type(model).__name__} is not a network of pyramidzoo.create_model; only those are optimized"
        )
    reference = next(model.parameters())
    dtype = reference.dtype if dtype is None else dtype
    if not dtype.is_floating_point:
        raise UsageError(f"{dtype} is not a dtype for a network; torch.float32, bfloat16 and float16 are")
    family = type(model).__module__.rpartition(".")[2]
    wanted = auto_form(family, reference.device.type, dtype) if form == "auto" else checked_form(form)
    with torch.inference_mode(False), torch.no_grad():
        network = traced(model)
        applied = tuple(name for name, rewrite in PASSES.items() if name in wanted and rewrite(network))
        network.graph.lint()
        network.delete_all_unused_submodules()
        network.recompile()
        return OptimizedClassifier(network, applied, model).to(reference.device, dtype)


def overwrite_sums(model: ImageClassifier) -> nn.Module:
    """Let a network compute the same logits, bit by bit, without the zero channels of padded shortcuts.

    These shortcuts are added in place, and so are the other sums and the ReLUs (`slice_add` and `in_place`).

    Args:
        model: Network in evaluation mode, which stays as it is.

    Returns:
        A graph that has the same layers as `model`, with the same tensors; or `model` itself, where no shortcut is
        padded, and where hooks watch the layers. A hook must be given maps that nobody overwrites.
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
    """A rewritten network: images (N, in_chans, H, W) of any floating dtype to logits (N, num_classes) of its own.

    `passes` says which rewrites it went through. It is always in evaluation mode and has no gradients. There is no
    `forward_features`: inner maps may have other channels than the plain network's.
    """

    _like: Tensor

    def __init__(self, network: GraphModule, passes: tuple[str, ...], model: ImageClassifier) -> None:
        super().__init__()
        self.network = network
        self.passes = passes
        self.num_classes = model.num_classes
        self.preprocessing: Any = model.preprocessing
        self.register_buffer("_like", torch.empty(0), persistent=False)  # of the network's dtype, wherever it moves
        super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to logits (N, num_classes). Raises UsageError for images that want a gradient."""
        if not is_recorded(x) and x.requires_grad and torch.is_grad_enabled():
            raise UsageError("an optimized network has no gradients; take them from the one it was made from")
        x = x.to(self._like.dtype)
        if "channels_last" in self.passes:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.network(x)

    def train(self, mode: bool = True) -> OptimizedClassifier:
        """Nothing, or UsageError for training mode."""
        if mode:
            raise UsageError("an optimized network is for inference; train the one it was made from")
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}(passes={self.passes}, dtype={self._like.dtype})"
