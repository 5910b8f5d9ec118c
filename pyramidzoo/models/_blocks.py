"""What several families share exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def units_per_stage(network: str, depth: int, layers_per_unit: int) -> int:
    """Units in each of the three CIFAR stages. Raises ValueError where the depth does not divide into them."""
    units, rest = divmod(depth - 2, 3 * layers_per_unit)
    if rest or units < 1:
        raise ValueError(f"{network} has no depth {depth}: it must be {3 * layers_per_unit}n+2 with n >= 1")
    return units


def pad_channels(x: Tensor, before: int, after: int) -> Tensor:
    """Put zero channels around those of a map.

    Args:
        x: Map (N, C, H, W).
        before: How many zero channels come before those of x.
        after: How many come after them.

    Returns:
        Map (N, before + C + after, H, W); x itself where nothing is added.

    Raises:
        ValueError: A number is negative. `F.pad` would cut channels off.
    """
    if before < 0 or after < 0:
        raise ValueError(f"a shortcut cannot lose channels: {before} before and {after} after its own were asked for")
    return F.pad(x, (0, 0, 0, 0, before, after)) if before or after else x


def shortcut_a(x: Tensor, stride: int, before: int, after: int) -> Tensor:
    """Take option A of He et al.: every `stride`-th pixel of x, and zero channels before and after those of x."""
    return pad_channels(x[:, :, ::stride, ::stride] if stride > 1 else x, before, after)


class SqueezeExcitation(nn.Module):
    """Scale each channel by sigmoid(conv1x1(ReLU(conv1x1(mean over the map)))), with a sixteenth as many in between.

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks". Parameter names are timm's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, kernel_size=1)
        self.fc2 = nn.Conv2d(channels // 16, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(scale)


def conv7x7(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The first convolution of most ImageNet networks: stride 2."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=7, stride=2, padding=3, bias=False)


def relu_maxpool(x: Tensor) -> Tensor:
    """ReLU and 3x3 max pooling with stride 2: how those networks' stems end."""
    return F.max_pool2d(F.relu(x), 3, stride=2, padding=1)


def grouped_width(out_channels: int, cardinality: int, base_width: int) -> int:
    """Channels of a bottleneck's grouped 3x3: `base_width` in each group where the output has 256."""
    return cardinality * (out_channels // 4 * base_width // 64)


_BASIC = {
    10: (1, 1, 1, 1),
    12: (2, 1, 1, 1),
    14: (2, 2, 1, 1),
    16: (2, 2, 2, 1),
    18: (2, 2, 2, 2),
    26: (3, 3, 3, 3),
    34: (3, 4, 6, 3),
}
_BOTTLENECK = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    38: (3, 3, 3, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}


def imagenet_blocks(network: str, depth: int, bottleneck: bool) -> tuple[int, int, int, int]:
    """Units in each of the four ImageNet stages. Raises ValueError for a depth that nobody published."""
    table = _BOTTLENECK if bottleneck else _BASIC
    if depth not in table:
        raise ValueError(f"{network} has no depth {depth}: one of {', '.join(map(str, table))}")
    return table[depth]
