"""The base class of every network. It implements timm's model interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._stage import Stage


class ImageClassifier(nn.Module):
    """A convolutional network, global average pooling, and one linear classifier.

    Each family implements `forward_features` and uses the same names for its parts: `conv1` (the
    stem's convolution), `layer1`, `layer2`, ... (the stages), `norm` (the last BN, if there is one)
    and `fc` (the classifier). Families that torchvision also has use torchvision's names instead.
    `stem_name` and `classifier_name` are the names of the stem's convolution and of the classifier.

    Images are floats (N, in_chans, H, W). H and W may be any numbers that are large enough for the
    strides of the network.

    Args:
        num_classes: Number of classes; 0 for a network without a classifier.
        num_features: Channels of the last feature map.
        drop_rate: Probability of dropout in front of the classifier.

    Attributes:
        head_hidden_size: Length of the vector that the classifier reads.
        grad_checkpointing: Whether the backward pass computes activations again instead of keeping them.
        preprocessing: The preprocessing that the loaded weights were trained with, set by the code that
            loads weights; None without weights.
        feature_info: One entry for each stage: the channels of its output (`num_chs`), the stride
            relative to the image (`reduction`) and the name of its module (`module`).
    """

    stem_name = "conv1"
    classifier_name = "fc"
    # The arguments that a caller may change. Any other argument, such as the depth, would make another graph, and
    # another graph is another architecture with another name.
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
            x: Images (N, in_chans, H, W), prepared as the attribute `preprocessing` says.

        Returns:
            Logits (N, num_classes).
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map. If the network has a BN behind the last stage, that is included.

        Args:
            x: Images (N, in_chans, H, W), prepared as the attribute `preprocessing` says.

        Returns:
            Feature map (N, num_features, h, w).
        """
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify a feature map.

        Args:
            x: Feature map (N, num_features, h, w) from `forward_features`.
            pre_logits: Whether to return the vector that the classifier reads, without classifying it.

        Returns:
            Logits (N, num_classes), or with `pre_logits` vectors (N, head_hidden_size).
        """
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.head_drop_rate:
            x = F.dropout(x, self.head_drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def get_classifier(self) -> nn.Module:
        """Get the last layer: `nn.Linear`, or `nn.Identity` if `num_classes` is 0."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one with random weights, on the same device and in the same dtype.

        Args:
            num_classes: Number of classes; 0 removes the classifier.
            global_pool: None or "avg". timm's interface has this argument; these networks can only
                compute the average.

        Raises:
            ValueError: `num_classes` is negative, or `global_pool` is any other value.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is {global_pool!r}; these networks are pooled by averaging")
        check_num_classes(num_classes)
        # An `nn.Identity` has no parameter. Then the network's first parameter says which device and dtype to use.
        old_parameter = next(self.get_classifier().parameters(), next(self.parameters()))
        self.num_classes = num_classes
        classifier = make_classifier(self.head_hidden_size, num_classes, old_parameter.device, old_parameter.dtype)
        # A name such as "classifier.6" is the attribute "6" of the module "classifier".
        parent_name, _, attribute = self.classifier_name.rpartition(".")
        setattr(self.get_submodule(parent_name), attribute, classifier)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing on, or with `enable` False off (see `Stage`)."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Get the patterns by which timm divides the parameters into groups, from the first layer to the last.

        timm gives each group another learning rate if its option `layer_decay` is set.

        Args:
            coarse: Each stage is a group. Otherwise each block is a group.

        Returns:
            Regular expressions for names of parameters. timm orders the groups by the numbers that an
            expression finds in a name, such as (1, 0) in `layer1.0.conv1.weight`. The numbers after an
            expression, such as (99999,), replace these. That puts the last BN after all blocks.
        """
        return {
            "stem": r"^conv1|^bn1",
            "blocks": r"^layer(\d+)" if coarse else [(r"^layer(\d+)\.(\d+)", None), (r"^norm", (99999,))],
        }

    def _add_stage(self, blocks: Iterable[nn.Module], *, channels: int, reduction: int) -> None:
        """Add the next stage as `layer1`, `layer2`, ..., and its entry to `feature_info`.

        Args:
            blocks: The blocks of the stage.
            channels: Channels of the stage's output.
            reduction: Height of the image divided by the height of the stage's output.
        """
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
        """Draw the weights of all convolutions from the normal distribution of He et al. 2015: N(0, 2 / fan).

        2 / fan is the variance. fan is the number of input channels ("fan_in") or of output channels
        ("fan_out") times the height and the width of the kernel. Other layers keep PyTorch's initial
        values, which are Torch7's too: BN has scale 1 and shift 0, and the weights of a linear layer are
        drawn from U(-1/sqrt(in_features), 1/sqrt(in_features)).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


def make_classifier(
    in_features: int, num_classes: int, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Make a classifier with random weights and zero bias.

    Args:
        in_features: Length of the vector that the classifier reads.
        num_classes: Number of classes; 0 makes an `nn.Identity`.
        device: Device of the parameters; None means PyTorch's default.
        dtype: Type of the parameters; None means PyTorch's default.

    Returns:
        A linear layer, or `nn.Identity`.
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
