"""Pre-activation units and trunk (He et al. 2016): what PreResNets, wide ResNets and SE-PreResNets share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import SqueezeExcitation, conv1x1, conv3x3, relu_maxpool, shortcut_a
from pyramidzoo.models._interface import ImageClassifier, checked_choice


class _Unit(nn.Module):
    """What both units do around their convolutions.

    `shared`: the first BN-ReLU feeds the shortcut too. Where channels change the shortcut is a bare strided conv1x1
    (`projection`), or every second pixel followed by zero channels. `first_relu` False drops the ReLU after the first
    BN, except where it is shared; `last_bn` ends the branch with a BN (both as in hysts' ablation); `first_bn` False is
    for an input that is activated already; `se` scales the branch's channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        shared: bool,
        first_bn: bool,
        first_relu: bool,
    ) -> None:
        super().__init__()
        self.shared = shared
        self.stride = stride
        self.first_relu = first_relu or shared
        self.bn1 = nn.BatchNorm2d(in_channels) if first_bn else nn.Identity()

    def _end(self, in_channels: int, out_channels: int, *, projection: bool, last_bn: bool, se: bool) -> None:
        self.last_bn = nn.BatchNorm2d(out_channels) if last_bn else None
        self.se = SqueezeExcitation(out_channels) if se else None
        self.pad_after = out_channels - in_channels
        needed = projection and in_channels != out_channels
        self.downsample = conv1x1(in_channels, out_channels, self.stride) if needed else None

    def residual(self, x: Tensor) -> Tensor:
        """From after the first BN-ReLU to the end of the last convolution."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x)
        if self.first_relu:
            y = F.relu(y)
        shortcut = y if self.shared else x
        y = self.residual(y)
        if self.last_bn is not None:
            y = self.last_bn(y)
        if self.se is not None:
            y = self.se(y)
        if self.downsample is not None:
            return y + self.downsample(shortcut)
        return y + shortcut_a(shortcut, self.stride, before=0, after=self.pad_after)


class PreActBlock(_Unit):
    """BN-ReLU-conv3x3-BN-ReLU-[dropout]-conv3x3 plus a shortcut, nothing after the sum."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        shared: bool = False,
        projection: bool = True,
        drop_rate: float = 0.0,
        first_relu: bool = True,
        last_bn: bool = False,
        se: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, shared=shared, first_bn=True, first_relu=first_relu)
        self.drop_rate = drop_rate
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self._end(in_channels, out_channels, projection=projection, last_bn=last_bn, se=se)

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv1(x)))
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return self.conv2(x)


class PreActBottleneck(_Unit):
    """BN-ReLU-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1 plus a shortcut, nothing after the sum.

    The inner width is a quarter of the output. `stride_in` says which convolution is strided: the first 1x1 in He et
    al.'s code, the 3x3 in fb.resnet.torch and what follows it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        shared: bool = False,
        stride_in: Literal["1x1", "3x3"] = "1x1",
        first_bn: bool = True,
        se: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, shared=shared, first_bn=first_bn, first_relu=True)
        checked_choice("stride_in", stride_in, "1x1", "3x3")
        inner = out_channels // 4
        self.conv1 = conv1x1(in_channels, inner, stride if stride_in == "1x1" else 1)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride if stride_in == "3x3" else 1)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self._end(in_channels, out_channels, projection=True, last_bn=False, se=se)

    def residual(self, x: Tensor) -> Tensor:
        x = self.conv2(F.relu(self.bn2(self.conv1(x))))
        return self.conv3(F.relu(self.bn3(x)))


class PreActNet(ImageClassifier):
    """The trunk: a convolution, stages, BN-ReLU."""

    conv1: nn.Conv2d
    norm: nn.Module

    def _stem(self, x: Tensor) -> Tensor:
        return self.conv1(x)

    def forward_features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self._stages(self._stem(x))))


class ImagePreActNet(PreActNet):
    """The same for large images: the stem is conv-BN-ReLU and max pooling."""

    bn1: nn.BatchNorm2d

    def _stem(self, x: Tensor) -> Tensor:
        return relu_maxpool(self.bn1(self.conv1(x)))
