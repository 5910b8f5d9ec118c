"""Pre-activation residual networks (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""

from __future__ import annotations

from typing import Literal

from torch import nn

from pyramidzoo.models._blocks import conv3x3, conv7x7, count_cifar_blocks, get_imagenet_blocks_per_stage
from pyramidzoo.models._interface import check_choice, make_classifier
from pyramidzoo.models._preact import ImagePreActNet, PreActBlock, PreActBottleneck, PreActNet


class CifarPreResNet(PreActNet):
    """PreResNet of basic blocks for 32x32 images: conv3x3, three stages of 16, 32, 64 channels, BN-ReLU.

    Args:
        depth: 6n+2 for n blocks in each stage.
        width: Factor for the channels of the stem and of the stages.
        shortcut: The shortcut of a block that changes the number of channels. "B" is a conv1x1 without
            BN. "A" adds zero channels behind the others.
        shared_stages: For each stage, whether the shortcut of its first block reads the output of the
            first BN-ReLU, as the convolution does. Otherwise it reads the input of the block. All three
            are True in He et al., fb.resnet.torch and hysts' default. Only the first one is in most
            networks of hysts' ablation study. Only the second and the third are in pytorchcv.
        first_relu: Whether a ReLU follows the first BN of each block. Some networks of hysts' ablation
            study have none.
        last_bn: Whether a BN follows the last convolution of each block, as in hysts' ablation study.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: There is no network of this depth, or `shortcut` is neither "A" nor "B".
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int = 1,
        shortcut: Literal["A", "B"] = "B",
        shared_stages: tuple[bool, bool, bool] = (True, True, True),
        first_relu: bool = True,
        last_bn: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=64 * width, drop_rate=drop_rate)
        check_choice("shortcut", shortcut, "A", "B")
        blocks_per_stage = count_cifar_blocks("A CIFAR PreResNet", depth, 2)
        self.conv1 = conv3x3(in_chans, 16 * width)
        channels = 16 * width
        for stage, out_channels in enumerate((16 * width, 32 * width, 64 * width)):
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                block = PreActBlock(
                    channels,
                    out_channels,
                    stride=2 if stage > 0 and index == 0 else 1,
                    shared=index == 0 and shared_stages[stage],
                    projection=shortcut == "B",
                    first_relu=first_relu,
                    last_bn=last_bn,
                )
                blocks.append(block)
                channels = out_channels
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.norm = nn.BatchNorm2d(64 * width)
        self.fc = make_classifier(64 * width, num_classes)
        self._init_weights("fan_out")


class CifarBottleneckPreResNet(PreActNet):
    """PreResNet of bottlenecks for 32x32 images: conv3x3, three stages of 64, 128, 256 channels, BN-ReLU.

    Args:
        depth: 9n+2 for n blocks in each stage.
        stride_in: Which convolution is strided: the first "1x1" (He et al.) or the "3x3"
            (fb.resnet.torch, pytorchcv).
        first_width: Output channels of the first stage. hysts' networks have 16, as many as the stem.
        shared_stages: For each stage, whether the shortcut of its first block reads the output of the
            first BN-ReLU, as the convolution does. Otherwise it reads the input of the block, as in
            all stages of bearpaw's networks.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: There is no network of this depth, or `stride_in` is neither "1x1" nor "3x3".
    """

    def __init__(
        self,
        *,
        depth: int,
        stride_in: Literal["1x1", "3x3"] = "1x1",
        first_width: int = 64,
        shared_stages: tuple[bool, bool, bool] = (True, True, True),
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=256, drop_rate=drop_rate)
        blocks_per_stage = count_cifar_blocks("A CIFAR PreResNet of bottlenecks", depth, 3)
        self.conv1 = conv3x3(in_chans, 16)
        channels = 16
        for stage, width in enumerate((first_width, 128, 256)):
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                shared = index == 0 and shared_stages[stage]
                blocks.append(PreActBottleneck(channels, width, stride=stride, shared=shared, stride_in=stride_in))
                channels = width
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.norm = nn.BatchNorm2d(256)
        self.fc = make_classifier(256, num_classes)
        self._init_weights("fan_out")


class ImagePreResNet(ImagePreActNet):
    """PreResNet for 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four stages of 64 to 512 channels, BN-ReLU.

    If a block changes the number of channels, its shortcut reads the output of the first BN-ReLU.

    Args:
        depth: Number of convolutions and linear layers.
        bottleneck: Whether the blocks are bottlenecks, with four times as many channels, or basic blocks.
        stride_in: Which convolution of a bottleneck is strided: the first "1x1" or the "3x3".
        first_bn: Whether the first bottleneck of the network begins with a BN, as in pytorchcv. In
            fb.resnet.torch it does not, because the stem ends with a BN.
        width: Factor for the channels of the stem and of all blocks except the very last one.
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
        first_bn: bool = True,
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        blocks_per_stage = get_imagenet_blocks_per_stage("An ImageNet PreResNet", depth, bottleneck)
        num_features = 2048 if bottleneck else 512
        super().__init__(num_classes=num_classes, num_features=num_features, drop_rate=drop_rate)
        channels = int(64 * width)
        self.conv1 = conv7x7(in_chans, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, block_count in enumerate(blocks_per_stage):
            blocks: list[nn.Module] = []
            for index in range(block_count):
                stride = 2 if stage > 0 and index == 0 else 1
                is_first_block = stage == 0 and index == 0
                is_last_block = stage == 3 and index == block_count - 1
                stage_width = int(64 * 2**stage * width) * (4 if bottleneck else 1)
                out_channels = num_features if is_last_block else stage_width
                shared = channels != out_channels
                block: nn.Module
                if bottleneck:
                    has_bn = first_bn or not is_first_block
                    block = PreActBottleneck(
                        channels, out_channels, stride=stride, shared=shared, stride_in=stride_in, first_bn=has_bn
                    )
                else:
                    block = PreActBlock(channels, out_channels, stride=stride, shared=shared)
                blocks.append(block)
                channels = out_channels
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.norm = nn.BatchNorm2d(num_features)
        self.fc = make_classifier(num_features, num_classes)
        self._init_weights("fan_out")
