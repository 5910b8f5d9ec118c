"""The graphs written out a second time, slowly and literally, over a dictionary of tensors under the zoo's names.

Nothing of pyramidzoo is used. Shortcuts hold their zeros as tensors, batch norm and pooling are their formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F


class Layers:
    """The layers whose tensors are in `state`, called by name."""

    def __init__(self, state: dict[str, Tensor], training: bool) -> None:
        self.state = state
        self.training = training

    def conv(self, name: str, x: Tensor, out: int, kernel: int, stride: int = 1, *, bias: bool = False) -> Tensor:
        """Convolution to `out` channels, padded so that stride 1 keeps the size."""
        weight, shift = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        assert weight.shape == (out, x.shape[1], kernel, kernel)
        assert (shift is not None) == bias
        return F.conv2d(x, weight, shift, stride=stride, padding=(kernel - 1) // 2)

    def bn(self, name: str, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + 1e-5) * scale + shift; running values go a tenth of the way to the batch's."""
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            running_mean, running_variance = mean, variance
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
            with torch.no_grad():
                running_mean.copy_(0.9 * running_mean + 0.1 * mean)
                running_variance.copy_(0.9 * running_variance + 0.1 * x.var(dim=(0, 2, 3), unbiased=True))
                self.state[f"{name}.num_batches_tracked"] += 1
        x = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-5)
        return x * self.state[f"{name}.weight"][:, None, None] + self.state[f"{name}.bias"][:, None, None]

    def bn_relu(self, name: str, x: Tensor) -> Tensor:
        return torch.relu(self.bn(name, x))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def drop(self, x: Tensor, rate: float) -> Tensor:
        return F.dropout(x, rate, self.training)

    def head(self, x: Tensor, drop: float = 0.0, name: str = "fc") -> Tensor:
        """Mean over the map, dropout, linear layer."""
        return self.linear(name, self.drop(x.mean(dim=(2, 3)), drop))


