"""Pre-activation residual networks (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import PreActUnit, conv1x1, conv3x3
from pyramidzoo.models._contract import ImageClassifier


class PreActBottleneck(nn.Module):
    """BN-ReLU-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1 plus a shortcut, nothing after the sum.

    The inner width is a quarter of the output; the stride sits in the first 1x1, as in He et al.'s code.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, shared: bool = False) -> None:
        super().__init__()
        self.shared = shared
        inner = out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.downsample = conv1x1(in_channels, out_channels, stride) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = y if self.shared else x
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        y = self.conv3(F.relu(self.bn3(y)))
        return y + (shortcut if self.downsample is None else self.downsample(shortcut))


class CifarPreResNet(ImageClassifier):
    """PreResNet on 32x32 images: conv3x3(16 * width), three stages, BN-ReLU.

    Basic units (depth 6n+2) at 16, 32, 64 channels times `width`; `bottleneck` units (9n+2) at 64, 128, 256.
    `shared_stages` says in which stages the first unit's BN-ReLU feeds its shortcut as well: all in He et al., Torch7's
    fb.resnet.torch and hysts' default; only the first in most of hysts' ablation networks. `shortcut` "A" (basic units
    only) adds zero channels after the existing ones where "B" has a bare conv1x1. Raises ValueError for other depths.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        width: int = 1,
        shortcut: Literal["A", "B"] = "B",
        shared_stages: tuple[bool, bool, bool] = (True, True, True),
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        widths = [w * width * (4 if bottleneck else 1) for w in (16, 32, 64)]
        super().__init__(num_classes=num_classes, num_features=widths[-1], drop_rate=drop_rate)
        n = _blocks.units_per_stage("A CIFAR PreResNet", depth, 3 if bottleneck else 2)
        channels = 16 * width
        self.conv1 = conv3x3(in_chans, channels)
        for stage, out in enumerate(widths):
            units: list[nn.Module] = []
            for k in range(n):
                stride = 2 if stage > 0 and k == 0 else 1
                shared = k == 0 and shared_stages[stage]
                if bottleneck:
                    units.append(PreActBottleneck(channels, out, stride=stride, shared=shared))
                else:
                    units.append(PreActUnit(channels, out, stride=stride, shared=shared, projection=shortcut == "B"))
                channels = out
            self._add_stage(units, channels=out, reduction=2**stage)
        self.norm = nn.BatchNorm2d(channels)
        self._complete("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self._stages(self.conv1(x))))
