"""DenseNet, VGG and shake-shake written out a second time, like the graphs of `reference_graphs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from reference_graphs import Layers
from torch import Tensor
from torch.nn import functional as F


def densenet(
    net: Layers,
    x: Tensor,
    *,
    layers: int,
    growth: int,
    stem: int,
    bottleneck: bool = False,
    halving: bool = False,
    drop: float = 0.0,
) -> Tensor:
    """Three blocks on CIFAR images; dropout after every convolution but the first."""
    x = net.conv("features.conv0", x, stem, 3)
    for block in (1, 2, 3):
        for k in range(1, layers + 1):
            layer = f"features.denseblock{block}.denselayer{k}"
            y = net.bn_relu(f"{layer}.norm1", x)
            if bottleneck:
                y = net.drop(net.conv(f"{layer}.conv1", y, 4 * growth, 1), drop)
                y = net.drop(net.conv(f"{layer}.conv2", net.bn_relu(f"{layer}.norm2", y), growth, 3), drop)
            else:
                y = net.drop(net.conv(f"{layer}.conv1", y, growth, 3), drop)
            x = torch.cat([x, y], dim=1)
        if block < 3:
            transition = f"features.transition{block}"
            y, out = net.bn_relu(f"{transition}.norm", x), x.shape[1] // 2 if halving else x.shape[1]
            x = _mean_of_whole_2x2(net.drop(net.conv(f"{transition}.conv", y, out, 1), drop))
    return net.head(net.bn_relu("features.norm5", x), name="classifier")


def vgg(net: Layers, x: Tensor, *, stages: Sequence[int], bias: bool, one_relu: bool = False) -> Tensor:
    """One linear layer after the convolutions. `one_relu`: of each stage only the first convolution has a ReLU."""
    return net.head(_vgg_features(net, x, stages, bias, one_relu))


def vgg_with_three_linear(net: Layers, x: Tensor, *, stages: Sequence[int], drop: float = 0.0) -> Tensor:
    """On CIFAR images, of which the convolutions leave one pixel; dropout after both hidden layers."""
    x = _vgg_features(net, x, stages, True, False).flatten(1)
    x = net.drop(torch.relu(net.linear("classifier.0", x)), drop)
    x = net.drop(torch.relu(net.linear("classifier.3", x)), drop)
    return net.linear("classifier.6", x)


def _vgg_features(net: Layers, x: Tensor, stages: Sequence[int], bias: bool, one_relu: bool) -> Tensor:
    place = 0
    for count, width in zip(stages, (64, 128, 256, 512, 512), strict=True):
        for k in range(count):
            x = net.bn(f"features.{place + 1}", net.conv(f"features.{place}", x, width, 3, bias=bias))
            place += 2
            if k == 0 or not one_relu:
                x = torch.relu(x)
                place += 1
        x = F.max_pool2d(x, kernel_size=2, stride=2)
        place += 1
    return x


class ShakeShake(torch.autograd.Function):
    """a * y1 + (1 - a) * y2, whose gradient is that of b * y1 + (1 - b) * y2."""

    @staticmethod
    def forward(ctx: Any, y1: Tensor, y2: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(b)
        return a * y1 + (1 - a) * y2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (b,) = ctx.saved_tensors
        return b * gradient, (1 - b) * gradient, None, None


def shake_gastaldi(net: Layers, x: Tensor, *, n: int, width: int, rules: str = "shake shake image") -> Tensor:
    """A signed stream from a stem of 16 channels; ReLUs where branches and projections start, and at the end."""
    x = net.bn("bn1", net.conv("conv1", x, 16, 3))
    for stage, out in enumerate((width, 2 * width, 4 * width)):
        for k in range(n):
            block, stride = f"layer{stage + 1}.{k}", 2 if stage > 0 and k == 0 else 1
            y = _shaken(net, block, x, out, stride, rules)
            if x.shape[1] != out:
                x = torch.relu(x)
                shifted = torch.zeros_like(x)
                shifted[:, :, 1:, 1:] = x[:, :, :-1, :-1]
                x = _two_paths(net, f"{block}.shortcut", x[:, :, ::stride, ::stride], shifted[:, :, ::stride, ::stride])
            x = x + y
    return net.head(torch.relu(x))


def shake_hysts(net: Layers, x: Tensor, *, n: int, width: int, rules: str = "shake shake image") -> Tensor:
    """A stem of `width` channels with a ReLU, no projection in stage 1, none of the last ReLU, odd pixels beside."""
    x = net.bn_relu("bn1", net.conv("conv1", x, width, 3))
    for stage, out in enumerate((width, 2 * width, 4 * width)):
        for k in range(n):
            block, stride = f"layer{stage + 1}.{k}", 2 if stage > 0 and k == 0 else 1
            y = _shaken(net, block, x, out, stride, rules)
            if x.shape[1] != out:
                x = torch.relu(x)
                odd = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
                x = _two_paths(net, f"{block}.shortcut", x[:, :, ::2, ::2], odd)
            x = x + y
    return net.head(x)


def _shaken(net: Layers, block: str, x: Tensor, out: int, stride: int, rules: str) -> Tensor:
    """Both branches, mixed as `rules` say: shake or even, then shake, even or keep, then image or batch."""
    branches = []
    for name in (f"{block}.branch1", f"{block}.branch2"):
        y = net.bn_relu(f"{name}.bn1", net.conv(f"{name}.conv1", torch.relu(x), out, 3, stride))
        branches.append(net.bn(f"{name}.bn2", net.conv(f"{name}.conv2", y, out, 3)))
    forward, backward, level = rules.split()
    half = torch.full((len(x) if level == "image" else 1, 1, 1, 1), 0.5, dtype=x.dtype)
    if not net.training:
        return ShakeShake.apply(*branches, half, half)
    a = torch.rand_like(half) if forward == "shake" else half
    b = {"shake": torch.rand_like, "even": torch.clone, "keep": lambda _: a}[backward](half)
    return ShakeShake.apply(*branches, a, b)


def _two_paths(net: Layers, name: str, here: Tensor, beside: Tensor) -> Tensor:
    half = net.state[f"{name}.bn.weight"].numel() // 2
    paths = [net.conv(f"{name}.conv1", here, half, 1), net.conv(f"{name}.conv2", beside, half, 1)]
    return net.bn(f"{name}.bn", torch.cat(paths, dim=1))


def _mean_of_whole_2x2(x: Tensor) -> Tensor:
    """Mean over each 2x2 window; an odd border is left out."""
    height, width = (side // 2 * 2 for side in x.shape[2:])
    x = x[:, :, :height, :width]
    return cast("Tensor", sum(x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))) / 4
