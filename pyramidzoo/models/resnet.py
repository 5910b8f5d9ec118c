"""Residual networks with post-activation (He et al. 2015, "Deep Residual Learning for Image Recognition").

The parameters have torchvision's names, so torchvision's files for ImageNet networks load without a
conversion.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from pyramidzoo.models._blocks import conv3x3, conv7x7, count_cifar_blocks, get_imagenet_blocks_per_stage
from pyramidzoo.models._interface import check_choice, make_classifier
from pyramidzoo.models._postact import BasicBlock, Bottleneck, ImagePostActNet, PostActNet


class CifarResNet(PostActNet):
    """ResNet of basic blocks for 32x32 images: conv3x3-BN-ReLU, three stages of 16, 32, 64 channels.

    Args:
        depth: 6n+2 for n blocks in each stage.
        shortcut: Option "A" or "B" of He et al. "A" adds zero channels, half of them in front of the
            channels of the input and half behind, as akamaster's code does. "B" is conv1x1-BN.
        transition: Which convolution gives the map half the height and twice the channels: the "first"
            one of a stage (He et al.), or the "last" one of the stage before (fattorib/ResNets-CIFAR10).
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: There is no network of this depth, or an argument has a value that is not listed above.
    """

    def __init__(
        self,
        *,
        depth: int,
        shortcut: Literal["A", "B"] = "A",
        transition: Literal["first", "last"] = "first",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=64, drop_rate=drop_rate)
        check_choice("shortcut", shortcut, "A", "B")
        check_choice("transition", transition, "first", "last")
        blocks_per_stage = count_cifar_blocks("A CIFAR ResNet", depth, 2)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)
        channels, reduction = 16, 1
        for width, next_width in ((16, 32), (32, 64), (64, 64)):  # channels of a stage and of the next stage
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                # The stride is 2 exactly where the number of channels doubles, so their quotient is the stride.
                if transition == "first":
                    out_channels, strides = width, (width // channels, 1)
                else:
                    out_channels = next_width if index == blocks_per_stage - 1 else width
                    strides = (1, out_channels // width)
                blocks.append(
                    BasicBlock(channels, out_channels, inner_channels=width, strides=strides, shortcut=shortcut)
                )
                channels = out_channels
                reduction *= strides[0] * strides[1]
            self._add_stage(blocks, channels=channels, reduction=reduction)
        self.fc = make_classifier(64, num_classes)
        # fattorib's code initialises the weights with fan-in; He et al. and fb.resnet.torch use fan-out.
        self._init_weights("fan_out" if transition == "first" else "fan_in")


class CifarBottleneckResNet(PostActNet):
    """ResNet of bottlenecks for 32x32 images: conv3x3-BN-ReLU, three stages of 64, 128, 256 channels.

    The 3x3 convolution is strided. The shortcut is conv1x1-BN if a block changes the shape of the map.

    Args:
        depth: 9n+2 for n blocks in each stage.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: There is no network of this depth.
    """

    def __init__(self, *, depth: int, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__(num_classes=num_classes, num_features=256, drop_rate=drop_rate)
        blocks_per_stage = count_cifar_blocks("A CIFAR ResNet of bottlenecks", depth, 3)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((64, 128, 256)):
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Bottleneck(channels, width, inner_channels=width // 4, stride=stride))
                channels = width
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.fc = make_classifier(256, num_classes)
        self._init_weights("fan_out")


class ImageResNet(ImagePostActNet):
    """ResNet for 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four stages of 64, 128, 256, 512 channels.

    Args:
        depth: Number of convolutions and linear layers.
        bottleneck: Whether the blocks are bottlenecks, with four times as many channels, or basic blocks.
        stride_in: Which convolution of a bottleneck is strided: the first "1x1" or the "3x3".
        width: Factor for the channels of the stem and of all blocks except the very last one, as in
            pytorchcv.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: Nobody published a network of this depth, or `stride_in` is neither "1x1" nor "3x3".
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        stride_in: Literal["1x1", "3x3"] = "3x3",
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        blocks_per_stage = get_imagenet_blocks_per_stage("An ImageNet ResNet", depth, bottleneck)
        num_features = 2048 if bottleneck else 512
        super().__init__(num_classes=num_classes, num_features=num_features, drop_rate=drop_rate)
        channels = int(64 * width)
        self.conv1 = conv7x7(in_chans, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, block_count in enumerate(blocks_per_stage):
            blocks: list[nn.Module] = []
            for index in range(block_count):
                stride = 2 if stage > 0 and index == 0 else 1
                is_last_block = stage == 3 and index == block_count - 1
                stage_width = int(64 * 2**stage * width) * (4 if bottleneck else 1)
                out_channels = num_features if is_last_block else stage_width
                if bottleneck:
                    blocks.append(
                        Bottleneck(
                            channels, out_channels, inner_channels=out_channels // 4, stride=stride, stride_in=stride_in
                        )
                    )
                else:
                    blocks.append(BasicBlock(channels, out_channels, strides=(stride, 1)))
                channels = out_channels
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.fc = make_classifier(num_features, num_classes)
        self._init_weights("fan_out")
