"""CIFAR ResNets, PreResNets, wide ResNets and PyramidNets against other implementations with the same tensors.

Logits, gradients, running statistics. Two blocks a stage are its first one and one like all others; at 29 and 33 pixels
every map that a stage halves is odd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import reference_graphs as reference
import timm.models.resnet
import torch
import torchvision.models.resnet
from parity import Counterpart, Mode, Row, by_stage, compare, each, literal, pcv, peer, twice
from pytorchcv.models.preresnet import PreResUnit
from pytorchcv.models.preresnet_cifar import CIFARPreResNet
from pytorchcv.models.pyramidnet_cifar import CIFARPyramidNet
from pytorchcv.models.resnet_cifar import CIFARResNet
from pytorchcv.models.wrn_cifar import CIFARWRN
from torch import Tensor, nn

from pyramidzoo.models.preresnet import CifarBottleneckPreResNet, CifarPreResNet
from pyramidzoo.models.pyramidnet import CifarPyramidNet
from pyramidzoo.models.resnet import CifarBottleneckResNet, CifarResNet
from pyramidzoo.models.wide_resnet import WideResNet

pytestmark = pytest.mark.every_network


class ThreeStages(nn.Module):
    """A CIFAR ResNet of another package's blocks; torchvision's and timm's own start from 64 channels and 7x7."""

    def __init__(self, block: Callable[..., nn.Module], n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[block(16, 16) for _ in range(n)])
        self.layer2 = nn.Sequential(self._first(block, 16), *[block(32, 32) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(self._first(block, 32), *[block(64, 64) for _ in range(n - 1)])
        self.fc = nn.Linear(64, 10)

    @staticmethod
    def _first(block: Callable[..., nn.Module], channels: int) -> nn.Module:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False), nn.BatchNorm2d(2 * channels)
        )
        return block(channels, 2 * channels, stride=2, downsample=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(x)).mean(dim=(2, 3)))


def stride_in_1x1(channels: list[list[int]]) -> nn.Module:
    """pytorchcv's network has the stride in the 3x3, but its block takes either place."""
    network = CIFARPreResNet(channels, 16, bottleneck=True)
    network.features.stage2.unit1 = PreResUnit(64, 128, stride=2, bottleneck=True, conv1_stride=True)
    network.features.stage3.unit1 = PreResUnit(128, 256, stride=2, bottleneck=True, conv1_stride=True)
    return network


# Widths of the shallow PyramidNets below, worked out by hand
ADD_20 = [19, 23, 26, 29, 33, 36]  # 16 + 20 k / 6
ADD_7 = [17, 18, 20, 21, 22, 23]  # 16 + 7 k / 6
MUL_3 = [19, 23, 28, 33, 40, 48]  # 16 * 3^(k / 6)
PAIRS = (2, 2, 2)


def pcv_pyramidnet(widths: Sequence[int], *, bottleneck: bool = False, stem: int = 16) -> Counterpart:
    return pcv(CIFARPyramidNet, by_stage(widths, PAIRS, 4 if bottleneck else 1), stem, bottleneck=bottleneck)


FIRST, OTHERS = (True, False, False), (False, True, True)
BASIC, BOTTLENECK = twice(16, 32, 64), twice(64, 128, 256)


def ablation(**arguments: Any) -> Row:
    """hysts' switches, by our names and the literal function's; an odd number of pixels too."""
    ours = {"shared_stages" if name == "shared" else name: value for name, value in arguments.items()}
    return Row(lambda: CifarPreResNet(depth=14, **ours), literal(reference.preresnet, n=2, **arguments), 17)


