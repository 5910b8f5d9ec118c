"""Shake-shake networks (Gastaldi 2017, "Shake-Shake regularization")."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import conv1x1, conv3x3, count_cifar_blocks
from pyramidzoo.models._interface import ImageClassifier, check_choice, make_classifier

ForwardRule = Literal["shake", "even"]
BackwardRule = Literal["shake", "even", "keep"]
Level = Literal["image", "batch"]


class Branch(nn.Module):
    """One of the two branches of a block: ReLU-conv3x3-BN-ReLU-conv3x3-BN.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of both convolutions.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Turn a map (N, in_channels, H, W) into a map (N, out_channels, H / stride, W / stride)."""
        x = F.relu(self.bn1(self.conv1(F.relu(x))))
        return self.bn2(self.conv2(x))


class Shortcut(nn.Module):
    """The shortcut of a block that changes the number of channels: ReLU, two conv1x1, and BN.

    Each convolution computes half of the output channels. The first one reads every `stride`-th pixel of
    each row and column. The second one reads a diagonal neighbour of each of these pixels.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the block.
        offset: -1 takes the neighbour above and to the left (Gastaldi), +1 the neighbour below and to
            the right (hysts). A neighbour outside the map is zero.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, offset: Literal[-1, 1]) -> None:
        super().__init__()
        self.stride = stride
        # The numbers of columns and rows that `F.pad` adds: left, right, top, bottom. A negative number removes some.
        # With offset -1, one row and column of zeros come in front. So each pixel moves down and to the right by one,
        # and the neighbour above and to the left stands in its place.
        self.padding = (-offset, offset, -offset, offset)
        self.conv1 = conv1x1(in_channels, out_channels // 2)
        self.conv2 = conv1x1(in_channels, out_channels // 2)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Turn a map (N, in_channels, H, W) into a map (N, out_channels, H / stride, W / stride)."""
        x = F.relu(x)
        pixels = x[:, :, :: self.stride, :: self.stride]
        neighbours = F.pad(x, self.padding)[:, :, :: self.stride, :: self.stride]
        return self.bn(torch.cat((self.conv1(pixels), self.conv2(neighbours)), dim=1))


class ShakeShakeBlock(nn.Module):
    """A block of two branches: a * branch1 + (1 - a) * branch2, plus the shortcut.

    In training, a is a random number from U(0, 1). The gradients of the branches are computed with another
    random number b in the place of a. In evaluation a is 0.5.

    Maps (N, in_channels, H, W) become (N, out_channels, H / stride, W / stride).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the branches and of the shortcut.
        offset: Which neighbours the shortcut reads, see `Shortcut`.
        last_relu: Whether a ReLU follows the sum, as in pytorchcv.
        forward_rule: How training chooses a: "shake" draws it, "even" takes 0.5.
        backward_rule: How training chooses b: "shake" draws it, "even" takes 0.5, "keep" takes a.
        level: Whether each "image" has its own random numbers, or the whole "batch" has the same.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        offset: Literal[-1, 1],
        last_relu: bool,
        forward_rule: ForwardRule,
        backward_rule: BackwardRule,
        level: Level,
    ) -> None:
        super().__init__()
        self.forward_rule, self.backward_rule, self.level = forward_rule, backward_rule, level
        self.last_relu = last_relu
        self.branch1 = Branch(in_channels, out_channels, stride)
        self.branch2 = Branch(in_channels, out_channels, stride)
        has_shortcut = in_channels != out_channels
        self.shortcut = Shortcut(in_channels, out_channels, stride, offset=offset) if has_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on a map (N, in_channels, H, W)."""
        y = self._mix(self.branch1(x), self.branch2(x))
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return F.relu(y) if self.last_relu else y

    def _mix(self, y1: Tensor, y2: Tensor) -> Tensor:
        """Mix the results of the two branches, maps (N, C, H, W). The class says what a and b are."""
        if not self.training:
            return 0.5 * (y1 + y2)
        # One element for each image, (N, 1, 1, 1), or one for the batch, (1, 1, 1, 1). Only its shape, device and dtype
        # are used: the random numbers have the same.
        like = y1[:, :1, :1, :1] if self.level == "image" else y1[:1, :1, :1, :1]
        a = torch.rand_like(like) if self.forward_rule == "shake" else torch.full_like(like, 0.5)
        if self.backward_rule == "keep":
            return a * y1 + (1 - a) * y2
        b = torch.rand_like(like) if self.backward_rule == "shake" else torch.full_like(like, 0.5)
        mixed_with_b = b * y1 + (1 - b) * y2
        # a * y1 + (1 - a) * y2 equals mixed_with_b + (a - b) * (y1 - y2). `detach` removes the gradient of the second
        # term. So the value is the mixture with a, and the gradient is that of the mixture with b.
        return mixed_with_b + ((a - b) * (y1 - y2)).detach()


class CifarShakeShake(ImageClassifier):
    """Shake-shake network of two branches for 32x32 images: conv3x3-BN, three stages.

    There are three variants. "gastaldi" has a stem of 16 channels without ReLU, and a ReLU after the last
    stage. "hysts" (his code before 2020-04-18) has a stem of `width` channels with ReLU, so the first stage
    needs no shortcut with parameters; its shortcuts read the neighbours below and to the right; it has no
    ReLU after the last stage. "pytorchcv" has a stem of 16 channels with ReLU, and a ReLU after every sum.

    Args:
        depth: 6n+2 for n blocks in each stage.
        width: Channels of each branch in the first stage.
        variant: Whose code the network follows.
        forward_rule: How training mixes the branches in the forward pass; see `ShakeShakeBlock`.
        backward_rule: How training mixes the gradients of the branches; see `ShakeShakeBlock`.
        level: Whether each "image" has its own random numbers, or the whole "batch" has the same.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: There is no network of this depth, or an argument has a value that is not listed above.
    """

    overridable_arguments = ImageClassifier.overridable_arguments | {"forward_rule", "backward_rule", "level"}

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
        blocks_per_stage = count_cifar_blocks("A shake-shake network", depth, 2)
        check_choice("variant", variant, "gastaldi", "hysts", "pytorchcv")
        check_choice("forward_rule", forward_rule, "shake", "even")
        check_choice("backward_rule", backward_rule, "shake", "even", "keep")
        check_choice("level", level, "image", "batch")
        self.stem_relu = variant != "gastaldi"
        self.last_relu = variant != "hysts"
        channels = width if variant == "hysts" else 16
        self.conv1 = conv3x3(in_chans, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, out_channels in enumerate((width, 2 * width, 4 * width)):
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                block = ShakeShakeBlock(
                    channels,
                    out_channels,
                    stride=2 if stage > 0 and index == 0 else 1,
                    offset=1 if variant == "hysts" else -1,
                    last_relu=variant == "pytorchcv",
                    forward_rule=forward_rule,
                    backward_rule=backward_rule,
                    level=level,
                )
                blocks.append(block)
                channels = out_channels
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.fc = make_classifier(4 * width, num_classes)
        self._init_weights("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        x = self.bn1(self.conv1(x))
        x = self._run_stages(F.relu(x) if self.stem_relu else x)
        return F.relu(x) if self.last_relu else x
