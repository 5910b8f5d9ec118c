"""Densely connected networks (Huang et al. 2017, "Densely Connected Convolutional Networks").

The parameters have torchvision's names, so torchvision's files for ImageNet networks load without a
conversion. The CIFAR networks are built as in the authors' code, liuzhuang13/DenseNet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import conv1x1, conv3x3, conv7x7
from pyramidzoo.models._interface import ImageClassifier, check_drop_rate, make_classifier
from pyramidzoo.models._stage import Stage

# The depth of an ImageNet network, and the number of layers in each of its four dense blocks.
_LAYERS_PER_BLOCK = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


class DenseLayer(nn.Module):
    """BN-ReLU-[conv1x1-dropout-BN-ReLU]-conv3x3-dropout. The new channels are put behind those of the input.

    Maps (N, in_channels, H, W) become (N, in_channels + growth_rate, H, W).

    Args:
        in_channels: Channels of the input.
        growth_rate: Channels that the layer adds.
        bottleneck: Whether a conv1x1 with four times `growth_rate` output channels comes first.
        drop_rate: Probability of dropout after each convolution.
    """

    def __init__(self, in_channels: int, growth_rate: int, *, bottleneck: bool, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.bottleneck = bottleneck
        self.norm1 = nn.BatchNorm2d(in_channels)
        if bottleneck:
            self.conv1 = conv1x1(in_channels, 4 * growth_rate)
            self.norm2 = nn.BatchNorm2d(4 * growth_rate)
            self.conv2 = conv3x3(4 * growth_rate, growth_rate)
        else:
            self.conv1 = conv3x3(in_channels, growth_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer on a map (N, in_channels, H, W)."""
        y = self._dropout(self.conv1(F.relu(self.norm1(x))))
        if self.bottleneck:
            y = self._dropout(self.conv2(F.relu(self.norm2(y))))
        return torch.cat((x, y), dim=1)

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x


class Transition(nn.Module):
    """BN-ReLU-conv1x1-dropout and 2x2 average pooling, between two dense blocks.

    Maps (N, in_channels, H, W) become (N, out_channels, H / 2, W / 2).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        drop_rate: Probability of dropout after the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer on a map (N, in_channels, H, W)."""
        x = self.conv(F.relu(self.norm(x)))
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return F.avg_pool2d(x, 2)


class _DenseNet(ImageClassifier):
    """A stem, dense blocks with transitions between them, BN-ReLU."""

    stem_name = "features.conv0"
    classifier_name = "classifier"

    def __init__(
        self,
        *,
        layers_per_block: Sequence[int],
        growth_rate: int,
        bottleneck: bool,
        compression: float,
        stem: dict[str, nn.Module],
        stem_channels: int,
        stem_reduction: int,
        num_classes: int,
        drop_rate: float,
    ) -> None:
        check_drop_rate(drop_rate)
        features, feature_info = dict(stem), []
        channels, reduction = stem_channels, stem_reduction
        for number, layer_count in enumerate(layers_per_block, start=1):
            layers: dict[str, nn.Module] = {}
            for layer in range(1, layer_count + 1):
                layers[f"denselayer{layer}"] = DenseLayer(
                    channels, growth_rate, bottleneck=bottleneck, drop_rate=drop_rate
                )
                channels += growth_rate
            name = f"denseblock{number}"
            features[name] = Stage(OrderedDict(layers))
            feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"features.{name}"})
            if number < len(layers_per_block):
                kept_channels = int(channels * compression)
                features[f"transition{number}"] = Transition(channels, kept_channels, drop_rate=drop_rate)
                channels, reduction = kept_channels, reduction * 2
        features["norm5"] = nn.BatchNorm2d(channels)
        super().__init__(num_classes=num_classes, num_features=channels)
        self.feature_info = feature_info
        self.features = nn.Sequential(OrderedDict(features))
        self.classifier = make_classifier(channels, num_classes)
        self._init_weights("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        return F.relu(self.features(x))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Get the patterns by which timm divides the parameters into groups, see `ImageClassifier.group_matcher`."""
        coarse_blocks = r"^features\.(?:denseblock|transition)(\d+)"
        fine_blocks = [
            (r"^features\.denseblock(\d+)\.denselayer(\d+)", None),
            (r"^features\.transition(\d+)", (99999,)),
            (r"^features\.norm5", (99999,)),
        ]
        return {
            "stem": r"^features\.conv0|^features\.norm0",
            "blocks": coarse_blocks if coarse else fine_blocks,
        }


class CifarDenseNet(_DenseNet):
    """DenseNet for 32x32 images: conv3x3, three dense blocks with transitions between them, BN-ReLU.

    The paper's DenseNet has 16 stem channels and no compression. Its DenseNet-BC (bottleneck and
    compression) has twice `growth_rate` stem channels and compression 0.5.

    Args:
        depth: 3n+4 for n layers in each dense block; 6n+4 with `bottleneck`.
        growth_rate: Channels that each layer adds.
        bottleneck: Whether each layer begins with a conv1x1.
        compression: Factor by which each transition multiplies the number of channels.
        stem_channels: Output channels of the stem.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout after every convolution but the first (the authors use 0.2
            without augmentation).

    Raises:
        ValueError: There is no network of this depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        growth_rate: int,
        bottleneck: bool = False,
        compression: float = 1.0,
        stem_channels: int = 16,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        # The stem, two transitions and the classifier are 4 of the layers. One more layer in each of the three dense
        # blocks means 3 more convolutions, or 6 if a layer has two convolutions.
        depth_step = 6 if bottleneck else 3
        n, remaining_convolutions = divmod(depth - 4, depth_step)
        if remaining_convolutions or n < 1:
            raise ValueError(f"A CIFAR DenseNet has no depth {depth}: it must be {depth_step}n+4 with n >= 1")
        super().__init__(
            layers_per_block=(n, n, n),
            growth_rate=growth_rate,
            bottleneck=bottleneck,
            compression=compression,
            stem={"conv0": conv3x3(in_chans, stem_channels)},
            stem_channels=stem_channels,
            stem_reduction=1,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )


class ImageDenseNet(_DenseNet):
    """DenseNet-BC for 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four dense blocks, BN-ReLU.

    Args:
        depth: 121, 161, 169 or 201.
        growth_rate: Channels that each layer adds. The stem has twice as many output channels.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout after every convolution but the first.

    Raises:
        ValueError: Nobody published a network of this depth.
    """

    def __init__(
        self, *, depth: int, growth_rate: int, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        if depth not in _LAYERS_PER_BLOCK:
            raise ValueError(
                f"An ImageNet DenseNet has no depth {depth}; it must be one of {sorted(_LAYERS_PER_BLOCK)}"
            )
        stem_channels = 2 * growth_rate
        stem: dict[str, nn.Module] = {
            "conv0": conv7x7(in_chans, stem_channels),
            "norm0": nn.BatchNorm2d(stem_channels),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, stride=2, padding=1),
        }
        super().__init__(
            layers_per_block=_LAYERS_PER_BLOCK[depth],
            growth_rate=growth_rate,
            bottleneck=True,
            compression=0.5,
            stem=stem,
            stem_channels=stem_channels,
            stem_reduction=4,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )
