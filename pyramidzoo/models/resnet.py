"""Residual networks, post-activation (He et al. 2015, "Deep Residual Learning for Image Recognition").

Parameter names are torchvision's, whose ImageNet networks load the same files.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv3x3, conv7x7
from pyramidzoo.models._interface import checked_choice
from pyramidzoo.models._postact import BasicBlock, Bottleneck, ImagePostActNet, PostActNet


class CifarResNet(PostActNet):
    """ResNet of depth 6n+2 on 32x32 images: conv3x3-BN-ReLU, n units each at 16, 32 and 64 channels.

    `transition` "first": a stage's first convolution halves the map and widens (He et al.; akamaster's code, whose
    option A pads on both sides). "last": the second convolution of the stage's last unit does so for the next stage
    (fattorib/ResNets-CIFAR10). Raises ValueError for a depth that is not 6n+2.
    """

    def __init__(
        self,
        *,
        depth: int,
        shortcut: Literal["A", "B"] = "A",
        transition: Literal["first", "last"] = "first",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=64, drop_rate=drop_rate)
        checked_choice("shortcut", shortcut, "A", "B")
        checked_choice("transition", transition, "first", "last")
        n = _blocks.units_per_stage("A CIFAR ResNet", depth, 2)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)
        channels, reduction = 16, 1
        for width, next_width in ((16, 32), (32, 64), (64, 64)):
            units: list[nn.Module] = []
            for k in range(n):
                if transition == "first":
                    inner, out, strides = width, width, (width // channels, 1)
                else:
                    out = next_width if k == n - 1 else width
                    inner, strides = width, (1, out // width)
                units.append(BasicBlock(channels, out, channels=inner, strides=strides, shortcut=shortcut))
                channels, reduction = out, reduction * strides[0] * strides[1]
            self._add_stage(units, channels=channels, reduction=reduction)
        # fattorib starts from fan-in, He et al. and fb.resnet.torch from fan-out
        self._complete("fan_out" if transition == "first" else "fan_in")


class CifarBottleneckResNet(PostActNet):
    """ResNet of depth 9n+2 on 32x32 images: conv3x3-BN-ReLU, n bottlenecks each at 64, 128 and 256 channels.

    The stride is in the 3x3, shortcuts are conv1x1 and BN. Raises ValueError for another depth.
    """

    def __init__(self, *, depth: int, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__(num_classes=num_classes, num_features=256, drop_rate=drop_rate)
        n = _blocks.units_per_stage("A CIFAR ResNet of bottlenecks", depth, 3)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self._add_stages(
            (n, n, n),
            (64, 128, 256),
            lambda channels, out, stride, *_: Bottleneck(channels, out, inner=out // 4, stride=stride),
            channels=16,
            reduction=1,
        )
        self._complete("fan_out")


class ImageResNet(ImagePostActNet):
    """ResNet on 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four stages at 64, 128, 256, 512 channels.

    Basic units or, at four times as many channels, `bottleneck` ones, strided in the 3x3 or the first 1x1
    (`stride_in`). `width` scales the channels of stem and units, all but the last unit's (pytorchcv). Raises ValueError
    for an unknown depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        stride_in: Literal["1x1", "3x3"] = "3x3",
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        counts = _blocks.imagenet_blocks("An ImageNet ResNet", depth, bottleneck)
        widths = [int(w * width) * (4 if bottleneck else 1) for w in (64, 128, 256, 512)]
        features = 2048 if bottleneck else 512
        super().__init__(num_classes=num_classes, num_features=features, drop_rate=drop_rate)
        stem = int(64 * width)
        self.conv1 = conv7x7(in_chans, stem)
        self.bn1 = nn.BatchNorm2d(stem)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            if bottleneck:
                return Bottleneck(channels, out, inner=out // 4, stride=stride, stride_in=stride_in)
            return BasicBlock(channels, out, strides=(stride, 1))

        self._add_stages(counts, widths, unit, channels=stem, reduction=4)
        self._complete("fan_out")
