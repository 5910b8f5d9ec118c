"""Densely connected networks (Huang et al. 2017, "Densely Connected Convolutional Networks").

Parameter names are torchvision's, whose ImageNet networks load the same files.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import conv1x1, conv3x3, conv7x7
from pyramidzoo.models._interface import ImageClassifier, Stage, checked_rate

_IMAGENET_LAYERS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


class DenseLayer(nn.Module):
    """BN-ReLU-[conv1x1(4k)-dropout-BN-ReLU]-conv3x3(k)-dropout; its k channels come after those of its input."""

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
        y = self._dropped(self.conv1(F.relu(self.norm1(x))))
        if self.bottleneck:
            y = self._dropped(self.conv2(F.relu(self.norm2(y))))
        return torch.cat((x, y), dim=1)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x


class Transition(nn.Module):
    """BN-ReLU-conv1x1-dropout and 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int, *, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.relu(self.norm(x)))
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return F.avg_pool2d(x, 2)


class _DenseNet(ImageClassifier):
    """A stem, dense blocks with transitions between them, BN-ReLU; the two public classes say which and how many."""

    stem_name = "features.conv0"
    classifier_name = "classifier"

    def __init__(
        self,
        *,
        layers: tuple[int, ...],
        growth_rate: int,
        bottleneck: bool,
        compression: float,
        stem: dict[str, nn.Module],
        channels: int,
        reduction: int,
        num_classes: int,
        drop_rate: float,
    ) -> None:
        blocks: dict[str, nn.Module] = dict(stem)
        rate, features = checked_rate(drop_rate), []
        for index, count in enumerate(layers, start=1):
            units: dict[str, nn.Module] = {}
            for k in range(1, count + 1):
                units[f"denselayer{k}"] = DenseLayer(channels, growth_rate, bottleneck=bottleneck, drop_rate=rate)
                channels += growth_rate
            name = f"denseblock{index}"
            blocks[name] = Stage(OrderedDict(units))
            features.append({"num_chs": channels, "reduction": reduction, "module": f"features.{name}"})
            if index < len(layers):
                narrowed = int(channels * compression)
                blocks[f"transition{index}"] = Transition(channels, narrowed, drop_rate=rate)
                channels, reduction = narrowed, reduction * 2
        super().__init__(num_classes=num_classes, num_features=channels)
        self.feature_info = features
        self.features = nn.Sequential(OrderedDict({**blocks, "norm5": nn.BatchNorm2d(channels)}))
        self._complete("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        return F.relu(self.features(x))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        block = r"^features\.(?:denseblock|transition)(\d+)"
        fine = [
            (r"^features\.denseblock(\d+)\.denselayer(\d+)", None),
            (r"^features\.transition(\d+)", (99999,)),
            (r"^features\.norm5", (99999,)),
        ]
        return {"stem": r"^features\.conv0|^features\.norm0", "blocks": block if coarse else fine}


class CifarDenseNet(_DenseNet):
    """DenseNet on 32x32 images: conv3x3, three blocks of (depth - 4) / 3 layers, half as many with `bottleneck`.

    The published plain networks have 16 stem channels and no `compression`, the BC ones 2k and 0.5. `drop_rate` is the
    dropout after every convolution but the first (the authors use 0.2 without augmentation). Raises ValueError for
    another depth. Facts from liuzhuang13/DenseNet.
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
        step = 6 if bottleneck else 3
        count, rest = divmod(depth - 4, step)
        if rest or count < 1:
            raise ValueError(f"A CIFAR DenseNet has no depth {depth}: it must be {step}n+4 with n >= 1")
        super().__init__(
            layers=(count, count, count),
            growth_rate=growth_rate,
            bottleneck=bottleneck,
            compression=compression,
            stem={"conv0": conv3x3(in_chans, stem_channels)},
            channels=stem_channels,
            reduction=1,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )


class ImageDenseNet(_DenseNet):
    """DenseNet-BC on 224x224 images: conv7x7(2k)-BN-ReLU, 3x3 max pooling, four blocks.

    `drop_rate` as above. Raises ValueError for a depth other than 121, 161, 169, 201.
    """

    def __init__(
        self, *, depth: int, growth_rate: int, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        if depth not in _IMAGENET_LAYERS:
            raise ValueError(f"An ImageNet DenseNet has no depth {depth}: one of {sorted(_IMAGENET_LAYERS)}")
        channels = 2 * growth_rate
        stem: dict[str, nn.Module] = {
            "conv0": conv7x7(in_chans, channels),
            "norm0": nn.BatchNorm2d(channels),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, stride=2, padding=1),
        }
        super().__init__(
            layers=_IMAGENET_LAYERS[depth],
            growth_rate=growth_rate,
            bottleneck=True,
            compression=0.5,
            stem=stem,
            channels=channels,
            reduction=4,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )
