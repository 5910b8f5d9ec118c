"""Squeeze-and-excitation networks (Hu et al. 2018, "Squeeze-and-Excitation Networks").

Each block scales the channels of its branch before the shortcut is added. The parameters of the
post-activation networks have timm's names, so timm's files for ImageNet networks load without a conversion.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models import _blocks
from pyramidzoo.models._blocks import compute_grouped_width, conv3x3, conv7x7
from pyramidzoo.models._interface import make_classifier
from pyramidzoo.models._postact import BasicBlock, Bottleneck, ImagePostActNet, PostActNet
from pyramidzoo.models._preact import ImagePreActNet, PreActBlock, PreActBottleneck, PreActNet


class CifarSEResNet(PostActNet):
    """SE-ResNet for 32x32 images: conv3x3-BN-ReLU, three stages. The graph is pytorchcv's.

    Args:
        depth: 6n+2 for n basic blocks in each stage, 9n+2 for n bottlenecks.
        bottleneck: Whether blocks are bottlenecks (64, 128, 256 channels) or basic blocks (16, 32, 64).
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: There is no network of this depth.
    """

    def __init__(
        self, *, depth: int, bottleneck: bool = False, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        widths = (64, 128, 256) if bottleneck else (16, 32, 64)
        super().__init__(num_classes=num_classes, num_features=widths[-1], drop_rate=drop_rate)
        blocks_per_stage = _blocks.count_cifar_blocks("A CIFAR SE-ResNet", depth, 3 if bottleneck else 2)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate(widths):
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                if bottleneck:
                    blocks.append(Bottleneck(channels, width, inner_channels=width // 4, stride=stride, se=True))
                else:
                    blocks.append(BasicBlock(channels, width, strides=(stride, 1), se=True))
                channels = width
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.fc = make_classifier(channels, num_classes)
        self._init_weights("fan_out")


class CifarSEPreResNet(PreActNet):
    """SE-PreResNet for 32x32 images: conv3x3-BN-ReLU and three stages. No BN or ReLU follows them.

    The graph is pytorchcv's. Arguments and errors are those of `CifarSEResNet`.
    """

    def __init__(
        self, *, depth: int, bottleneck: bool = False, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        widths = (64, 128, 256) if bottleneck else (16, 32, 64)
        super().__init__(num_classes=num_classes, num_features=widths[-1], drop_rate=drop_rate)
        blocks_per_stage = _blocks.count_cifar_blocks("A CIFAR SE-PreResNet", depth, 3 if bottleneck else 2)
        self.conv1 = conv3x3(in_chans, 16)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate(widths):
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                blocks.append(_make_preact_block(channels, width, 2 if stage > 0 and index == 0 else 1, bottleneck))
                channels = width
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.fc = make_classifier(channels, num_classes)
        self._init_weights("fan_out")

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, h, w) of images (N, in_chans, H, W)."""
        return self._run_stages(F.relu(self.bn1(self.conv1(x))))


