"""What several families of networks use: layers, shortcuts, and the number of blocks for a depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Make a 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Make a 3x3 convolution with padding 1 and without bias."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def conv7x7(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Make the first convolution of most ImageNet networks: 7x7 with stride 2, padding 3 and without bias."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=7, stride=2, padding=3, bias=False)


def apply_relu_and_maxpool(x: Tensor) -> Tensor:
    """End the stem of an ImageNet network: ReLU, then 3x3 max pooling with stride 2."""
    return F.max_pool2d(F.relu(x), 3, stride=2, padding=1)


def pad_channels(x: Tensor, before: int, after: int) -> Tensor:
    """Put zero channels before and after the channels of a feature map.

    Args:
        x: Feature map (N, C, H, W).
        before: Number of zero channels in front of the channels of `x`.
        after: Number of zero channels behind the channels of `x`.

    Returns:
        Feature map (N, before + C + after, H, W). It is `x` itself if both numbers are 0.

    Raises:
        ValueError: A number is negative. `F.pad` would then remove channels without an error.
    """
    if before < 0 or after < 0:
        raise ValueError(f"a shortcut cannot lose channels; it got {before} zero channels before and {after} after")
    # `F.pad` takes two numbers for each dimension, the last dimension first: width, height, channels.
    return F.pad(x, (0, 0, 0, 0, before, after)) if before or after else x


def apply_shortcut_a(x: Tensor, stride: int, before: int, after: int) -> Tensor:
    """Compute the shortcut without parameters, option A of He et al. 2015.

    Args:
        x: Feature map (N, C, H, W).
        stride: The shortcut takes every `stride`-th pixel of each row and column.
        before: Number of zero channels in front of the channels of `x`.
        after: Number of zero channels behind the channels of `x`.

    Returns:
        Feature map (N, before + C + after, H / stride, W / stride), where height and width are rounded up.
    """
    return pad_channels(x[:, :, ::stride, ::stride] if stride > 1 else x, before, after)


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: scale each channel by a number between 0 and 1.

    The scales are sigmoid(fc2(ReLU(fc1(mean of each channel)))). `fc1` reduces the channels to a
    sixteenth. Input and output are (N, C, H, W).

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks". Parameter names are timm's.

    Args:
        channels: Number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, kernel_size=1)
        self.fc2 = nn.Conv2d(channels // 16, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of a map (N, C, H, W)."""
        scale = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(scale)


def compute_grouped_width(out_channels: int, cardinality: int, base_width: int) -> int:
    """Compute the number of channels of the grouped 3x3 convolution in a ResNeXt block.

    A group has `base_width` channels in a block with 256 output channels, twice as many in a block with
    512, and so on: `base_width` is multiplied by (out_channels / 4) / 64, which is out_channels / 256.

    Args:
        out_channels: Output channels of the block.
        cardinality: Number of groups.
        base_width: Channels of each group in a block with 256 output channels.

    Returns:
        The number of channels of all groups together.
    """
    return cardinality * (out_channels // 4 * base_width // 64)


# The depth of an ImageNet network, and the number of blocks in each of its four stages.
_BASIC_BLOCKS_PER_STAGE = {
    10: (1, 1, 1, 1),
    12: (2, 1, 1, 1),
    14: (2, 2, 1, 1),
    16: (2, 2, 2, 1),
    18: (2, 2, 2, 2),
    26: (3, 3, 3, 3),
    34: (3, 4, 6, 3),
}
_BOTTLENECKS_PER_STAGE = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    38: (3, 3, 3, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}


def get_imagenet_blocks_per_stage(network: str, depth: int, bottleneck: bool) -> tuple[int, int, int, int]:
    """Return the number of blocks in each of the four stages of an ImageNet network.

    Args:
        network: Name of the network in the error message.
        depth: Number of convolutions and linear layers, shortcuts not counted.
        bottleneck: Whether the blocks are bottlenecks (three convolutions) or basic blocks (two).

    Returns:
        The number of blocks in each stage.

    Raises:
        ValueError: Nobody published a network of this depth.
    """
    blocks_by_depth = _BOTTLENECKS_PER_STAGE if bottleneck else _BASIC_BLOCKS_PER_STAGE
    if depth not in blocks_by_depth:
        raise ValueError(f"{network} has no depth {depth}; it must be one of {', '.join(map(str, blocks_by_depth))}")
    return blocks_by_depth[depth]


def count_cifar_blocks(network: str, depth: int, layers_per_block: int) -> int:
    """Compute the number of blocks in each of the three stages of a CIFAR network.

    The stem and the classifier are two of the layers. The other layers are divided equally between the
    three stages.

    Args:
        network: Name of the network in the error message.
        depth: Number of convolutions and linear layers, shortcuts not counted.
        layers_per_block: Convolutions in each block: 2 in a basic block, 3 in a bottleneck.

    Returns:
        The number of blocks in each stage.

    Raises:
        ValueError: The layers cannot be divided equally.
    """
    blocks_per_stage, remaining_layers = divmod(depth - 2, 3 * layers_per_block)
    if remaining_layers or blocks_per_stage < 1:
        raise ValueError(f"{network} has no depth {depth}: it must be {3 * layers_per_block}n+2 with n >= 1")
    return blocks_per_stage
