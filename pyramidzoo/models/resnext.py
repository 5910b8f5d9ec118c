"""ResNeXt (Xie et al. 2017, "Aggregated Residual Transformations for Deep Neural Networks").

The blocks are post-activation, as in the authors' code, facebookresearch/ResNeXt. The CIFAR networks of
the paper were pre-activation. The parameters have torchvision's names, so torchvision's files for
ImageNet networks load without a conversion.
"""

from __future__ import annotations

from torch import nn

from pyramidzoo.models._blocks import (
    compute_grouped_width,
    conv3x3,
    conv7x7,
    count_cifar_blocks,
    get_imagenet_blocks_per_stage,
)
from pyramidzoo.models._interface import make_classifier
from pyramidzoo.models._postact import Bottleneck, ImagePostActNet, PostActNet


class CifarResNeXt(PostActNet):
    """ResNeXt for 32x32 images: conv3x3-BN-ReLU, three stages of 256, 512, 1024 channels.

    Args:
        depth: 9n+2 for n blocks in each stage.
        cardinality: Groups of each 3x3 convolution.
        base_width: Channels of each group in the first stage.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: There is no network of this depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        cardinality: int,
        base_width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=1024, drop_rate=drop_rate)
        blocks_per_stage = count_cifar_blocks("A CIFAR ResNeXt", depth, 3)
        self.conv1 = conv3x3(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, width in enumerate((256, 512, 1024)):
            inner_channels = compute_grouped_width(width, cardinality, base_width)
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    Bottleneck(channels, width, inner_channels=inner_channels, stride=stride, groups=cardinality)
                )
                channels = width
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.fc = make_classifier(1024, num_classes)
        self._init_weights("fan_out")


class ImageResNeXt(ImagePostActNet):
    """ResNeXt for 224x224 images: conv7x7-BN-ReLU, 3x3 max pooling, four stages of 256 to 2048 channels.

    Args:
        depth: Number of convolutions and linear layers.
        cardinality: Groups of each 3x3 convolution.
        base_width: Channels of each group in the first stage.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: Nobody published a network of this depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        cardinality: int,
        base_width: int,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=2048, drop_rate=drop_rate)
        blocks_per_stage = get_imagenet_blocks_per_stage("An ImageNet ResNeXt", depth, bottleneck=True)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, block_count in enumerate(blocks_per_stage):
            width = 256 * 2**stage
            inner_channels = compute_grouped_width(width, cardinality, base_width)
            blocks: list[nn.Module] = []
            for index in range(block_count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    Bottleneck(channels, width, inner_channels=inner_channels, stride=stride, groups=cardinality)
                )
                channels = width
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.fc = make_classifier(2048, num_classes)
        self._init_weights("fan_out")
