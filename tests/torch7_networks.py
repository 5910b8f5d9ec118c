"""The trees of modules that the authors' Lua code builds: fb.resnet.torch, PyramidNet, WRN-50-2, ResNeXt.

Facts from facebookarchive/fb.resnet.torch (models/resnet.lua, models/preresnet.lua), jhkim89/PyramidNet
(addpyramidnet.lua), szagoruyko/wide-residual-networks (pretrained/wide-resnet.lua), facebookresearch/ResNeXt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch7_writer import Lua

UNITS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
Array = Any
Fill = Callable[[tuple[int, ...], float, float], Array]


class Builder:
    """Layers filled by `fill` (shape, mean, deviation), with the gradient buffers that real files have."""

    def __init__(self, fill: Fill, *, old_norms: bool = False, biases: bool = False) -> None:
        self.fill = fill
        self.old_norms = old_norms
        self.biases = biases
        self.channels = 0

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Lua:
        shape = (outputs, inputs // groups, kernel, kernel)
        fields: dict[str, Any] = {
            "nInputPlane": inputs,
            "nOutputPlane": outputs,
            "kW": kernel,
            "kH": kernel,
            "dW": stride,
            "dH": stride,
            "padW": kernel // 2,
            "padH": kernel // 2,
            "weight": self.fill(shape, 0.0, math.sqrt(2 / (kernel**2 * outputs))),
            "gradWeight": np.zeros(1, np.float32),
            "_type": "torch.CudaTensor",
        }
        if groups > 1:
            fields["groups"] = groups
        if self.biases:
            fields["bias"] = np.zeros(outputs, np.float32)
        return Lua("cudnn.SpatialConvolution", **fields)

    def norm(self, channels: int) -> Lua:
        spread = self.fill((channels,), 1.0, 0.1)
        statistics = {"running_std": spread} if self.old_norms else {"running_var": spread}
        return Lua(
            "nn.SpatialBatchNormalization",
            weight=self.fill((channels,), 1.0, 0.1),
            bias=self.fill((channels,), 0.0, 0.1),
            running_mean=self.fill((channels,), 0.0, 0.1),
            **statistics,
            eps=1e-5,
            momentum=0.1,
            affine=True,
            train=False,
        )

    def shortcut(self, inputs: int, outputs: int, stride: int, *, norm: bool) -> Lua:
        if inputs == outputs:
            return Lua("nn.Identity")
        layers = [self.conv(inputs, outputs, 1, stride), *([self.norm(outputs)] if norm else [])]
        return sequential(*layers)

    def basic(self, width: int, stride: int) -> Lua:
        inputs, self.channels = self.channels, width
        branch = sequential(
            self.conv(inputs, width, 3, stride), self.norm(width), relu(), self.conv(width, width, 3), self.norm(width)
        )
        return sequential(
            Lua("nn.ConcatTable").add(branch, self.shortcut(inputs, width, stride, norm=True)), plus(), relu()
        )

    def bottleneck(self, inner: int, outputs: int, stride: int, *, groups: int = 1, norm_after: bool = False) -> Lua:
        inputs, self.channels = self.channels, outputs
        branch = sequential(
            self.conv(inputs, inner, 1),
            self.norm(inner),
            relu(),
            self.conv(inner, inner, 3, stride, groups),
            self.norm(inner),
            relu(),
            self.conv(inner, outputs, 1),
            *([] if norm_after else [self.norm(outputs)]),
        )
        table = Lua("nn.ConcatTable").add(branch, self.shortcut(inputs, outputs, stride, norm=not norm_after))
        return sequential(table, plus(), *([self.norm(outputs)] if norm_after else []), relu())

    def preact(self, width: int, stride: int, kind: str) -> Lua:
        inputs, self.channels = self.channels, width * 4
        branch = [] if kind else [self.norm(inputs), relu()]
        branch += [self.conv(inputs, width, 1), self.norm(width), relu(), self.conv(width, width, 3, stride)]
        branch += [self.norm(width), relu(), self.conv(width, width * 4, 1)]
        table = Lua("nn.ConcatTable").add(sequential(*branch), self.shortcut(inputs, width * 4, stride, norm=False))
        before = [self.norm(inputs), relu()] if kind == "both_preact" else []
        return sequential(*before, table, plus())

    def pyramid(self, width: int, stride: int) -> Lua:
        inputs, self.channels = self.channels, width * 4
        branch = sequential(
            self.norm(inputs),
            self.conv(inputs, width, 1),
            self.norm(width),
            relu(),
            self.conv(width, width, 3, stride),
            self.norm(width),
            relu(),
            self.conv(width, width * 4, 1),
            self.norm(width * 4),
        )
        short = sequential(*([average(2)] if stride == 2 else []))
        grown = width * 4 - inputs
        short.add(Lua("nn.Padding", dim=1, pad=grown, nInputDim=3, value=0) if grown else Lua("nn.Identity"))
        return sequential(Lua("nn.ConcatTable").add(branch, short), plus())

    def stem(self) -> list[Lua]:
        self.channels = 64
        pooling = Lua("nn.SpatialMaxPooling", kW=3, kH=3, dW=2, dH=2, padW=1, padH=1)
        return [self.conv(3, 64, 7, 2), self.norm(64), relu(), pooling]

    def head(self, *, norm: bool, dropout: bool = False) -> list[Lua]:
        before = [Lua("nn.Copy"), self.norm(self.channels), relu()] if norm else []
        linear = Lua(
            "nn.Linear",
            weight=self.fill((1000, self.channels), 0.0, 1 / math.sqrt(self.channels)),
            bias=self.fill((1000,), 0.0, 0.1),
        )
        after = [Lua("nn.Dropout", p=0.5)] if dropout else []
        return [*before, average(7), Lua("nn.View", numElements=self.channels), *after, linear]


def resnet(
    class_name: Builder, depth: int, *, width: int = 1, groups: int = 1, base: int = 64, norm_after: bool = False
) -> Lua:
    """ResNet-18 to 152; WRN-50-2 with width 2, ResNeXt with groups; fb's own ResNet-50 file with `norm_after`."""
    model = sequential(*class_name.stem())
    for stage, count in enumerate(UNITS[depth]):
        units = []
        for k in range(count):
            stride, planes = 2 if stage > 0 and k == 0 else 1, 64 * 2**stage
            if depth < 50:
                units.append(class_name.basic(planes, stride))
            else:
                inner = planes * base // 64 * groups * width
                units.append(class_name.bottleneck(inner, planes * 4, stride, groups=groups, norm_after=norm_after))
        model.add(sequential(*units))
    return model.add(*class_name.head(norm=False))


