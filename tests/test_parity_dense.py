"""DenseNets and VGGs against other implementations with the same tensors."""

from __future__ import annotations

from itertools import accumulate

import pytest
import reference_plain as plain
import torchvision.models.densenet
import torchvision.models.vgg
from parity import Counterpart, Mode, Row, compare, each, literal, pcv, peer
from pytorchcv.models.densenet import DenseNet
from pytorchcv.models.densenet_cifar import CIFARDenseNet
from pytorchcv.models.vgg import VGG, VGGDense
from torch import nn

from pyramidzoo.models.densenet import CifarDenseNet, ImageDenseNet
from pyramidzoo.models.vgg import CifarVgg, ImageVgg

pytestmark = pytest.mark.every_network

LAYERS_121 = (6, 12, 24, 16)


def halving(stem: int, growth: int, layers: tuple[int, ...]) -> list[list[int]]:
    """Channels after each layer as pytorchcv wants them; half of them enter the next block."""
    channels, blocks = stem, []
    for count in layers:
        blocks.append(list(accumulate([growth] * count, initial=channels))[1:])
        channels = blocks[-1][-1] // 2
    return blocks


def pcv_densenet(stem: int, growth: int, *, bottleneck: bool) -> Counterpart:
    return pcv(CIFARDenseNet, halving(stem, growth, (3, 3, 3)), stem, bottleneck=bottleneck)


def torchvision_vgg(hidden: int) -> nn.Module:
    """VGG-13 with BN; torchvision's own hidden layers are 4096 wide."""
    tv = torchvision.models.vgg
    network = tv.VGG(tv.make_layers(tv.cfgs["B"], batch_norm=True), num_classes=10, init_weights=False, dropout=0.3)
    for index, (inputs, outputs) in {0: (512 * 7 * 7, hidden), 3: (hidden, hidden), 6: (hidden, 10)}.items():
        network.classifier[index] = nn.Linear(inputs, outputs)
    return network


def pcv_vgg(hidden: int) -> nn.Module:
    """VGG-13 with BN and without convolution biases, for 32 pixels; pytorchcv's own hidden layers are 4096 wide."""
    network = VGG([[64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2], bias=False, use_bn=True, num_classes=10)
    network.output = nn.Sequential(VGGDense(512, hidden), VGGDense(hidden, hidden), nn.Linear(hidden, 10))
    return network


# BC networks of three layers a block have depth 22, plain ones 13
ROWS = {
    "densenet-literal": Row(
        lambda: CifarDenseNet(depth=13, growth_rate=6), literal(plain.densenet, layers=3, growth=6, stem=16), 32
    ),
    "densenet_stem2k-literal-odd": Row(
        lambda: CifarDenseNet(depth=13, growth_rate=10, stem_channels=20),
        literal(plain.densenet, layers=3, growth=10, stem=20),
        31,
    ),
    "densenet_c-pytorchcv": Row(
        lambda: CifarDenseNet(depth=13, growth_rate=7, compression=0.5, stem_channels=14),
        pcv_densenet(14, 7, bottleneck=False),
        32,
    ),
    "densenet_c-literal-odd": Row(
        lambda: CifarDenseNet(depth=13, growth_rate=7, compression=0.5, stem_channels=14),
        literal(plain.densenet, layers=3, growth=7, stem=14, halving=True),
        31,
    ),
    "densenet_bc-pytorchcv-odd": Row(
        lambda: CifarDenseNet(depth=22, growth_rate=7, bottleneck=True, compression=0.5, stem_channels=14),
        pcv_densenet(14, 7, bottleneck=True),
        31,
    ),
    "densenet_dropout-literal": Row(
        lambda: CifarDenseNet(depth=13, growth_rate=6, drop_rate=0.2),
        literal(plain.densenet, layers=3, growth=6, stem=16, drop=0.2),
        16,
    ),
    "densenet_bc_dropout-literal": Row(
        lambda: CifarDenseNet(
            depth=22, growth_rate=6, bottleneck=True, compression=0.5, stem_channels=12, drop_rate=0.2
        ),
        literal(plain.densenet, layers=3, growth=6, stem=12, bottleneck=True, halving=True, drop=0.2),
        16,
    ),
    "image_densenet-torchvision-odd": Row(
        lambda: ImageDenseNet(depth=121, growth_rate=4, num_classes=10),
        peer(
            lambda: torchvision.models.densenet.DenseNet(
                growth_rate=4, block_config=LAYERS_121, num_init_features=8, num_classes=10
            ),
            by_name=True,
        ),
        65,
    ),
    "image_densenet-pytorchcv": Row(
        lambda: ImageDenseNet(depth=121, growth_rate=4, num_classes=10),
        pcv(DenseNet, halving(8, 4, LAYERS_121), 8, num_classes=10),
        64,
    ),
    # of a stage with three convolutions the first has the ReLU
    "vgg_one_relu-literal": Row(
        lambda: CifarVgg(stages=(1, 2, 3, 1, 2), one_relu=True),
        literal(plain.vgg, stages=(1, 2, 3, 1, 2), bias=True, one_relu=True),
        32,
    ),
    "vgg_one_relu-literal-odd": Row(
        lambda: CifarVgg(stages=(2, 2, 3, 1, 1), one_relu=True),
        literal(plain.vgg, stages=(2, 2, 3, 1, 1), bias=True, one_relu=True),
        33,
    ),
    "vgg_no_bias-literal-odd": Row(
        lambda: CifarVgg(stages=(2, 2, 2, 1, 2), conv_bias=False),
        literal(plain.vgg, stages=(2, 2, 2, 1, 2), bias=False),
        33,
    ),
    "vgg-literal": Row(
        lambda: CifarVgg(stages=(2, 2, 2, 1, 2)), literal(plain.vgg, stages=(2, 2, 2, 1, 2), bias=True), 32
    ),
    "vgg_three_linear-literal": Row(
        lambda: ImageVgg(depth=11, pool=1, hidden=48, drop_rate=0.5, num_classes=10),
        literal(plain.vgg_with_three_linear, stages=(1, 1, 2, 2, 2), drop=0.5),
        32,
    ),
    "image_vgg-torchvision": Row(
        lambda: ImageVgg(depth=13, hidden=24, drop_rate=0.3, num_classes=10),
        peer(lambda: torchvision_vgg(24), by_name=True),
        33,
    ),
    # 3x3 pixels become 7x7
    "image_vgg-torchvision-larger": Row(
        lambda: ImageVgg(depth=13, hidden=24, num_classes=10),
        peer(lambda: torchvision_vgg(24), by_name=True),
        96,
        ("single",),
    ),
    "image_vgg_no_bias-pytorchcv": Row(
        lambda: ImageVgg(depth=13, pool=1, hidden=48, conv_bias=False, drop_rate=0.5, num_classes=10),
        peer(lambda: pcv_vgg(48)),
        33,
    ),
}


@each(ROWS)
def test_equal_to_another_implementation(row: Row, mode: Mode) -> None:
    compare(row, mode)
