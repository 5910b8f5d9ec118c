"""ImageNet ResNets, wide ResNets, PreResNets and PyramidNets against other implementations with the same tensors.

Two blocks a stage are its first one and one like all others. At 33 pixels every map that is halved is odd.
"""

from __future__ import annotations

import pytest
import reference_graphs as reference
import timm.models.resnet
import torchvision.models.resnet
from parity import Mode, Row, by_stage, compare, each, literal, pcv, peer, twice
from pytorchcv.models.preresnet import PreResNet
from pytorchcv.models.pyramidnet import PyramidNet
from pytorchcv.models.resnet import ResNet

from pyramidzoo.models.preresnet import ImagePreResNet
from pyramidzoo.models.pyramidnet import ImagePyramidNet
from pyramidzoo.models.resnet import ImageResNet
from pyramidzoo.models.wide_resnet import ImageWideResNet

pytestmark = pytest.mark.every_network

PAIRS = [2, 2, 2, 2]
BASIC, BOTTLENECK = twice(64, 128, 256, 512), twice(256, 512, 1024, 2048)
# a quarter as wide, but for the last block
QUARTER = [[16, 16], [32, 32], [64, 64], [128, 512]]
QUARTER_BOTTLENECK = [[64, 64], [128, 128], [256, 256], [512, 2048]]
BLOCKS_50 = (3, 4, 6, 3)
ADD_16 = list(range(65, 81))  # 64 + 16 k / 16

ROWS = {
    "resnet-torchvision": Row(
        lambda: ImageResNet(depth=18, num_classes=10),
        peer(lambda: tv_resnet("BasicBlock"), by_name=True),
        40,
    ),
    "resnet-timm-odd": Row(
        lambda: ImageResNet(depth=18, num_classes=10),
        peer(lambda: timm_resnet("BasicBlock"), by_name=True),
        33,
    ),
    "resnet_quarter-pytorchcv": Row(
        lambda: ImageResNet(depth=18, width=0.25, num_classes=10),
        pcv(ResNet, QUARTER, 16, bottleneck=False, conv1_stride=False, num_classes=10),
        33,
    ),
    "resnet_bottleneck-torchvision-odd": Row(
        lambda: ImageResNet(depth=26, bottleneck=True, num_classes=10),
        peer(lambda: tv_resnet("Bottleneck"), by_name=True),
        33,
    ),
    "resnet_bottleneck-timm": Row(
        lambda: ImageResNet(depth=26, bottleneck=True, num_classes=10),
        peer(lambda: timm_resnet("Bottleneck"), by_name=True),
        40,
    ),
    "resnet_s1_quarter-pytorchcv": Row(
        lambda: ImageResNet(depth=26, bottleneck=True, stride_in="1x1", width=0.25, num_classes=10),
        pcv(ResNet, QUARTER_BOTTLENECK, 16, bottleneck=True, conv1_stride=True, num_classes=10),
        33,
    ),
    "resnet_s1-pytorchcv": Row(
        lambda: ImageResNet(depth=26, bottleneck=True, stride_in="1x1", num_classes=10),
        pcv(ResNet, BOTTLENECK, 64, bottleneck=True, conv1_stride=True, num_classes=10),
        40,
    ),
    "wide_resnet-torchvision-odd": Row(
        lambda: ImageWideResNet(depth=26, width=2, num_classes=10),
        peer(lambda: tv_resnet("Bottleneck", width_per_group=128), by_name=True),
        33,
    ),
    "preresnet-pytorchcv": Row(
        lambda: ImagePreResNet(depth=18, num_classes=10),
        pcv(PreResNet, BASIC, 64, bottleneck=False, conv1_stride=False, num_classes=10),
        40,
    ),
    "preresnet_quarter-pytorchcv-odd": Row(
        lambda: ImagePreResNet(depth=18, width=0.25, num_classes=10),
        pcv(PreResNet, QUARTER, 16, bottleneck=False, conv1_stride=False, num_classes=10),
        33,
    ),
    "preresnet_bottleneck-pytorchcv-odd": Row(
        lambda: ImagePreResNet(depth=26, bottleneck=True, num_classes=10),
        pcv(PreResNet, BOTTLENECK, 64, bottleneck=True, conv1_stride=False, num_classes=10),
        33,
    ),
    "preresnet_s1-pytorchcv": Row(
        lambda: ImagePreResNet(depth=26, bottleneck=True, stride_in="1x1", num_classes=10),
        pcv(PreResNet, BOTTLENECK, 64, bottleneck=True, conv1_stride=True, num_classes=10),
        40,
    ),
    "preresnet_fb-literal-odd": Row(
        lambda: ImagePreResNet(depth=26, bottleneck=True, first_bn=False, num_classes=10),
        literal(reference.image_preresnet, blocks=PAIRS),
        33,
    ),
    "pyramidnet-pytorchcv-odd": Row(
        lambda: ImagePyramidNet(depth=50, alpha=16, num_classes=10),
        pcv(PyramidNet, by_stage(ADD_16, BLOCKS_50, 4), 64, bottleneck=True, num_classes=10),
        33,
    ),
    "pyramidnet-literal": Row(
        lambda: ImagePyramidNet(depth=50, alpha=16, num_classes=10, drop_rate=0.5),
        literal(reference.image_pyramidnet, blocks=BLOCKS_50, widths=ADD_16, drop=0.5),
        64,
    ),
}


def tv_resnet(block: str, **arguments: int) -> torchvision.models.resnet.ResNet:
    module = torchvision.models.resnet
    return module.ResNet(getattr(module, block), PAIRS, num_classes=10, **arguments)


def timm_resnet(block: str) -> timm.models.resnet.ResNet:
    module = timm.models.resnet
    return module.ResNet(getattr(module, block), PAIRS, num_classes=10)


@each(ROWS)
def test_equal_to_another_implementation(row: Row, mode: Mode) -> None:
    compare(row, mode)
