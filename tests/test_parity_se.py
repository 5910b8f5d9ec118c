"""ResNeXts and squeeze-and-excitation networks against other implementations with the same tensors.

Two blocks a stage are their first one and one like all others. At 17 and 33 pixels every map that is halved is odd.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm.models.resnet
import torchvision.models.resnet
from parity import Mode, Row, compare, each, pcv, peer, twice
from pytorchcv.models.resnext import ResNeXt
from pytorchcv.models.resnext_cifar import CIFARResNeXt
from pytorchcv.models.senet import SENet as PcvSENet
from pytorchcv.models.sepreresnet import SEPreResNet
from pytorchcv.models.sepreresnet_cifar import CIFARSEPreResNet
from pytorchcv.models.seresnet import SEResNet
from pytorchcv.models.seresnet_cifar import CIFARSEResNet
from pytorchcv.models.seresnext import SEResNeXt

from pyramidzoo.models.resnext import CifarResNeXt, ImageResNeXt
from pyramidzoo.models.senet import CifarSEPreResNet, CifarSEResNet, ImageSEPreResNet, ImageSEResNet, SENet

pytestmark = pytest.mark.every_network

PAIRS = [2, 2, 2, 2]
CIFAR, CIFAR_BOTTLENECK = twice(16, 32, 64), twice(64, 128, 256)
BASIC, BOTTLENECK = twice(64, 128, 256, 512), twice(256, 512, 1024, 2048)


def timm_network(**arguments: Any) -> timm.models.resnet.ResNet:
    module = timm.models.resnet
    return module.ResNet(module.Bottleneck, PAIRS, num_classes=10, **arguments)


SE = {"attn_layer": "se"}

ROWS = {
    "resnext_cifar-pytorchcv": Row(
        lambda: CifarResNeXt(depth=20, cardinality=4, base_width=16),
        pcv(CIFARResNeXt, twice(256, 512, 1024), 64, cardinality=4, bottleneck_width=16),
        16,
    ),
    # groups whose number and width are odd
    "resnext_cifar-pytorchcv-odd": Row(
        lambda: CifarResNeXt(depth=20, cardinality=3, base_width=5),
        pcv(CIFARResNeXt, twice(256, 512, 1024), 64, cardinality=3, bottleneck_width=5),
        17,
    ),
    "resnext-torchvision-odd": Row(
        lambda: ImageResNeXt(depth=26, cardinality=4, base_width=8, num_classes=10),
        peer(
            lambda: torchvision.models.resnet.ResNet(
                torchvision.models.resnet.Bottleneck, PAIRS, num_classes=10, groups=4, width_per_group=8
            ),
            by_name=True,
        ),
        33,
    ),
    "resnext-timm": Row(
        lambda: ImageResNeXt(depth=26, cardinality=4, base_width=8, num_classes=10),
        peer(lambda: timm_network(cardinality=4, base_width=8), by_name=True),
        40,
    ),
    "resnext-pytorchcv": Row(
        lambda: ImageResNeXt(depth=26, cardinality=4, base_width=8, num_classes=10),
        pcv(ResNeXt, BOTTLENECK, 64, cardinality=4, bottleneck_width=8, num_classes=10),
        33,
        ("eval",),
    ),
    "seresnet_cifar-pytorchcv": Row(
        lambda: CifarSEResNet(depth=14), pcv(CIFARSEResNet, CIFAR, 16, bottleneck=False), 32
    ),
    "seresnet_cifar-pytorchcv-odd": Row(
        lambda: CifarSEResNet(depth=14), pcv(CIFARSEResNet, CIFAR, 16, bottleneck=False), 33
    ),
    "seresnet_cifar_bottleneck-pytorchcv-odd": Row(
        lambda: CifarSEResNet(depth=20, bottleneck=True),
        pcv(CIFARSEResNet, CIFAR_BOTTLENECK, 16, bottleneck=True),
        17,
    ),
    "sepreresnet_cifar-pytorchcv": Row(
        lambda: CifarSEPreResNet(depth=14), pcv(CIFARSEPreResNet, CIFAR, 16, bottleneck=False), 32
    ),
    "sepreresnet_cifar_bottleneck-pytorchcv-odd": Row(
        lambda: CifarSEPreResNet(depth=20, bottleneck=True),
        pcv(CIFARSEPreResNet, CIFAR_BOTTLENECK, 16, bottleneck=True),
        17,
    ),
    "seresnet-pytorchcv": Row(
        lambda: ImageSEResNet(depth=18, num_classes=10),
        pcv(SEResNet, BASIC, 64, bottleneck=False, conv1_stride=False, num_classes=10),
        33,
    ),
    "seresnet_bottleneck-pytorchcv": Row(
        lambda: ImageSEResNet(depth=26, bottleneck=True, num_classes=10),
        pcv(SEResNet, BOTTLENECK, 64, bottleneck=True, conv1_stride=False, num_classes=10),
        33,
        ("eval",),
    ),
    "seresnet_bottleneck-timm": Row(
        lambda: ImageSEResNet(depth=26, bottleneck=True, num_classes=10),
        peer(lambda: timm_network(block_args=SE), by_name=True),
        40,
    ),
    "seresnet_s1-pytorchcv-odd": Row(
        lambda: ImageSEResNet(depth=26, bottleneck=True, stride_in="1x1", num_classes=10),
        pcv(SEResNet, BOTTLENECK, 64, bottleneck=True, conv1_stride=True, num_classes=10),
        33,
    ),
    "seresnext-timm": Row(
        lambda: ImageSEResNet(depth=26, bottleneck=True, cardinality=4, base_width=8, num_classes=10),
        peer(lambda: timm_network(cardinality=4, base_width=8, block_args=SE), by_name=True),
        40,
    ),
    "seresnext-pytorchcv-odd": Row(
        lambda: ImageSEResNet(depth=26, bottleneck=True, cardinality=4, base_width=8, num_classes=10),
        pcv(SEResNeXt, BOTTLENECK, 64, cardinality=4, bottleneck_width=8, num_classes=10),
        33,
    ),
    "sepreresnet-pytorchcv": Row(
        lambda: ImageSEPreResNet(depth=18, num_classes=10),
        pcv(SEPreResNet, BASIC, 64, bottleneck=False, conv1_stride=False, num_classes=10),
        40,
    ),
    "sepreresnet_bottleneck-pytorchcv-odd": Row(
        lambda: ImageSEPreResNet(depth=26, bottleneck=True, num_classes=10),
        pcv(SEPreResNet, BOTTLENECK, 64, bottleneck=True, conv1_stride=False, num_classes=10),
        33,
    ),
    "senet-timm": Row(
        lambda: SENet(depth=28, cardinality=8, num_classes=10, drop_rate=0.2),
        peer(
            lambda: timm_network(
                cardinality=8,
                base_width=4,
                stem_type="deep",
                down_kernel_size=3,
                block_reduce_first=2,
                block_args=SE,
                drop_rate=0.2,
            ),
            by_name=True,
        ),
        33,
    ),
    "senet-pytorchcv": Row(
        lambda: SENet(depth=28, cardinality=8, num_classes=10, drop_rate=0.2),
        pcv(PcvSENet, BOTTLENECK, 128, cardinality=8, bottleneck_width=4, num_classes=10),
        40,
        ("single",),
    ),
}


@each(ROWS)
def test_equal_to_another_implementation(row: Row, mode: Mode) -> None:
    compare(row, mode)
