"""The base class of every network. It implements timm's model interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Stage(nn.Sequential):
    """Blocks in order.

    Where `grad_checkpointing` is set, training recomputes each block in the backward pass and does
    not keep the activations inside it.
    """

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run all blocks on a map (N, C, H, W)."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            for block in self.blocks():
                x = _run_checkpointed(block, x)
            return x
        for layer in self:
            x = layer(x)
        return x

    def blocks(self) -> Iterable[nn.Module]:
        """Iterate over the parts that gradient checkpointing recomputes, each as a whole."""
        return self


class ImageClassifier(nn.Module):
    """A convolutional network, global average pooling, and one linear classifier.

    Each family implements `forward_features` and uses the same names for its parts: `conv1` (the
    stem's convolution), `layer1`, `layer2`, ... (the stages), `norm` (the last BN, if there is one)
    and `fc` (the classifier). Families that torchvision also has keep torchvision's names. They say
    so in `stem_name` and `classifier_name`.

    Images are floats (N, in_chans, H, W), of any size that the strides allow.

    Args:
        num_classes: Number of classes; 0 for a network without a classifier.
        num_features: Channels of the last feature map.
        drop_rate: Probability of dropout in front of the classifier.

    Attributes:
        head_hidden_size: Length of the vector that the classifier reads.
        grad_checkpointing: Training recomputes activations instead of keeping them.
        preprocessing: The preprocessing of the loaded weights. The code that loads weights sets it.
        feature_info: One entry for each stage: the channels of its output (`num_chs`), the stride
            relative to the image (`reduction`) and the name of its module (`module`).
    """

    stem_name = "conv1"
    classifier_name = "fc"
    # Any other argument makes another graph, which has a name of its own.
    overridable_arguments = frozenset({"num_classes", "in_chans", "drop_rate"})

    def __init__(self, *, num_classes: int, num_features: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        check_num_classes(num_classes)
        check_drop_rate(drop_rate)
        self.num_classes = num_classes
        self.num_features = num_features
        self.head_hidden_size = num_features
        self.head_drop_rate = drop_rate
        self.grad_checkpointing = False
        self.preprocessing: Any = None
        self.feature_info: list[dict[str, Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: Images (N, in_chans, H, W), normalised.

        Returns:
            Logits (N, num_classes).
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map, after its normalisation.

        Args:
            x: Images (N, in_chans, H, W), normalised.

        Returns:
            Map (N, num_features, h, w).
        """
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify a feature map.

        Args:
            x: Map (N, num_features, h, w) from `forward_features`.
            pre_logits: Return the vector in front of the classifier.

        Returns:
            Logits (N, num_classes), or with `pre_logits` vectors (N, head_hidden_size).
        """
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.head_drop_rate:
            x = F.dropout(x, self.head_drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def get_classifier(self) -> nn.Module:
        """Get the last layer: `nn.Linear`, or `nn.Identity` where `num_classes` is 0."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one with random weights, on the same device and in the same dtype.

        Args:
            num_classes: Number of classes; 0 removes the classifier.
            global_pool: None or "avg". timm has this argument; these networks have one kind of pooling.

        Raises:
            ValueError: `num_classes` is negative, or `global_pool` is another kind of pooling.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is {global_pool!r}; these networks are pooled by averaging")
        check_num_classes(num_classes)
        reference = next(self.get_classifier().parameters(), next(self.parameters()))
        self.num_classes = num_classes
        classifier = make_classifier(self.head_hidden_size, num_classes, reference.device, reference.dtype)
        parent, _, name = self.classifier_name.rpartition(".")
        setattr(self.get_submodule(parent), name, classifier)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let training recompute each block in the backward pass, or with `enable` False keep its activations."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Get patterns of parameter names from the first layer to the last, as timm's `group_matcher` does.

        timm uses them for learning rates that differ between layers.

        Args:
            coarse: Group by stages instead of blocks.

        Returns:
            Regular expressions for the stem and for the blocks.
        """
        return {
            "stem": r"^conv1|^bn1",
            "blocks": r"^layer(\d+)" if coarse else [(r"^layer(\d+)\.(\d+)", None), (r"^norm", (99999,))],
        }

    def _add_stage(self, blocks: Iterable[nn.Module], *, channels: int, reduction: int) -> None:
        """Add the next `layerN`. Its output has so many channels and so many times fewer rows than the image."""
        name = f"layer{len(self.feature_info) + 1}"
        self.add_module(name, Stage(*blocks))
        self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": name})

    def _run_stages(self, x: Tensor) -> Tensor:
        """Run `layer1`, `layer2`, ... in order."""
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
        return x

    def _init_weights(self, mode: Literal["fan_in", "fan_out"]) -> None:
        """Draw the weights of all convolutions from He's distribution N(0, 2 / fan).

        Other layers keep PyTorch's defaults, which are Torch7's too: BN has scale 1 and shift 0, and
        linear weights are drawn from U(-1/sqrt(in), 1/sqrt(in)).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


def make_classifier(
    in_features: int, num_classes: int, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Make a classifier with random weights and zero bias.

    Args:
        in_features: Length of the vector that it reads.
        num_classes: Number of classes; 0 makes an `nn.Identity`.
        device: Device of its parameters; None is PyTorch's default.
        dtype: Type of its parameters; None is PyTorch's default.

    Returns:
        The layer.
    """
    if not num_classes:
        return nn.Identity()
    layer = nn.Linear(in_features, num_classes, device=device, dtype=dtype)
    nn.init.zeros_(layer.bias)
    return layer


def check_drop_rate(drop_rate: float) -> None:
    """Raise ValueError unless a probability of dropout lies in [0, 1)."""
    if not 0.0 <= drop_rate < 1.0:
        raise ValueError(f"drop_rate is {drop_rate}; it must lie in [0, 1)")


def check_choice(name: str, value: object, *choices: object) -> None:
    """Raise ValueError unless the argument called `name` has one of the values in `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def check_num_classes(num_classes: int) -> None:
    """Raise ValueError if a number of classes is negative."""
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; 0 means no classifier, else it must be positive")


def _run_checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block, and run it again in the backward pass."""

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _freeze_running_statistics(block)

    y: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return y


@contextlib.contextmanager
def _freeze_running_statistics(block: nn.Module) -> Iterator[None]:
    """Do not update BN's running statistics: the second forward pass sees the same batch again."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
