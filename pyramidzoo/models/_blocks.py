"""What several families share exactly."""

from __future__ import annotations

import torch
import torch.fx
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


@torch.fx.wrap  # one node with a result: dead-code elimination cannot drop the addition
def add_into_channels(y: Tensor, x: Tensor, start: int = 0) -> Tensor:
    """Add x (N, C, H, W) into channels start .. start+C of y, in place: y plus x padded with zero channels.

    Every element takes the same one addition as in the padded form, so the result is equal to it (y + 0 is y), without
    the zeros or the copy. Call it through this module, which is where torch.fx looks for it.
    """
    y.narrow(1, start, x.shape[1]).add_(x)
    return y


class PreActUnit(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-[dropout]-conv3x3 plus a shortcut, nothing after the sum.

    `shared` lets the first BN-ReLU feed the shortcut too. Where channels change the shortcut is a bare strided conv1x1
    (`projection`), or every second pixel followed by zero channels. Source: He et al. 2016, Zagoruyko & Komodakis 2016.
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
    ) -> None:
        super().__init__()
        self.shared = shared
        self.stride = stride
        self.drop_rate = drop_rate
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        needed = projection and in_channels != out_channels
        self.downsample = conv1x1(in_channels, out_channels, stride) if needed else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = y if self.shared else x
        y = F.relu(self.bn2(self.conv1(y)))
        if self.drop_rate:
            y = F.dropout(y, self.drop_rate, self.training)
        y = self.conv2(y)
        if self.downsample is not None:
            return y + self.downsample(shortcut)
        return shortcut_into(y, shortcut, self.stride)


def shortcut_into(y: Tensor, x: Tensor, stride: int, start: int = 0) -> Tensor:
    """Option A of He et al.: every `stride`-th pixel of x, added into the channels of y from `start` on."""
    return add_into_channels(y, x[:, :, ::stride, ::stride] if stride > 1 else x, start)
