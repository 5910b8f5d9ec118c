"""Aggregated residual networks (Xie et al. 2017, "Aggregated Residual Transformations for Deep Neural Networks").

Post-activation, as facebookresearch/ResNeXt builds them (the paper's CIFAR networks were pre-activated). Parameter
names are torchvision's, whose ImageNet networks load the same files.
"""

from __future__ import annotations

from torch import nn

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv3x3, conv7x7
from pyramidzoo.models._interface import BlockFactory
from pyramidzoo.models._postact import Bottleneck, ImagePostActNet, PostActNet


def _grouped(cardinality: int, base_width: int) -> BlockFactory:
    """Bottlenecks whose 3x3 has `cardinality` groups."""

    def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
        inner = _blocks.grouped_width(out, cardinality, base_width)
        return Bottleneck(channels, out, inner=inner, stride=stride, groups=cardinality)

    return unit


class CifarResNeXt(PostActNet):
    """ResNeXt of depth 9n+2 on 32x32 images: conv3x3(64)-BN-ReLU, three stages at 256, 512, 1024 channels.

    Raises ValueError for another depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        cardinality: int,
        base_width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=1024, drop_rate=drop_rate)
        n = _blocks.units_per_stage("A CIFAR ResNeXt", depth, 3)
        self.conv1 = conv3x3(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        unit = _grouped(cardinality, base_width)
        self._add_stages((n, n, n), (256, 512, 1024), unit, channels=64, reduction=1)
        self._complete("fan_out")


class ImageResNeXt(ImagePostActNet):
    """ResNeXt on 224x224 images: conv7x7(64)-BN-ReLU, 3x3 max pooling, four stages at 256 to 2048 channels.

    Raises ValueError for an unknown depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        cardinality: int,
        base_width: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=2048, drop_rate=drop_rate)
        counts = _blocks.imagenet_blocks("An ImageNet ResNeXt", depth, bottleneck=True)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        unit = _grouped(cardinality, base_width)
        self._add_stages(counts, (256, 512, 1024, 2048), unit, channels=64, reduction=4)
        self._complete("fan_out")