ROWS = {
    "resnet_a-literal": Row(lambda: CifarResNet(depth=14), literal(reference.resnet_a, n=2), 32),
    "resnet_a-literal-odd": Row(lambda: CifarResNet(depth=14), literal(reference.resnet_a, n=2), 33),
    "resnet_b-pytorchcv": Row(
        lambda: CifarResNet(depth=14, shortcut="B"), pcv(CIFARResNet, BASIC, 16, bottleneck=False), 29
    ),
    "resnet_b-torchvision": Row(
        lambda: CifarResNet(depth=14, shortcut="B"),
        peer(lambda: ThreeStages(torchvision.models.resnet.BasicBlock, 2), by_name=True),
        32,
    ),
    "resnet_b-timm": Row(
        lambda: CifarResNet(depth=14, shortcut="B"),
        peer(lambda: ThreeStages(timm.models.resnet.BasicBlock, 2), by_name=True),
        32,
    ),
    "resnet_fattorib-literal": Row(
        lambda: CifarResNet(depth=14, transition="last"), literal(reference.resnet_fattorib, n=2), 32
    ),
    "resnet_fattorib-literal-odd": Row(
        lambda: CifarResNet(depth=8, transition="last"), literal(reference.resnet_fattorib, n=1), 33
    ),
    "resnet_bottleneck-pytorchcv": Row(
        lambda: CifarBottleneckResNet(depth=20), pcv(CIFARResNet, BOTTLENECK, 16, bottleneck=True), 16
    ),
    "resnet_bottleneck-pytorchcv-odd": Row(
        lambda: CifarBottleneckResNet(depth=20), pcv(CIFARResNet, BOTTLENECK, 16, bottleneck=True), 17
    ),
    "preresnet-literal": Row(lambda: CifarPreResNet(depth=14), literal(reference.preresnet, n=2), 32),
    "preresnet-literal-odd": Row(lambda: CifarPreResNet(depth=14), literal(reference.preresnet, n=2), 33),
    "preresnet_w4-literal": Row(
        lambda: CifarPreResNet(depth=8, width=4), literal(reference.preresnet, n=1, width=4), 16
    ),
    "preresnet_shared_in_2_3-pytorchcv": Row(
        lambda: CifarPreResNet(depth=14, shared_stages=OTHERS), pcv(CIFARPreResNet, BASIC, 16, bottleneck=False), 29
    ),
    "preresnet_a-literal": Row(
        lambda: CifarPreResNet(depth=14, shortcut="A"), literal(reference.preresnet, n=2, option="A"), 32
    ),
    "preresnet_a-literal-odd": Row(
        lambda: CifarPreResNet(depth=14, shortcut="A"), literal(reference.preresnet, n=2, option="A"), 33
    ),
    # the six of hysts' table; a sharing block keeps its ReLU in all of them
    "ablation_1-literal": ablation(),
    "ablation_2-literal": ablation(shared=FIRST),
    "ablation_3-literal": ablation(shared=FIRST, first_relu=False),
    "ablation_4-literal": ablation(shared=FIRST, last_bn=True),
    "ablation_5-literal": ablation(shared=FIRST, first_relu=False, last_bn=True),
    "ablation_6-literal": ablation(first_relu=False, last_bn=True),
    "preresnet_bottleneck-literal": Row(
        lambda: CifarBottleneckPreResNet(depth=20), literal(reference.preresnet_bottleneck, n=2), 16
    ),
    "preresnet_bottleneck-pytorchcv": Row(
        lambda: CifarBottleneckPreResNet(depth=20), pcv(stride_in_1x1, BOTTLENECK), 17
    ),
    "preresnet_bottleneck_s3-pytorchcv": Row(
        lambda: CifarBottleneckPreResNet(depth=20, stride_in="3x3"),
        pcv(CIFARPreResNet, BOTTLENECK, 16, bottleneck=True),
        16,
    ),
    "preresnet_bottleneck_s3-pytorchcv-odd": Row(
        lambda: CifarBottleneckPreResNet(depth=20, stride_in="3x3"),
        pcv(CIFARPreResNet, BOTTLENECK, 16, bottleneck=True),
        17,
    ),
    "preresnet_bottleneck_hysts-literal": Row(
        lambda: CifarBottleneckPreResNet(depth=20, stride_in="3x3", first_width=16),
        literal(reference.preresnet_bottleneck, n=2, widths=(16, 128, 256), strided=2),
        17,
    ),
    "preresnet_bottleneck_bearpaw-literal": Row(
        lambda: CifarBottleneckPreResNet(depth=20, stride_in="3x3", shared_stages=(False, False, False)),
        literal(reference.preresnet_bottleneck, n=2, strided=2, shared=False),
        17,
    ),
    "wrn_width1-literal": Row(lambda: WideResNet(depth=16, width=1), literal(reference.wide_resnet, n=2, width=1), 32),
    "wrn_width1-pytorchcv": Row(lambda: WideResNet(depth=16, width=1), pcv(CIFARWRN, BASIC, 16), 29),
    "wrn_width2-pytorchcv": Row(lambda: WideResNet(depth=16, width=2), pcv(CIFARWRN, twice(32, 64, 128), 16), 16),
    "wrn_dropout-literal": Row(
        lambda: WideResNet(depth=16, width=2, drop_rate=0.3),
        literal(reference.wide_resnet, n=2, width=2, drop=0.3),
        16,
    ),
    "pyramidnet-pytorchcv": Row(lambda: CifarPyramidNet(depth=14, alpha=20), pcv_pyramidnet(ADD_20), 32),
    "pyramidnet-pytorchcv-odd": Row(lambda: CifarPyramidNet(depth=14, alpha=20), pcv_pyramidnet(ADD_20), 29),
    "pyramidnet_mul-pytorchcv": Row(
        lambda: CifarPyramidNet(depth=14, alpha=3, multiplicative=True), pcv_pyramidnet(MUL_3), 32
    ),
    "pyramidnet_mul-literal": Row(
        lambda: CifarPyramidNet(depth=14, alpha=3, multiplicative=True),
        literal(reference.pyramidnet, blocks=PAIRS, widths=MUL_3, bottleneck=False),
        33,
    ),
    "pyramidnet_bottleneck-pytorchcv": Row(
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True), pcv_pyramidnet(ADD_7, bottleneck=True), 32
    ),
    "pyramidnet_bottleneck-pytorchcv-odd": Row(
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True), pcv_pyramidnet(ADD_7, bottleneck=True), 29
    ),
    "pyramidnet_bottleneck_mul-pytorchcv": Row(
        lambda: CifarPyramidNet(depth=20, alpha=3, bottleneck=True, multiplicative=True),
        pcv_pyramidnet(MUL_3, bottleneck=True),
        16,
    ),
    "pyramidnet_bottleneck_stem64-pytorchcv": Row(
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True, stem_channels=64),
        pcv_pyramidnet(ADD_7, bottleneck=True, stem=64),
        16,
    ),
    "pyramidnet_dropout-literal": Row(
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True, drop_rate=0.5),
        literal(reference.pyramidnet, blocks=PAIRS, widths=ADD_7, bottleneck=True, drop=0.5),
        33,
    ),
}


@each(ROWS)
def test_equal_to_another_implementation(row: Row, mode: Mode) -> None:
    compare(row, mode)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "build",
    [lambda: CifarResNet(depth=14), lambda: CifarPyramidNet(depth=14, alpha=20)],
    ids=["resnet", "pyramidnet"],
)
def test_the_comparison_sees_one_weight_off(build: Callable[[], nn.Module], mode: Mode) -> None:
    """One in a hundred thousand weights by a ten-thousandth."""

    def off(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
        other = build().double().train(model.training)
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            other.get_parameter("layer1.1.conv2.weight")[0, 0, 0, 0] *= 1.0001
        return other, other.state_dict(keep_vars=True)

    with pytest.raises(AssertionError, match="differs by"):
        compare(Row(build, off, 16), mode)
