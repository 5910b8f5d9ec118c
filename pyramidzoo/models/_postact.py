"""Post-activation units and trunk (He et al. 2015): what ResNets, ResNeXts, SE-ResNets and wide_resnet50_2 share.

Parameter names are torchvision's.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import SqueezeExcitation, conv1x1, conv3x3, relu_maxpool, shortcut_a
from pyramidzoo.models._interface import ImageClassifier, checked_choice


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN-[SE] plus shortcut, then ReLU.

    Shortcut "A": every second pixel, zero channels half before and half after. "B": strided conv1x1 and BN. `channels`
    are those between the two convolutions, `strides` theirs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int | None = None,
        strides: tuple[int, int] = (1, 1),
        shortcut: Literal["A", "B"] = "B",
        se: bool = False,
    ) -> None:
        super().__init__()
        inner = out_channels if channels is None else channels
        self.stride = strides[0] * strides[1]
        self.pad_before = (out_channels - in_channels) // 2
        self.pad_after = out_channels - in_channels - self.pad_before
        self.conv1 = conv3x3(in_channels, inner, strides[0])
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, out_channels, strides[1])
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if se else None
        needed = shortcut == "B" and (in_channels != out_channels or self.stride > 1)
        self.downsample = _projection(in_channels, out_channels, self.stride) if needed else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        if self.downsample is not None:
            return F.relu(y + self.downsample(x))
        return F.relu(y + shortcut_a(x, self.stride, self.pad_before, self.pad_after))


class Bottleneck(nn.Module):
    """conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN-[SE] plus shortcut, then ReLU.

    `inner` channels in `groups` groups between the 1x1 convolutions; `stride_in` says which convolution is strided: the
    first 1x1 in He et al., the 3x3 in fb.resnet.torch and torchvision. The shortcut is conv and BN where the shape
    changes. SENet-154's units begin with half the inner channels (`first`) and have a 3x3 shortcut (`shortcut_kernel`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        inner: int,
        stride: int = 1,
        groups: int = 1,
        stride_in: Literal["1x1", "3x3"] = "3x3",
        se: bool = False,
        first: int | None = None,
        shortcut_kernel: Literal[1, 3] = 1,
    ) -> None:
        super().__init__()
        checked_choice("stride_in", stride_in, "1x1", "3x3")
        strides = (stride, 1) if stride_in == "1x1" else (1, stride)
        first = inner if first is None else first
        self.conv1 = conv1x1(in_channels, first, strides[0])
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, inner, 3, stride=strides[1], padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if se else None
        needed = in_channels != out_channels or stride > 1
        self.downsample = _projection(in_channels, out_channels, stride, shortcut_kernel) if needed else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _projection(in_channels: int, out_channels: int, stride: int, kernel: int = 1) -> nn.Sequential:
    convolution = conv1x1 if kernel == 1 else conv3x3
    return nn.Sequential(convolution(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class PostActNet(ImageClassifier):
    """The trunk: conv-BN-ReLU and stages."""

    conv1: nn.Module
    bn1: nn.Module

    def _stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        return self._stages(self._stem(x))


class ImagePostActNet(PostActNet):
    """The same for large images: the stem ends with max pooling."""

    def _stem(self, x: Tensor) -> Tensor:
        return relu_maxpool(self.bn1(self.conv1(x)))
