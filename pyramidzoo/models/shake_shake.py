"""Shake-shake regularised networks (Gastaldi 2017, "Shake-Shake regularization")."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import conv1x1, conv3x3
from pyramidzoo.models._interface import ImageClassifier, checked_choice

ForwardRule = Literal["shake", "even"]
BackwardRule = Literal["shake", "even", "keep"]
Level = Literal["image", "batch"]


class Branch(nn.Module):
    """ReLU-conv3x3-BN-ReLU-conv3x3-BN."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(F.relu(x))))
        return self.bn2(self.conv2(x))


class Shortcut(nn.Module):
    """ReLU, then half the channels from pixels (s*i, s*j), half from their neighbours by `offset`; BN.

    `offset` -1 shifts the map right and down under a zero row and column (Gastaldi), +1 left and up (hysts).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, offset: Literal[-1, 1]) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (-offset, offset, -offset, offset)
        self.conv1 = conv1x1(in_channels, out_channels // 2)
        self.conv2 = conv1x1(in_channels, out_channels // 2)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        here = x[:, :, :: self.stride, :: self.stride]
        beside = F.pad(x, self.padding)[:, :, :: self.stride, :: self.stride]
        return self.bn(torch.cat((self.conv1(here), self.conv2(beside)), dim=1))


class ShakeShakeUnit(nn.Module):
    """Shortcut + a * branch1 + (1 - a) * branch2, and a ReLU after the sum in pytorchcv only.

    In training a is drawn from U(0, 1), and the gradient passes with a number b of its own instead; in evaluation both
    are 0.5. `level` "image" draws for each image, "batch" for all at once.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        offset: Literal[-1, 1],
        last_relu: bool,
        rules: tuple[ForwardRule, BackwardRule, Level],
    ) -> None:
        super().__init__()
        self.forward_rule, self.backward_rule, self.level = rules
        self.last_relu = last_relu
        self.branch1 = Branch(in_channels, out_channels, stride)
        self.branch2 = Branch(in_channels, out_channels, stride)
        needed = in_channels != out_channels
        self.shortcut = Shortcut(in_channels, out_channels, stride, offset=offset) if needed else None

    def forward(self, x: Tensor) -> Tensor:
        y = self._mixed(self.branch1(x), self.branch2(x))
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return F.relu(y) if self.last_relu else y

    def _mixed(self, y1: Tensor, y2: Tensor) -> Tensor:
        if not self.training:
            return 0.5 * (y1 + y2)
        like = y1[:, :1, :1, :1] if self.level == "image" else y1[:1, :1, :1, :1]
        a = torch.rand_like(like) if self.forward_rule == "shake" else torch.full_like(like, 0.5)
        if self.backward_rule == "keep":
            return a * y1 + (1 - a) * y2
        b = torch.rand_like(like) if self.backward_rule == "shake" else torch.full_like(like, 0.5)
        seen = b * y1 + (1 - b) * y2
        # the value with a, the gradient with b: what is added has no gradient
        return seen + ((a - b) * (y1 - y2)).detach()


class CifarShakeShake(ImageClassifier):
    """Shake-shake of depth 6n+2 with 2 branches of `width` channels in stage 1: conv3x3-BN, n units a stage.

    `variant` says whose graph: "gastaldi" (16 stem channels, no ReLU but at the start of branches and at the end),
    "hysts" before 2020-04-18 (a stem of `width` channels with ReLU, no projection in stage 1, the other neighbours, no
    ReLU at the end), "pytorchcv" (16 stem channels with ReLU, a ReLU after every sum). Equal parameters hide other
    functions. The three rules are those of training, "S-S-I" in the tables. Raises ValueError for another depth.
    """

    free_arguments = ImageClassifier.free_arguments | {"forward_rule", "backward_rule", "level"}

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        variant: Literal["gastaldi", "hysts", "pytorchcv"] = "gastaldi",
        forward_rule: ForwardRule = "shake",
        backward_rule: BackwardRule = "shake",
        level: Level = "image",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=4 * width, drop_rate=drop_rate)
        n = _blocks.units_per_stage("A shake-shake network", depth, 2)
        checked_choice("variant", variant, "gastaldi", "hysts", "pytorchcv")
        checked_choice("forward_rule", forward_rule, "shake", "even")
        checked_choice("backward_rule", backward_rule, "shake", "even", "keep")
        checked_choice("level", level, "image", "batch")
        hysts = variant == "hysts"
        self.stem_relu, self.last_relu = variant != "gastaldi", not hysts
        stem = width if hysts else 16
        self.conv1 = conv3x3(in_chans, stem)
        self.bn1 = nn.BatchNorm2d(stem)

        def unit(channels: int, out: int, stride: int, stage: int, k: int) -> nn.Module:
            return ShakeShakeUnit(
                channels,
                out,
                stride=stride,
                offset=1 if hysts else -1,
                last_relu=variant == "pytorchcv",
                rules=(forward_rule, backward_rule, level),
            )

        self._add_stages((n, n, n), (width, 2 * width, 4 * width), unit, channels=stem, reduction=1)
        self._complete("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self._stages(F.relu(x) if self.stem_relu else x)
        return F.relu(x) if self.last_relu else x