class ImageSEResNet(ImagePostActNet):
    """SE-ResNet or SE-ResNeXt for 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four stages.

    Args:
        depth: Number of convolutions and linear layers without those of squeeze-and-excitation.
        bottleneck: Whether blocks are bottlenecks (256 to 2048 channels) or basic blocks (64 to 512).
        stride_in: Which convolution of a bottleneck is strided: the first "1x1" (the authors' Caffe
            networks) or the "3x3" (timm).
        cardinality: Groups of each 3x3 convolution in bottlenecks; more than one in SE-ResNeXt.
        base_width: Channels of each group in the first stage.
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
        cardinality: int = 1,
        base_width: int = 64,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        blocks_per_stage = _blocks.get_imagenet_blocks_per_stage("An ImageNet SE-ResNet", depth, bottleneck)
        num_features = 2048 if bottleneck else 512
        super().__init__(num_classes=num_classes, num_features=num_features, drop_rate=drop_rate)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, block_count in enumerate(blocks_per_stage):
            width = 64 * 2**stage * (4 if bottleneck else 1)
            inner_channels = compute_grouped_width(width, cardinality, base_width)
            blocks: list[nn.Module] = []
            for index in range(block_count):
                stride = 2 if stage > 0 and index == 0 else 1
                block: nn.Module
                if bottleneck:
                    block = Bottleneck(
                        channels,
                        width,
                        inner_channels=inner_channels,
                        stride=stride,
                        groups=cardinality,
                        stride_in=stride_in,
                        se=True,
                    )
                else:
                    block = BasicBlock(channels, width, strides=(stride, 1), se=True)
                blocks.append(block)
                channels = width
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.fc = make_classifier(channels, num_classes)
        self._init_weights("fan_out")


class ImageSEPreResNet(ImagePreActNet):
    """SE-PreResNet for 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four stages, BN-ReLU.

    The graph is pytorchcv's. A bottleneck is strided in its 3x3 convolution. The arguments have the same
    meaning as in `ImageSEResNet`, and the errors are the same.
    """

    def __init__(
        self,
        *,
        depth: int,
        bottleneck: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        blocks_per_stage = _blocks.get_imagenet_blocks_per_stage("An ImageNet SE-PreResNet", depth, bottleneck)
        num_features = 2048 if bottleneck else 512
        super().__init__(num_classes=num_classes, num_features=num_features, drop_rate=drop_rate)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, block_count in enumerate(blocks_per_stage):
            width = 64 * 2**stage * (4 if bottleneck else 1)
            blocks: list[nn.Module] = []
            for index in range(block_count):
                blocks.append(_make_preact_block(channels, width, 2 if stage > 0 and index == 0 else 1, bottleneck))
                channels = width
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.norm = nn.BatchNorm2d(channels)
        self.fc = make_classifier(channels, num_classes)
        self._init_weights("fan_out")


class SENet(ImagePostActNet):
    """SENet-154 and smaller networks: a stem of three conv3x3, 3x3 max pooling, four stages of bottlenecks.

    From the second stage on, shortcuts with parameters are 3x3 convolutions. The first 1x1 convolution of
    a block has half as many output channels as the grouped 3x3 convolution.

    Args:
        depth: 3n+4 for n blocks: all convolutions and linear layers without those of
            squeeze-and-excitation.
        cardinality: Groups of each 3x3 convolution.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier (the authors use 0.2).

    Raises:
        ValueError: Nobody published a network of this depth.
    """

    stem_name = "conv1.0"

    def __init__(
        self, *, depth: int, cardinality: int, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=2048, drop_rate=drop_rate)
        # The stem has two convolutions more than that of a ResNet. The function expects the depth of a ResNet.
        network = "A SENet (two layers of stem left out)"
        blocks_per_stage = _blocks.get_imagenet_blocks_per_stage(network, depth - 2, bottleneck=True)
        self.conv1 = nn.Sequential(
            conv3x3(in_chans, 64, 2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            conv3x3(64, 64),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            conv3x3(64, 128),
        )
        self.bn1 = nn.BatchNorm2d(128)
        channels = 128
        for stage, block_count in enumerate(blocks_per_stage):
            width = 256 * 2**stage
            inner_channels = compute_grouped_width(width, cardinality, 4)
            blocks: list[nn.Module] = []
            for index in range(block_count):
                block = Bottleneck(
                    channels,
                    width,
                    inner_channels=inner_channels,
                    first_channels=inner_channels // 2,
                    stride=2 if stage > 0 and index == 0 else 1,
                    groups=cardinality,
                    se=True,
                    shortcut_kernel=3 if stage > 0 else 1,
                )
                blocks.append(block)
                channels = width
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.fc = make_classifier(2048, num_classes)
        self._init_weights("fan_out")


def _make_preact_block(in_channels: int, out_channels: int, stride: int, bottleneck: bool) -> nn.Module:
    """Make a pre-activation block with squeeze-and-excitation. A bottleneck is strided in its 3x3 convolution."""
    shared = in_channels != out_channels
    if bottleneck:
        return PreActBottleneck(in_channels, out_channels, stride=stride, shared=shared, stride_in="3x3", se=True)
    return PreActBlock(in_channels, out_channels, stride=stride, shared=shared, se=True)
