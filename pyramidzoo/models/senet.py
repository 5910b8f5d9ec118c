"""Squeeze-and-excitation networks (Hu et al. 2018): each unit scales the channels of its branch before the sum.

Parameter names of the post-activation networks are timm's, whose ImageNet networks load the same files.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv3x3, conv7x7
from pyramidzoo.models._postact import BasicBlock, Bottleneck, ImagePostActNet, PostActNet
from pyramidzoo.models._preact import ImagePreActNet, PreActBlock, PreActBottleneck, PreActNet


def _basic(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
    return PreActBlock(channels, out, stride=stride, shared=channels != out, se=True)


def _bottleneck(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
    return PreActBottleneck(channels, out, stride=stride, shared=channels != out, stride_in="3x3", se=True)


class CifarSEResNet(PostActNet):
    """SE-ResNet on 32x32 images: conv3x3(16)-BN-ReLU, three stages, shortcuts of conv1x1 and BN.

    Basic units (depth 6n+2) at 16, 32, 64 channels, or `bottleneck` ones (9n+2) at 64, 128, 256, strided in the 3x3.
    Raises ValueError for other depths. Graph of pytorchcv.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        widths = [w * (4 if bottleneck else 1) for w in (16, 32, 64)]
        super().__init__(num_classes=num_classes, num_features=widths[-1], drop_rate=drop_rate)
        n = _blocks.units_per_stage("A CIFAR SE-ResNet", depth, 3 if bottleneck else 2)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            if bottleneck:
                return Bottleneck(channels, out, inner=out // 4, stride=stride, se=True)
            return BasicBlock(channels, out, strides=(stride, 1), se=True)

        self._add_stages((n, n, n), widths, unit, channels=16, reduction=1)
        self._complete("fan_out")


class CifarSEPreResNet(PreActNet):
    """SE-PreResNet on 32x32 images, as pytorchcv has it: the stem has a BN-ReLU, and nothing follows the last sum.

    Basic units (depth 6n+2, raw first identity) or `bottleneck` ones (9n+2, strided in the 3x3). Raises ValueError for
    other depths.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        widths = [w * (4 if bottleneck else 1) for w in (16, 32, 64)]
        super().__init__(num_classes=num_classes, num_features=widths[-1], drop_rate=drop_rate)
        n = _blocks.units_per_stage("A CIFAR SE-PreResNet", depth, 3 if bottleneck else 2)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)

        unit = _bottleneck if bottleneck else _basic
        self._add_stages((n, n, n), widths, unit, channels=16, reduction=1)
        self._complete("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        return self._stages(F.relu(self.bn1(self.conv1(x))))


class ImageSEResNet(ImagePostActNet):
    """SE-ResNet or, with a `cardinality`, SE-ResNeXt on 224x224 images; stem and stages as in the plain networks.

    `stride_in` is "1x1" in the authors' Caffe release and "3x3" in timm. Raises ValueError for an unknown depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        stride_in: Literal["1x1", "3x3"] = "3x3",
        cardinality: int = 1,
        base_width: int = 64,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        counts = _blocks.imagenet_blocks("An ImageNet SE-ResNet", depth, bottleneck)
        widths = [w * (4 if bottleneck else 1) for w in (64, 128, 256, 512)]
        super().__init__(num_classes=num_classes, num_features=widths[-1], drop_rate=drop_rate)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            if not bottleneck:
                return BasicBlock(channels, out, strides=(stride, 1), se=True)
            inner = _blocks.grouped_width(out, cardinality, base_width)
            return Bottleneck(
                channels, out, inner=inner, stride=stride, groups=cardinality, stride_in=stride_in, se=True
            )

        self._add_stages(counts, widths, unit, channels=64, reduction=4)
        self._complete("fan_out")


class ImageSEPreResNet(ImagePreActNet):
    """SE-PreResNet on 224x224 images, as pytorchcv has it: PreResNet's stem, stages and last BN-ReLU.

    Basic units or `bottleneck` ones, strided in the 3x3. Raises ValueError for an unknown depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        counts = _blocks.imagenet_blocks("An ImageNet SE-PreResNet", depth, bottleneck)
        widths = [w * (4 if bottleneck else 1) for w in (64, 128, 256, 512)]
        super().__init__(num_classes=num_classes, num_features=widths[-1], drop_rate=drop_rate)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)

        unit = _bottleneck if bottleneck else _basic
        self._add_stages(counts, widths, unit, channels=64, reduction=4)
        self.norm = nn.BatchNorm2d(widths[-1])
        self._complete("fan_out")


class SENet(ImagePostActNet):
    """SENet-154 and its small siblings: three 3x3 convolutions as stem, 3x3 shortcuts from stage 2 on.

    Depth is 3n+4 for n units. A unit's first 1x1 has half the channels of its grouped 3x3. `drop_rate` is the dropout
    in front of the classifier (the authors use 0.2). Raises ValueError for an unknown depth.
    """

    stem_name = "conv1.0"

    def __init__(
        self,
        *,
        depth: int,
        cardinality: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=2048, drop_rate=drop_rate)
        counts = _blocks.imagenet_blocks("A SENet (two layers of stem left out)", depth - 2, bottleneck=True)
        self.conv1 = nn.Sequential(
            conv3x3(in_chans, 64, 2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            conv3x3(64, 64),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            conv3x3(64, 128),
        )
        self.bn1 = nn.BatchNorm2d(128)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            inner = _blocks.grouped_width(out, cardinality, 4)
            return Bottleneck(
                channels,
                out,
                inner=inner,
                stride=stride,
                groups=cardinality,
                se=True,
                first=inner // 2,
                shortcut_kernel=3 if stage > 0 else 1,
            )

        self._add_stages(counts, (256, 512, 1024, 2048), unit, channels=128, reduction=4)
        self._complete("fan_out")
