"""Pyramidal residual networks (Han, Kim & Kim 2017, "Deep Pyramidal Residual Networks").

Each block is a little wider than the block before it: it has more channels. The networks are built
as in the authors' code, jhkim89/PyramidNet (Torch7) and PyramidNet-caffe.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import (
    apply_relu_and_maxpool,
    conv1x1,
    conv3x3,
    conv7x7,
    count_cifar_blocks,
    get_imagenet_blocks_per_stage,
    pad_channels,
)
from pyramidzoo.models._interface import ImageClassifier, make_classifier


def compute_block_widths(base: int, alpha: float, blocks: int, *, multiplicative: bool = False) -> list[int]:
    """Compute the width (number of channels) of each block. It grows in equal steps.

    As in the authors' Lua code, a double is increased by one step for each block. The width of the block
    is the rounded double, where a half is rounded up; the double itself is never rounded. Another order
    of the operations can give another network. With base + k * alpha / blocks as the formula, block 9
    of 18 bottlenecks with base 16 and alpha 31 would have width 32 instead of 31.

    Args:
        base: Width in front of the first block.
        alpha: The last width minus `base`; with `multiplicative`, the last width divided by `base`.
        blocks: Number of blocks.
        multiplicative: Whether each step multiplies the width. Otherwise each step adds to it.

    Returns:
        The width of each block.
    """
    widths, exact_width = [], float(base)
    for _ in range(blocks):
        exact_width = exact_width * alpha ** (1 / blocks) if multiplicative else exact_width + alpha / blocks
        # Not `round`, which rounds a half to the next even number.
        widths.append(math.floor(exact_width + 0.5))
    return widths


def apply_pyramid_shortcut(x: Tensor, stride: int, added_channels: int) -> Tensor:
    """Compute the shortcut of a block: average pooling if the stride is 2, then zero channels behind the others.

    Args:
        x: Input of the block (N, C, H, W).
        stride: Stride of the block, 1 or 2.
        added_channels: Number of zero channels.

    Returns:
        Map (N, C + added_channels, H / stride, W / stride).
    """
    if stride == 2:
        # The strided convolution of the branch rounds half of an odd height or width up. `ceil_mode` does the same.
        x = F.avg_pool2d(x, 2, ceil_mode=True)
    return pad_channels(x, before=0, after=added_channels)


class BasicBlock(nn.Module):
    """The basic block: BN-conv3x3-BN-ReLU-conv3x3-BN, plus the shortcut.

    There is no ReLU in front of the first convolution, and none after the sum. Maps (N, in_channels,
    H, W) become (N, width, H / stride, W / stride).

    Args:
        in_channels: Channels of the input.
        width: Channels of both convolutions and of the output.
        stride: Stride of the first convolution, 1 or 2.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added_channels = width - in_channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (N, in_channels, H, W)."""
        y = self.conv1(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.bn3(y)
        return y + apply_pyramid_shortcut(x, self.stride, self.added_channels)


class Bottleneck(nn.Module):
    """The bottleneck: BN-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN, plus the shortcut.

    There is no ReLU in front of the first convolution, and none after the sum. Maps (N, in_channels,
    H, W) become (N, 4 * width, H / stride, W / stride).

    Args:
        in_channels: Channels of the input.
        width: Channels between the 1x1 convolutions: a quarter of the output channels.
        stride: Stride of the 3x3 convolution, 1 or 2.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added_channels = 4 * width - in_channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, 4 * width)
        self.bn4 = nn.BatchNorm2d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (N, in_channels, H, W)."""
        y = self.conv1(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        y = self.bn4(y)
        return y + apply_pyramid_shortcut(x, self.stride, self.added_channels)


class CifarPyramidNet(ImageClassifier):
    """PyramidNet for 32x32 images: conv3x3-BN without ReLU, three stages, BN-ReLU.

    Args:
        depth: 6n+2 for n basic blocks in each stage, 9n+2 for n bottlenecks. 164 is possible with both.
        alpha: See `compute_block_widths`; the width in front of the first block is 16.
        bottleneck: Whether the blocks are bottlenecks or basic blocks.
        multiplicative: Whether the width is multiplied from block to block. Otherwise it is added to.
        stem_channels: Output channels of the stem: 16; 64 in hysts' code before 2019-09-07.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Attributes:
        block_widths: The width of each block, from the first to the last.

    Raises:
        ValueError: There is no network of this depth.
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
        blocks_per_stage = count_cifar_blocks("A CIFAR PyramidNet", depth, 3 if bottleneck else 2)
        widths = compute_block_widths(16, alpha, 3 * blocks_per_stage, multiplicative=multiplicative)
        block_class = Bottleneck if bottleneck else BasicBlock
        num_features = widths[-1] * block_class.expansion
        super().__init__(num_classes=num_classes, num_features=num_features, drop_rate=drop_rate)
        self.block_widths = tuple(widths)
        self.conv1 = conv3x3(in_chans, stem_channels)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        channels = stem_channels
        for stage in range(3):
            blocks: list[nn.Module] = []
            for index, width in enumerate(widths[stage * blocks_per_stage : (stage + 1) * blocks_per_stage]):
                blocks.append(block_class(channels, width, stride=2 if stage > 0 and index == 0 else 1))
                channels = width * block_class.expansion
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.norm = nn.BatchNorm2d(num_features)
        self.fc = make_classifier(num_features, num_classes)
        self._init_weights("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        x = self.bn1(self.conv1(x))
        return F.relu(self.norm(self._run_stages(x)))


class ImagePyramidNet(ImageClassifier):
    """PyramidNet for 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four stages of bottlenecks, BN-ReLU.

    Args:
        depth: Number of convolutions and linear layers.
        alpha: The width of the last block minus 64, which is the width in front of the first block.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier (0.5 in the authors' network
            with alpha 450).

    Attributes:
        block_widths: The width of each block, from the first to the last.

    Raises:
        ValueError: Nobody published a network of this depth.
    """

    def __init__(
        self, *, depth: int, alpha: float, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        blocks_per_stage = get_imagenet_blocks_per_stage("An ImageNet PyramidNet", depth, bottleneck=True)
        widths = compute_block_widths(64, alpha, sum(blocks_per_stage))
        super().__init__(num_classes=num_classes, num_features=4 * widths[-1], drop_rate=drop_rate)
        self.block_widths = tuple(widths)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels, width_iterator = 64, iter(widths)
        for stage, block_count in enumerate(blocks_per_stage):
            blocks: list[nn.Module] = []
            for index in range(block_count):
                width = next(width_iterator)
                blocks.append(Bottleneck(channels, width, stride=2 if stage > 0 and index == 0 else 1))
                channels = 4 * width
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.norm = nn.BatchNorm2d(channels)
        self.fc = make_classifier(channels, num_classes)
        self._init_weights("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        x = apply_relu_and_maxpool(self.bn1(self.conv1(x)))
        return F.relu(self.norm(self._run_stages(x)))
