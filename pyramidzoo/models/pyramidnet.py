"""Pyramidal residual networks (Han, Kim & Kim 2017, "Deep Pyramidal Residual Networks").

Every unit is a little wider than the one before. Facts from jhkim89/PyramidNet (Torch7) and PyramidNet-caffe.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv1x1, conv3x3, conv7x7, pad_channels
from pyramidzoo.models._interface import ImageClassifier


def block_widths(base: int, alpha: float, units: int, *, multiplicative: bool = False) -> list[int]:
    """Channels of every unit: from `base`, alpha is added (or multiplied) in equal steps over all units.

    One double accumulates and only its reading is rounded, half up, as in the authors' Lua: rounding the accumulator,
    or computing k * alpha / units, gives other networks (56 layers of bottlenecks, alpha 31, unit 9: 31, not 32).
    """
    widths, x = [], float(base)
    for _ in range(units):
        x = x * alpha ** (1 / units) if multiplicative else x + alpha / units
        widths.append(math.floor(x + 0.5))
    return widths


class _Unit(nn.Module):
    """What both units end with: the sum with the average-pooled raw input, which zero channels make as wide."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad_after = out_channels - in_channels

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual(x)
        # ceil_mode matters on odd maps alone, where the strided convolution rounds up as well
        shortcut = F.avg_pool2d(x, 2, ceil_mode=True) if self.stride == 2 else x
        return y + pad_channels(shortcut, before=0, after=self.pad_after)


class BasicBlock(_Unit):
    """BN-conv3x3-BN-ReLU-conv3x3-BN plus shortcut; no ReLU before the first convolution, none after the sum."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn3 = nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        x = self.conv1(self.bn1(x))
        x = self.conv2(F.relu(self.bn2(x)))
        return self.bn3(x)


class Bottleneck(_Unit):
    """BN-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1(4 * width)-BN plus shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__(in_channels, width * self.expansion, stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.bn4 = nn.BatchNorm2d(width * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        x = self.conv1(self.bn1(x))
        x = self.conv2(F.relu(self.bn2(x)))
        x = self.conv3(F.relu(self.bn3(x)))
        return self.bn4(x)


class _PyramidNet(ImageClassifier):
    """Stem, stages of ever wider units, BN-ReLU; the two public classes say which stem and how many units."""

    def __init__(
        self,
        *,
        units: tuple[int, ...],
        widths: list[int],
        unit: type[BasicBlock] | type[Bottleneck],
        stem: nn.Conv2d,
        first_reduction: int,
        num_classes: int,
        drop_rate: float,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=widths[-1] * unit.expansion, drop_rate=drop_rate)
        self.block_widths = tuple(widths)
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        channels, remaining = stem.out_channels, iter(widths)
        for stage, count in enumerate(units):
            members: list[nn.Module] = []
            for k in range(count):
                width = next(remaining)
                members.append(unit(channels, width, 2 if stage > 0 and k == 0 else 1))
                channels = width * unit.expansion
            self._add_stage(members, channels=channels, reduction=first_reduction * 2**stage)
        self.norm = nn.BatchNorm2d(channels)
        self._complete("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self._stages(self._stem(x))))

    def _stem(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x))


class CifarPyramidNet(_PyramidNet):
    """PyramidNet on 32x32 images: conv3x3(16)-BN without ReLU, three stages; `block_widths` lists all widths.

    Basic units (depth 6n+2) or `bottleneck` ones (9n+2); depth alone cannot tell them apart (164 is both). alpha is
    the total over the network, added or, with `multiplicative`, multiplied. `stem_channels` is 64 in one early
    reimplementation only. Raises ValueError for other depths.
    """

    def __init__(
        self,
        *,
        depth: int,
        alpha: float,
        bottleneck: bool = False,
        multiplicative: bool = False,
        stem_channels: int = 16,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        n = _blocks.units_per_stage("A CIFAR PyramidNet", depth, 3 if bottleneck else 2)
        super().__init__(
            units=(n, n, n),
            widths=block_widths(16, alpha, 3 * n, multiplicative=multiplicative),
            unit=Bottleneck if bottleneck else BasicBlock,
            stem=conv3x3(in_chans, stem_channels),
            first_reduction=1,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )


class ImagePyramidNet(_PyramidNet):
    """PyramidNet on 224x224 images: conv7x7(64)-BN-ReLU, 3x3 max pooling, four stages of bottlenecks, additive.

    `drop_rate` is the dropout in front of the classifier (0.5 in the authors' alpha = 450 network). Raises ValueError
    for an unknown depth.
    """

    def __init__(
        self, *, depth: int, alpha: float, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        units = _blocks.imagenet_blocks("An ImageNet PyramidNet", depth, bottleneck=True)
        super().__init__(
            units=units,
            widths=block_widths(64, alpha, sum(units)),
            unit=Bottleneck,
            stem=conv7x7(in_chans, 64),
            first_reduction=4,
            num_classes=num_classes,
            drop_rate=drop_rate,
        )

    def _stem(self, x: Tensor) -> Tensor:
        return _blocks.relu_maxpool(self.bn1(self.conv1(x)))