def preresnet(class_name: Builder, depth: int) -> Lua:
    """fb's PreResNet-200: a stage's first unit shares its BN-ReLU, but in stage 1 it has none."""
    model = sequential(*class_name.stem())
    for stage, count in enumerate(UNITS[depth]):
        first = class_name.preact(64 * 2**stage, 2 if stage else 1, "both_preact" if stage else "no_preact")
        model.add(sequential(first, *(class_name.preact(64 * 2**stage, 1, "") for _ in range(count - 1))))
    return model.add(*class_name.head(norm=True))


def pyramidnet(class_name: Builder, depth: int, alpha: float) -> Lua:
    model = sequential(*class_name.stem())
    width = 64.0
    for stage, count in enumerate(UNITS[depth]):
        for k in range(count):
            width += alpha / sum(UNITS[depth])
            model.add(class_name.pyramid(math.floor(width + 0.5), 2 if stage > 0 and k == 0 else 1))
    return model.add(*class_name.head(norm=True, dropout=alpha == 450))


def sequential(*modules: Lua) -> Lua:
    return Lua("nn.Sequential").add(*modules)


def relu() -> Lua:
    return Lua("cudnn.ReLU", inplace=True)


def plus() -> Lua:
    return Lua("nn.CAddTable", inplace=True)


def average(size: int) -> Lua:
    return Lua("cudnn.SpatialAveragePooling", kW=size, kH=size, dW=2 if size == 2 else 1, dH=2 if size == 2 else 1)
