"""Every name of the table, at full depth, against another implementation: the row builds what the name promises.

Logits in doubles. Small images, as depth is the point. Most take too long for every run (`-m slow` asks for them).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest
import reference_graphs as reference
import reference_plain as plain
import timm
import torchvision
from parity import Counterpart, Row, compare_logits, literal, pcv, peer
from pytorchcv.model_provider import get_model
from pytorchcv.models.resnet_cifar import CIFARResNet
from pytorchcv.models.resnext_cifar import CIFARResNeXt
from pytorchcv.models.wrn_cifar import CIFARWRN
from pytorchcv_models import list_published_models

import pyramidzoo
from pyramidzoo.catalog.architectures import architectures, get_architecture

pytestmark = pytest.mark.every_network

FIRST = (True, False, False)
VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def stages(count: int, *widths: int) -> list[list[int]]:
    return [[width] * count for width in widths]


def pyramid(n: int, widths: list[int], *, bottleneck: bool = True, stem: int = 16) -> Counterpart:
    return literal(reference.pyramidnet, blocks=(n, n, n), widths=widths, bottleneck=bottleneck, stem=stem)


def wide(n: int, width: int) -> Counterpart:
    return pcv(CIFARWRN, stages(n, 16 * width, 32 * width, 64 * width), 16)


def literals() -> Iterator[tuple[str, Counterpart]]:
    """For what no other package has under a name."""
    for depth in (20, 32, 44, 56, 110, 1202):
        yield f"resnet{depth}", literal(reference.resnet_a, n=(depth - 2) // 6)
    for depth in (20, 32, 44, 56):
        yield f"resnet{depth}_fattorib", literal(reference.resnet_fattorib, n=(depth - 2) // 6)
    for depth in (20, 50, 110):
        yield f"preresnet{depth}", literal(reference.preresnet, n=(depth - 2) // 6)
    for depth in (20, 50):
        yield f"preresnet{depth}_w4", literal(reference.preresnet, n=(depth - 2) // 6, width=4)
    yield "preresnet110_a", literal(reference.preresnet, n=18, option="A")
    yield "preresnet56", literal(reference.preresnet, n=9, shared=FIRST)
    yield "preresnet56_sharedpreact", literal(reference.preresnet, n=9)
    yield "preresnet56_norelu1", literal(reference.preresnet, n=9, shared=FIRST, first_relu=False)
    yield "preresnet56_lastbn", literal(reference.preresnet, n=9, shared=FIRST, last_bn=True)
    both = {"first_relu": False, "last_bn": True}
    yield "preresnet56_norelu1_lastbn", literal(reference.preresnet, n=9, shared=FIRST, **both)
    yield "preresnet56_norelu1_lastbn_sharedpreact", literal(reference.preresnet, n=9, **both)
    for depth, n in ((164, 18), (1001, 111)):
        yield f"preresnet{depth}", literal(reference.preresnet_bottleneck, n=n)
        narrow = literal(reference.preresnet_bottleneck, n=n, widths=(16, 128, 256), strided=2)
        yield f"preresnet{depth}_hysts", narrow
    yield "preresnet164_bearpaw", literal(reference.preresnet_bottleneck, n=18, strided=2, shared=False)
    yield "preresnet200", literal(reference.image_preresnet, blocks=(3, 24, 36, 3))
    yield "wrn_40_4", literal(reference.wide_resnet, n=6, width=4)
    for alpha in (48, 84):
        yield f"pyramidnet164_a{alpha}", pyramid(18, reference.additive_widths(16, alpha, 54))
    for name, growth in (("4p75", 4.75), ("8", 8), ("27", 27)):
        widths = reference.multiplicative_widths(16, growth, 54)
        yield f"pyramidnet110_mul_a{name}", pyramid(18, widths, bottleneck=False)
    for depth, alpha, n in ((164, 270, 18), (272, 200, 30)):
        widths = reference.additive_widths(16, alpha, 3 * n)
        yield f"pyramidnet{depth}_a{alpha}_hysts", pyramid(n, widths, stem=64)
    for alpha in (300, 450):
        widths = reference.additive_widths(64, alpha, 66)
        graph = literal(reference.image_pyramidnet, blocks=(3, 24, 36, 3), widths=widths)
        yield f"pyramidnet200_a{alpha}", graph
    for depth, k in ((40, 12), (100, 12), (100, 24)):
        yield f"densenet_{depth}_k{k}", literal(plain.densenet, layers=(depth - 4) // 3, growth=k, stem=16)
    for k in (12, 24):
        yield f"densenet_100_k{k}_stem2k", literal(plain.densenet, layers=32, growth=k, stem=2 * k)
    for width in (32, 64, 96):
        yield f"shakeshake26_2x{width}d", literal(plain.shake_gastaldi, n=4, width=width)
        yield f"shakeshake26_2x{width}d_hysts", literal(plain.shake_hysts, n=4, width=width)
    yield "vgg15_bn", literal(plain.vgg, stages=VGG[16], bias=True, one_relu=True)
    yield "vgg_zagoruyko", literal(plain.vgg, stages=VGG[19], bias=False)
    yield "vgg19_bn_bearpaw", literal(plain.vgg, stages=VGG[19], bias=True)
    for depth, counts in VGG.items():
        yield f"vgg{depth}_bn_chenyaofo", literal(plain.vgg_with_three_linear, stages=counts)


def of_pytorchcv() -> Iterator[tuple[str, Counterpart]]:
    """By pytorchcv's own constructors, or by its classes where it has no such depth."""
    named = {model.architecture: model.name for model in list_published_models()}
    for architecture, name in named.items():
        if architecture != "wide_resnet50_2":  # its batch norms are folded
            classes = get_architecture(architecture).num_classes
            yield architecture, pcv(get_model, name, num_classes=classes)
    for depth in (32, 44):
        yield f"resnet{depth}_b", pcv(CIFARResNet, stages((depth - 2) // 6, 16, 32, 64), 16, bottleneck=False)
    for depth, width in ((16, 1), (16, 2), (16, 8), (40, 1), (40, 2), (40, 10)):
        yield f"wrn_{depth}_{width}", wide((depth - 4) // 6, width)
    for cardinality in (4, 8):
        channels = stages(3, 256, 512, 1024)
        network = pcv(CIFARResNeXt, channels, 64, cardinality=cardinality, bottleneck_width=64)
        yield f"resnext29_{cardinality}x64d", network


TORCHVISION = [name for name in architectures() if name in torchvision.models.list_models()]
TIMM = ["resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d"]
TIMM += ["seresnet50", "seresnet101", "seresnet152", "seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d"]
TIMM += ["seresnext101_64x4d", "senet154"]

COUNTERPARTS: dict[str, Counterpart] = {}
for source in (literals(), of_pytorchcv()):
    for name, counterpart in source:
        assert name not in COUNTERPARTS
        COUNTERPARTS[name] = counterpart

# the smallest network of each graph, and the deepest that are quick
_QUICK = """
    resnet20 resnet110 resnet20_b resnet110_b resnet20_fattorib resnet56_fattorib resnet164 resnet10 resnet18_wd4
    resnet14_bottleneck resnet50 resnet50_s1
    preresnet20 preresnet110 preresnet20_w4 preresnet56 preresnet56_sharedpreact preresnet56_norelu1 preresnet56_lastbn
    preresnet56_norelu1_lastbn preresnet56_norelu1_lastbn_sharedpreact preresnet110_a preresnet20_rawid preresnet164
    preresnet1001 preresnet164_s3 preresnet164_hysts preresnet164_bearpaw preresnet200 preresnet10_pytorchcv
    preresnet18_wd4_pytorchcv preresnet14_bottleneck_pytorchcv preresnet50_imagenet_s1_pytorchcv
    wrn_16_1 wrn_40_4 pyramidnet110_a48 pyramidnet110_mul_a4p75 pyramidnet164_a48 pyramidnet164_a270_hysts
    pyramidnet101_a360 densenet_40_k12 densenet_100_k12_stem2k densenet_c_40_k12 densenet_bc_40_k12 densenet_bc_100_k12
    densenet121 resnext29_32x4d resnext29_4x64d resnext14_16x4d shakeshake26_2x32d shakeshake26_2x32d_hysts
    shakeshake20_2x16d_pytorchcv seresnet20 seresnet164 sepreresnet20 sepreresnet164 seresnet10 seresnet26_bottleneck
    seresnet50 seresnet50_s1 seresnext50_32x4d sepreresnet10 sepreresnet26_bottleneck senet16
    vgg15_bn vgg_zagoruyko vgg19_bn_bearpaw vgg11_bn_chenyaofo
"""
EVERY_RUN = set(_QUICK.split())
TORCHVISION_EVERY_RUN = {"resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "densenet121", "vgg11_bn"}
TIMM_EVERY_RUN = {"seresnet50", "seresnext50_32x4d"}


def cases(names: Collection[str], every_run: set[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in every_run else pytest.mark.slow) for name in names]


def row(name: str, counterpart: Counterpart) -> Row:
    architecture = get_architecture(name)
    size = 32 if architecture.family == "vgg" or architecture.input_size == 224 else 8
    return Row(lambda: pyramidzoo.create_model(name), counterpart, size)


def test_every_name_has_a_counterpart() -> None:
    assert COUNTERPARTS.keys() | set(TORCHVISION) | set(TIMM) == architectures().keys()


def test_every_builder_is_compared_in_every_run() -> None:
    quick = (EVERY_RUN & COUNTERPARTS.keys()) | (TORCHVISION_EVERY_RUN & set(TORCHVISION))
    assert {get_architecture(name).class_name for name in quick} == {row.class_name for row in architectures().values()}


@pytest.mark.parametrize("name", cases(COUNTERPARTS, EVERY_RUN))
def test_registered_name(name: str) -> None:
    compare_logits(row(name, COUNTERPARTS[name]))


@pytest.mark.parametrize("name", cases(TORCHVISION, TORCHVISION_EVERY_RUN))
def test_torchvision_reads_our_tensors(name: str) -> None:
    """By its own constructor, all names equal."""
    network = peer(lambda: torchvision.models.get_model(name, weights=None), by_name=True)
    compare_logits(row(name, network))


@pytest.mark.parametrize("name", cases(TIMM, TIMM_EVERY_RUN))
def test_timm_reads_our_tensors(name: str) -> None:
    """By its own constructor, all names equal."""
    compare_logits(row(name, peer(lambda: timm.create_model(name), by_name=True)))
