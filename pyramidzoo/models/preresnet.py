"""Pre-activation residual networks (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv3x3, conv7x7
from pyramidzoo.models._interface import checked_choice
from pyramidzoo.models._preact import ImagePreActNet, PreActBlock, PreActBottleneck, PreActNet


class CifarPreResNet(PreActNet):
    """PreResNet of basic units, depth 6n+2, on 32x32 images: conv3x3(16 * width), three stages, BN-ReLU.

    Stages have 16, 32, 64 channels times `width`. `shared_stages` says in which of them the first unit's BN-ReLU feeds
    its shortcut as well: all in He et al., fb.resnet.torch and hysts' default; only the first in most of hysts'
    ablation networks; all but the first in pytorchcv. `shortcut` "A" adds zero channels after the existing ones where
    "B" has a bare conv1x1. `first_relu` False and `last_bn` are hysts' ablations of the unit. Raises ValueError for
    other depths.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int = 1,
        shortcut: Literal["A", "B"] = "B",
        shared_stages: tuple[bool, bool, bool] = (True, True, True),
        first_relu: bool = True,
        last_bn: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=64 * width, drop_rate=drop_rate)
        checked_choice("shortcut", shortcut, "A", "B")
        n = _blocks.units_per_stage("A CIFAR PreResNet", depth, 2)
        self.conv1 = conv3x3(in_chans, 16 * width)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            return PreActBlock(
                channels,
                out,
                stride=stride,
                shared=k == 0 and shared_stages[stage],
                projection=shortcut == "B",
                first_relu=first_relu,
                last_bn=last_bn,
            )

        self._add_stages((n, n, n), [w * width for w in (16, 32, 64)], unit, channels=16 * width, reduction=1)
        self.norm = nn.BatchNorm2d(64 * width)
        self._complete("fan_out")


class CifarBottleneckPreResNet(PreActNet):
    """PreResNet of bottlenecks, depth 9n+2, on 32x32 images: conv3x3(16), stages at 64, 128, 256 channels, BN-ReLU.

    `stride_in` says which convolution is strided: the first 1x1 (He et al.) or the 3x3 (fb.resnet.torch, pytorchcv).
    `first_width` is 16 in hysts' networks, whose first stage stays as narrow as the stem; `shared_stages` are none in
    bearpaw's. Raises ValueError for other depths.
    """

    def __init__(
        self,
        *,
        depth: int,
        stride_in: Literal["1x1", "3x3"] = "1x1",
        first_width: int = 64,
        shared_stages: tuple[bool, bool, bool] = (True, True, True),
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=256, drop_rate=drop_rate)
        n = _blocks.units_per_stage("A CIFAR PreResNet of bottlenecks", depth, 3)
        self.conv1 = conv3x3(in_chans, 16)
        self._add_stages(
            (n, n, n),
            (first_width, 128, 256),
            lambda channels, out, stride, stage, k: PreActBottleneck(
                channels, out, stride=stride, shared=k == 0 and shared_stages[stage], stride_in=stride_in
            ),
            channels=16,
            reduction=1,
        )
        self.norm = nn.BatchNorm2d(256)
        self._complete("fan_out")


class ImagePreResNet(ImagePreActNet):
    """PreResNet on 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, stages at 64, 128, 256, 512 channels, BN-ReLU.

    Basic units or, at four times as many channels, `bottleneck` ones. `first_bn`: whether the very first unit has a
    BN-ReLU of its own (pytorchcv) although its input is activated (fb.resnet.torch has none). The first identity of
    basic units is the raw input; `width` scales all channels but the last unit's. Raises ValueError for an unknown
    depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        stride_in: Literal["1x1", "3x3"] = "3x3",
        first_bn: bool = True,
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        counts = _blocks.imagenet_blocks("An ImageNet PreResNet", depth, bottleneck)
        widths = [int(w * width) * (4 if bottleneck else 1) for w in (64, 128, 256, 512)]
        features = 2048 if bottleneck else 512
        super().__init__(num_classes=num_classes, num_features=features, drop_rate=drop_rate)
        stem = int(64 * width)
        self.conv1 = conv7x7(in_chans, stem)
        self.bn1 = nn.BatchNorm2d(stem)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            shared = channels != out
            if not bottleneck:
                return PreActBlock(channels, out, stride=stride, shared=shared)
            own = first_bn or stage > 0 or k > 0
            return PreActBottleneck(channels, out, stride=stride, shared=shared, stride_in=stride_in, first_bn=own)

        self._add_stages(counts, widths, unit, channels=stem, reduction=4)
        self.norm = nn.BatchNorm2d(features)
        self._complete("fan_out")
