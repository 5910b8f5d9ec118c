"""Pre-activation blocks (He et al. 2016), in which BN and ReLU stand in front of a convolution.

PreResNet, wide ResNet and SE-PreResNet are made of them.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import SqueezeExcitation, apply_relu_and_maxpool, apply_shortcut_a, conv1x1, conv3x3
from pyramidzoo.models._interface import ImageClassifier, check_choice


class PreActBlock(nn.Module):
    """The basic block: BN-ReLU-conv3x3-BN-ReLU-[dropout]-conv3x3-[BN]-[SE], plus the shortcut.

    Maps (N, in_channels, H, W) become (N, out_channels, H / stride, W / stride).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        shared: Whether the shortcut reads the output of the first BN-ReLU, as the convolution does.
            Otherwise the shortcut reads the input of the block.
        projection: Whether the shortcut is a strided conv1x1 if the number of channels changes. Otherwise
            the shortcut takes every `stride`-th pixel and adds zero channels behind the others.
        drop_rate: Probability of dropout in front of the second convolution.
        first_relu: Whether a ReLU follows the first BN. With `shared` there always is one. Some networks
            of hysts' ablation study have none.
        last_bn: Whether a BN follows the second convolution, as in hysts' ablation study.
        se: Whether squeeze-and-excitation (SE) scales the channels before the shortcut is added.
    """

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
        super().__init__()
        self.shared = shared
        self.stride = stride
        self.first_relu = first_relu or shared
        self.drop_rate = drop_rate
        self.pad_after = out_channels - in_channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.last_bn = nn.BatchNorm2d(out_channels) if last_bn else None
        self.se = SqueezeExcitation(out_channels) if se else None
        has_projection = projection and in_channels != out_channels
        self.downsample = conv1x1(in_channels, out_channels, stride) if has_projection else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (N, in_channels, H, W)."""
        y = self.bn1(x)
        if self.first_relu:
            y = F.relu(y)
        shortcut_input = y if self.shared else x
        y = F.relu(self.bn2(self.conv1(y)))
        if self.drop_rate:
            y = F.dropout(y, self.drop_rate, self.training)
        y = self.conv2(y)
        if self.last_bn is not None:
            y = self.last_bn(y)
        if self.se is not None:
            y = self.se(y)
        if self.downsample is not None:
            return y + self.downsample(shortcut_input)
        # If the block does not change the shape, this shortcut is its input itself.
        return y + apply_shortcut_a(shortcut_input, self.stride, before=0, after=self.pad_after)


class PreActBottleneck(nn.Module):
    """The bottleneck: BN-ReLU-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-[SE], plus the shortcut.

    Maps (N, in_channels, H, W) become (N, out_channels, H / stride, W / stride). Between the 1x1
    convolutions there are a quarter of the output's channels. The shortcut is a strided conv1x1 if the
    number of channels changes, else the input itself.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the block.
        shared: Whether the shortcut reads the output of the first BN-ReLU, as the convolution does.
            Otherwise the shortcut reads the input of the block.
        stride_in: Which convolution is strided: the first "1x1" (He et al.'s code) or the "3x3"
            (fb.resnet.torch and the code that follows it).
        first_bn: Whether the block begins with BN. Otherwise it begins with the ReLU.
        se: Whether squeeze-and-excitation (SE) scales the channels before the shortcut is added.

    Raises:
        ValueError: `stride_in` is neither "1x1" nor "3x3".
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
        super().__init__()
        check_choice("stride_in", stride_in, "1x1", "3x3")
        self.shared = shared
        self.stride = stride
        self.pad_after = out_channels - in_channels
        inner_channels = out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels) if first_bn else nn.Identity()
        self.conv1 = conv1x1(in_channels, inner_channels, stride if stride_in == "1x1" else 1)
        self.bn2 = nn.BatchNorm2d(inner_channels)
        self.conv2 = conv3x3(inner_channels, inner_channels, stride if stride_in == "3x3" else 1)
        self.bn3 = nn.BatchNorm2d(inner_channels)
        self.conv3 = conv1x1(inner_channels, out_channels)
        self.se = SqueezeExcitation(out_channels) if se else None
        self.downsample = conv1x1(in_channels, out_channels, stride) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (N, in_channels, H, W)."""
        y = F.relu(self.bn1(x))
        shortcut_input = y if self.shared else x
        y = F.relu(self.bn2(self.conv1(y)))
        y = F.relu(self.bn3(self.conv2(y)))
        y = self.conv3(y)
        if self.se is not None:
            y = self.se(y)
        if self.downsample is not None:
            return y + self.downsample(shortcut_input)
        # If the block does not change the shape, this shortcut is its input itself.
        return y + apply_shortcut_a(shortcut_input, self.stride, before=0, after=self.pad_after)


class PreActNet(ImageClassifier):
    """A network for small images: one convolution, the stages, BN-ReLU."""

    conv1: nn.Conv2d
    norm: nn.Module

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        x = self._run_stages(self.conv1(x))
        return F.relu(self.norm(x))


class ImagePreActNet(PreActNet):
    """A network for large images: conv-BN-ReLU and max pooling, the stages, BN-ReLU."""

    bn1: nn.BatchNorm2d

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        x = apply_relu_and_maxpool(self.bn1(self.conv1(x)))
        return F.relu(self.norm(self._run_stages(x)))