def resnet_a(net: Layers, x: Tensor, *, n: int) -> Tensor:
    """Post-activation, option A with half of the zero channels before and half after."""
    x = net.bn_relu("bn1", net.conv("conv1", x, 16, 3))
    for stage, width in enumerate((16, 32, 64)):
        for k in range(n):
            block = f"layer{stage + 1}.{k}"
            stride = 2 if stage > 0 and k == 0 else 1
            y = net.bn_relu(f"{block}.bn1", net.conv(f"{block}.conv1", x, width, 3, stride))
            y = net.bn(f"{block}.bn2", net.conv(f"{block}.conv2", y, width, 3))
            if stride == 2:
                x = x[:, :, ::2, ::2]
                x = torch.cat([_zeros(x, width // 4), x, _zeros(x, width // 4)], dim=1)
            x = torch.relu(y + x)
    return net.head(x)


def resnet_fattorib(net: Layers, x: Tensor, *, n: int) -> Tensor:
    """Stages of n - 1 plain blocks and one whose second convolution strides and widens; the third stage's does not."""
    x = net.bn_relu("bn1", net.conv("conv1", x, 16, 3))
    for stage, (width, out) in enumerate(((16, 32), (32, 64), (64, 64))):
        for k in range(n):
            block = f"layer{stage + 1}.{k}"
            transition = k == n - 1 and out > width
            stride, block_out = (2, out) if transition else (1, width)
            y = net.bn_relu(f"{block}.bn1", net.conv(f"{block}.conv1", x, width, 3))
            y = net.bn(f"{block}.bn2", net.conv(f"{block}.conv2", y, block_out, 3, stride))
            if transition:
                x = x[:, :, ::2, ::2]
                x = torch.cat([_zeros(x, out // 4), x, _zeros(x, out // 4)], dim=1)
            x = torch.relu(y + x)
    return net.head(x)


def preresnet(
    net: Layers,
    x: Tensor,
    *,
    n: int,
    width: int = 1,
    shared: Sequence[bool] = (True,) * 3,
    option: str = "B",
    first_relu: bool = True,
    last_bn: bool = False,
) -> Tensor:
    """Basic pre-activation blocks; `shared` stages give the first block's BN-ReLU to its shortcut as well.

    Without `first_relu` a block has no ReLU after its first BN, unless that BN is shared.
    """
    x = net.conv("conv1", x, 16 * width, 3)
    for stage, out in enumerate((16 * width, 32 * width, 64 * width)):
        for k in range(n):
            block = f"layer{stage + 1}.{k}"
            stride = 2 if stage > 0 and k == 0 else 1
            sharing = k == 0 and shared[stage]
            activated = net.bn(f"{block}.bn1", x)
            if sharing or first_relu:
                activated = torch.relu(activated)
            y = net.conv(f"{block}.conv1", activated, out, 3, stride)
            y = net.conv(f"{block}.conv2", net.bn_relu(f"{block}.bn2", y), out, 3)
            if last_bn:
                y = net.bn(f"{block}.last_bn", y)
            if sharing:
                x = activated
            if stride == 2 and option == "A":
                x = x[:, :, ::2, ::2]
                x = torch.cat([x, _zeros(x, out // 2)], dim=1)
            elif stride == 2:
                x = net.conv(f"{block}.downsample", x, out, 1, 2)
            x = y + x
    return net.head(net.bn_relu("norm", x))


def preresnet_bottleneck(
    net: Layers, x: Tensor, *, n: int, widths: Sequence[int] = (64, 128, 256), strided: int = 1, shared: bool = True
) -> Tensor:
    """Pre-activation bottlenecks at `widths` channels; convolution number `strided` has the stride.

    Where `shared`, the first block of each stage gives its BN-ReLU to the shortcut as well. That is a bare projection,
    or nothing more where the channels stay.
    """
    x = net.conv("conv1", x, 16, 3)
    for stage, out in enumerate(widths):
        for k in range(n):
            block = f"layer{stage + 1}.{k}"
            stride = 2 if stage > 0 and k == 0 else 1
            activated = net.bn_relu(f"{block}.bn1", x)
            y = _preactivated_branch(net, block, activated, out, stride, strided)
            if k == 0 and shared:
                x = activated
            if x.shape[1] != out:
                x = net.conv(f"{block}.downsample", x, out, 1, stride)
            x = y + x
    return net.head(net.bn_relu("norm", x))


def image_preresnet(net: Layers, x: Tensor, *, blocks: Sequence[int]) -> Tensor:
    """fb.resnet.torch's bottlenecks on ImageNet: the very first block reads what the stem has activated already."""
    x = net.bn_relu("bn1", net.conv("conv1", x, 64, 7, 2))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    for stage, (count, out) in enumerate(zip(blocks, (256, 512, 1024, 2048), strict=True)):
        for k in range(count):
            block = f"layer{stage + 1}.{k}"
            stride = 2 if stage > 0 and k == 0 else 1
            activated = x if (stage, k) == (0, 0) else net.bn_relu(f"{block}.bn1", x)
            y = _preactivated_branch(net, block, activated, out, stride, strided=2)
            x = y + (net.conv(f"{block}.downsample", activated, out, 1, stride) if k == 0 else x)
    assert "layer1.0.bn1.weight" not in net.state
    return net.head(net.bn_relu("norm", x))


def _preactivated_branch(net: Layers, block: str, x: Tensor, out: int, stride: int, strided: int) -> Tensor:
    inner = out // 4
    y = net.conv(f"{block}.conv1", x, inner, 1, stride if strided == 1 else 1)
    y = net.conv(f"{block}.conv2", net.bn_relu(f"{block}.bn2", y), inner, 3, stride if strided == 2 else 1)
    return net.conv(f"{block}.conv3", net.bn_relu(f"{block}.bn3", y), out, 1)


def wide_resnet(net: Layers, x: Tensor, *, n: int, width: int, drop: float = 0.0) -> Tensor:
    """Bare projections of BN-ReLU where channels change, else the raw input; dropout before the second convolution."""
    x = net.conv("conv1", x, 16, 3)
    for stage, out in enumerate((16 * width, 32 * width, 64 * width)):
        for k in range(n):
            block = f"layer{stage + 1}.{k}"
            stride = 2 if stage > 0 and k == 0 else 1
            activated = net.bn_relu(f"{block}.bn1", x)
            y = net.bn_relu(f"{block}.bn2", net.conv(f"{block}.conv1", activated, out, 3, stride))
            y = net.conv(f"{block}.conv2", net.drop(y, drop), out, 3)
            if k == 0 and (stage > 0 or width > 1):
                x = net.conv(f"{block}.downsample", activated, out, 1, stride)
            x = y + x
    return net.head(net.bn_relu("norm", x))


def pyramidnet(
    net: Layers,
    x: Tensor,
    *,
    blocks: Sequence[int],
    widths: Sequence[int],
    bottleneck: bool,
    stem: int = 16,
    drop: float = 0.0,
) -> Tensor:
    """The CIFAR network; `blocks` counts those of each stage, `widths` lists all of them."""
    x = net.bn("bn1", net.conv("conv1", x, stem, 3))
    return _pyramid(net, x, blocks, widths, bottleneck, drop)


def image_pyramidnet(
    net: Layers, x: Tensor, *, blocks: Sequence[int], widths: Sequence[int], drop: float = 0.0
) -> Tensor:
    """The ImageNet network."""
    x = net.bn_relu("bn1", net.conv("conv1", x, 64, 7, 2))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    return _pyramid(net, x, blocks, widths, True, drop)


def additive_widths(base: int, alpha: float, blocks: int) -> list[int]:
    """base + k * alpha / blocks in exact arithmetic, rounded half up."""
    half = Fraction(1, 2)
    return [math.floor(base + k * Fraction(alpha) / blocks + half) for k in range(1, blocks + 1)]


def multiplicative_widths(base: int, alpha: float, blocks: int) -> list[int]:
    """base * alpha^(k / blocks) in fifty digits, rounded half up."""
    with localcontext() as context:
        context.prec = 50
        return [int(base * Decimal(alpha) ** (Decimal(k) / blocks) + Decimal("0.5")) for k in range(1, blocks + 1)]


def _pyramid(
    net: Layers, x: Tensor, blocks: Sequence[int], widths: Sequence[int], bottleneck: bool, drop: float
) -> Tensor:
    places = [(stage, k) for stage, count in enumerate(blocks) for k in range(count)]
    for (stage, k), width in zip(places, widths, strict=True):
        block = f"layer{stage + 1}.{k}"
        stride = 2 if stage > 0 and k == 0 else 1
        out = 4 * width if bottleneck else width
        y = net.bn(f"{block}.bn1", x)
        if bottleneck:
            y = net.bn_relu(f"{block}.bn2", net.conv(f"{block}.conv1", y, width, 1))
            y = net.bn_relu(f"{block}.bn3", net.conv(f"{block}.conv2", y, width, 3, stride))
            y = net.bn(f"{block}.bn4", net.conv(f"{block}.conv3", y, out, 1))
        else:
            y = net.bn_relu(f"{block}.bn2", net.conv(f"{block}.conv1", y, width, 3, stride))
            y = net.bn(f"{block}.bn3", net.conv(f"{block}.conv2", y, out, 3))
        if stride == 2:
            x = _mean_of_2x2(x)
        x = y + torch.cat([x, _zeros(x, out - x.shape[1])], dim=1)
    return net.head(net.bn_relu("norm", x), drop)


def _zeros(x: Tensor, channels: int) -> Tensor:
    return torch.zeros(x.shape[0], channels, *x.shape[2:], dtype=x.dtype)


def _mean_of_2x2(x: Tensor) -> Tensor:
    """Mean over each 2x2 window, at an odd border over those of its pixels that exist."""

    def window_sums(values: Tensor) -> Tensor:
        height, width = values.shape[2:]
        values = F.pad(values, (0, 1, 0, 1))
        windows = (values[:, :, i : i + height : 2, j : j + width : 2] for i in (0, 1) for j in (0, 1))
        return cast("Tensor", sum(windows))

    return window_sums(x) / window_sums(torch.ones_like(x))
