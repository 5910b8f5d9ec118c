"""Residual networks, post-activation (He et al. 2015, "Deep Residual Learning for Image Recognition").

Parameter names are torchvision's.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv1x1, conv3x3
from pyramidzoo.models._contract import ImageClassifier


class BasicUnit(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN plus shortcut, then ReLU.

    Shortcut "A": every second pixel, zero channels half before and half after. "B": strided conv1x1 and BN.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        *,
        strides: tuple[int, int] = (1, 1),
        shortcut: Literal["A", "B"] = "A",
    ) -> None:
        super().__init__()
        self.stride = strides[0] * strides[1]
        self.pad_before = (out_channels - in_channels) // 2
        self.conv1 = conv3x3(in_channels, channels, strides[0])
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, out_channels, strides[1])
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if shortcut == "B" and in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv1x1(in_channels, out_channels, self.stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.downsample is not None:
            return F.relu(y + self.downsample(x))
        return F.relu(_blocks.shortcut_into(y, x, self.stride, self.pad_before))


class CifarResNet(ImageClassifier):
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
                units.append(BasicUnit(channels, inner, out, strides=strides, shortcut=shortcut))
                channels, reduction = out, reduction * strides[0] * strides[1]
            self._add_stage(units, channels=channels, reduction=reduction)
        # fattorib starts from fan-in, He et al. and fb.resnet.torch from fan-out
        self._complete("fan_out" if transition == "first" else "fan_in")

    def forward_features(self, x: Tensor) -> Tensor:
        return self._stages(F.relu(self.bn1(self.conv1(x))))
