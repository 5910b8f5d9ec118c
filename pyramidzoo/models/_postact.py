"""Post-activation blocks (He et al. 2015), in which BN and ReLU follow a convolution.

ResNet, ResNeXt, SE-ResNet and wide_resnet50_2 are made of them. The parameters have torchvision's names.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import SqueezeExcitation, apply_relu_and_maxpool, apply_shortcut_a, conv1x1, conv3x3
from pyramidzoo.models._interface import ImageClassifier, check_choice


class BasicBlock(nn.Module):
    """The basic block: conv3x3-BN-ReLU-conv3x3-BN-[SE], plus the shortcut, then ReLU.

    Maps (N, in_channels, H, W) become (N, out_channels, H / stride, W / stride), where stride is the
    product of `strides`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        inner_channels: Channels between the two convolutions; None means `out_channels`.
        strides: Strides of the two convolutions.
        shortcut: "A" takes every `stride`-th pixel and adds zero channels, half of them in front of the
            channels of the input and half behind. "B" is a strided conv1x1 and BN if the block changes
            the shape of the map.
        se: Whether squeeze-and-excitation (SE) scales the channels before the shortcut is added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        inner_channels: int | None = None,
        strides: tuple[int, int] = (1, 1),
        shortcut: Literal["A", "B"] = "B",
        se: bool = False,
    ) -> None:
        super().__init__()
        inner_channels = out_channels if inner_channels is None else inner_channels
        self.stride = strides[0] * strides[1]
        self.pad_before = (out_channels - in_channels) // 2
        self.pad_after = out_channels - in_channels - self.pad_before
        self.conv1 = conv3x3(in_channels, inner_channels, strides[0])
        self.bn1 = nn.BatchNorm2d(inner_channels)
        self.conv2 = conv3x3(inner_channels, out_channels, strides[1])
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if se else None
        changes_shape = in_channels != out_channels or self.stride > 1
        has_projection = shortcut == "B" and changes_shape
        self.downsample = _make_projection(in_channels, out_channels, self.stride) if has_projection else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (N, in_channels, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        if self.downsample is not None:
            return F.relu(y + self.downsample(x))
        # If the block does not change the shape, this shortcut is `x` itself.
        return F.relu(y + apply_shortcut_a(x, self.stride, self.pad_before, self.pad_after))


class Bottleneck(nn.Module):
    """The bottleneck: conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN-[SE], plus the shortcut, then ReLU.

    Maps (N, in_channels, H, W) become (N, out_channels, H / stride, W / stride). The shortcut is a
    strided convolution and BN if the block changes the shape of the map, else the input itself.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        inner_channels: Output channels of the 3x3 convolution.
        stride: Stride of the block.
        groups: Groups of the 3x3 convolution.
        stride_in: Which convolution is strided: the first "1x1" (He et al.) or the "3x3"
            (fb.resnet.torch and torchvision).
        se: Whether squeeze-and-excitation (SE) scales the channels before the shortcut is added.
        first_channels: Output channels of the first 1x1 convolution; None means `inner_channels`. In
            SENet-154 they are half of `inner_channels`.
        shortcut_kernel: Kernel size of the shortcut's convolution: 3 in SENet-154, 1 in all others.

    Raises:
        ValueError: `stride_in` is neither "1x1" nor "3x3".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        inner_channels: int,
        stride: int = 1,
        groups: int = 1,
        stride_in: Literal["1x1", "3x3"] = "3x3",
        se: bool = False,
        first_channels: int | None = None,
        shortcut_kernel: Literal[1, 3] = 1,
    ) -> None:
        super().__init__()
        check_choice("stride_in", stride_in, "1x1", "3x3")
        first_channels = inner_channels if first_channels is None else first_channels
        self.conv1 = conv1x1(in_channels, first_channels, stride if stride_in == "1x1" else 1)
        self.bn1 = nn.BatchNorm2d(first_channels)
        self.conv2 = conv3x3(first_channels, inner_channels, stride if stride_in == "3x3" else 1, groups)
        self.bn2 = nn.BatchNorm2d(inner_channels)
        self.conv3 = conv1x1(inner_channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.se = SqueezeExcitation(out_channels) if se else None
        changes_shape = in_channels != out_channels or stride > 1
        self.downsample = (
            _make_projection(in_channels, out_channels, stride, shortcut_kernel) if changes_shape else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (N, in_channels, H, W)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _make_projection(in_channels: int, out_channels: int, stride: int, kernel_size: int = 1) -> nn.Sequential:
    """Make the shortcut with parameters, option B of He et al. 2015: a convolution and BN."""
    make_convolution = conv1x1 if kernel_size == 1 else conv3x3
    return nn.Sequential(make_convolution(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class PostActNet(ImageClassifier):
    """A network for small images: conv-BN-ReLU, then the stages."""

    conv1: nn.Module
    bn1: nn.Module

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self._run_stages(x)


class ImagePostActNet(PostActNet):
    """A network for large images: conv-BN-ReLU and max pooling, then the stages."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        x = apply_relu_and_maxpool(self.bn1(self.conv1(x)))
        return self._run_stages(x)
