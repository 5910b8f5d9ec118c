"""Wide residual networks (Zagoruyko & Komodakis 2016, "Wide Residual Networks")."""

from __future__ import annotations

from torch import nn

from pyramidzoo.models._blocks import conv3x3, conv7x7, get_imagenet_blocks_per_stage
from pyramidzoo.models._interface import check_drop_rate, make_classifier
from pyramidzoo.models._postact import Bottleneck, ImagePostActNet
from pyramidzoo.models._preact import PreActBlock, PreActNet


class WideResNet(PreActNet):
    """WRN-depth-width for 32x32 images: conv3x3, three stages of pre-activation blocks, BN-ReLU.

    The stages have 16, 32 and 64 channels times `width`. If a block changes the number of channels, its
    shortcut is a conv1x1 that reads the output of the first BN-ReLU. Otherwise the shortcut is the input
    of the block.

    Args:
        depth: 6n+4 for n blocks in each stage.
        width: Factor for the numbers of channels of the stages.
        drop_rate: Probability of dropout between the two convolutions of a block, after the second
            BN-ReLU. The authors use 0.3 on CIFAR and 0.4 on SVHN.
        num_classes: Number of classes.
        in_chans: Channels of the images.

    Raises:
        ValueError: There is no network of this depth.
    """

    def __init__(
        self, *, depth: int, width: int, drop_rate: float = 0.0, num_classes: int = 10, in_chans: int = 3
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=64 * width)
        blocks_per_stage, remaining_layers = divmod(depth - 4, 6)
        if remaining_layers or blocks_per_stage < 1:
            raise ValueError(f"A wide ResNet has no depth {depth}: it must be 6n+4 with n >= 1")
        check_drop_rate(drop_rate)
        self.conv1 = conv3x3(in_chans, 16)
        channels = 16
        for stage, out_channels in enumerate((16 * width, 32 * width, 64 * width)):
            blocks: list[nn.Module] = []
            for index in range(blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    PreActBlock(
                        channels, out_channels, stride=stride, shared=channels != out_channels, drop_rate=drop_rate
                    )
                )
                channels = out_channels
            self._add_stage(blocks, channels=channels, reduction=2**stage)
        self.norm = nn.BatchNorm2d(64 * width)
        self.fc = make_classifier(64 * width, num_classes)
        self._init_weights("fan_in")
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # The authors trained with Torch7, which draws the initial scales of BN from U(0, 1). Their PyTorch
                # code does the same explicitly.
                nn.init.uniform_(module.weight)


class ImageWideResNet(ImagePostActNet):
    """Wide ResNet for 224x224 images: the ResNet of bottlenecks with wider 3x3 convolutions.

    The blocks have 256 to 2048 output channels, as in the ResNet. The 3x3 convolution is strided. The
    parameters have torchvision's names, so torchvision's files load without a conversion.

    Args:
        depth: Number of convolutions and linear layers.
        width: Factor for the channels between the 1x1 convolutions of a block.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.

    Raises:
        ValueError: Nobody published a network of this depth.
    """

    def __init__(
        self, *, depth: int, width: int, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=2048, drop_rate=drop_rate)
        blocks_per_stage = get_imagenet_blocks_per_stage("An ImageNet wide ResNet", depth, bottleneck=True)
        self.conv1 = conv7x7(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, block_count in enumerate(blocks_per_stage):
            out_channels = 256 * 2**stage
            blocks: list[nn.Module] = []
            for index in range(block_count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    Bottleneck(channels, out_channels, inner_channels=out_channels // 4 * width, stride=stride)
                )
                channels = out_channels
            self._add_stage(blocks, channels=channels, reduction=4 * 2**stage)
        self.fc = make_classifier(2048, num_classes)
        self._init_weights("fan_in")
