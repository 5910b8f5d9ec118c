"""Wide residual networks (Zagoruyko & Komodakis 2016, "Wide Residual Networks")."""

from __future__ import annotations

from torch import nn

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv3x3, conv7x7
from pyramidzoo.models._interface import checked_rate
from pyramidzoo.models._postact import Bottleneck, ImagePostActNet
from pyramidzoo.models._preact import PreActBlock, PreActNet


class WideResNet(PreActNet):
    """WRN-depth-width: conv3x3(16), three stages of n pre-activation units at 16, 32, 64 times `width`, BN-ReLU.

    Depth is 6n+4. `drop_rate` is the dropout between a unit's two convolutions, after the second BN-ReLU (the authors
    use 0.3 on CIFAR, 0.4 on SVHN). Where channels change, BN-ReLU feeds a bare conv1x1 shortcut too; elsewhere the raw
    input passes. Raises ValueError for other depths.
    """

    def __init__(
        self, *, depth: int, width: int, drop_rate: float = 0.0, num_classes: int = 10, in_chans: int = 3
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=64 * width)
        n, rest = divmod(depth - 4, 6)
        if rest or n < 1:
            raise ValueError(f"A wide ResNet has no depth {depth}: it must be 6n+4 with n >= 1")
        rate = checked_rate(drop_rate)
        self.conv1 = conv3x3(in_chans, 16)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            return PreActBlock(channels, out, stride=stride, shared=channels != out, drop_rate=rate)

        self._add_stages((n, n, n), [w * width for w in (16, 32, 64)], unit, channels=16, reduction=1)
        self.norm = nn.BatchNorm2d(64 * width)
        self._complete("fan_in")
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Torch7's BN scale starts at U(0, 1), and the authors' PyTorch code writes it out
                nn.init.uniform_(module.weight)


class ImageWideResNet(ImagePostActNet):
    """An ImageNet ResNet of bottlenecks with inner widths times `width`, outer ones unchanged, strided in the 3x3.

    Parameter names are torchvision's, which loads the same files. Raises ValueError for an unknown depth.
    """

    def __init__(
        self, *, depth: int, width: int, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=2048, drop_rate=drop_rate)
        counts = _blocks.imagenet_blocks("An ImageNet wide ResNet", depth, bottleneck=True)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self._add_stages(
            counts,
            (256, 512, 1024, 2048),
            lambda channels, out, stride, *_: Bottleneck(channels, out, inner=out // 4 * width, stride=stride),
            channels=64,
            reduction=4,
        )
        self._complete("fan_in")
