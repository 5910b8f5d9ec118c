"""The table of architectures. An architecture is one exact graph: a class of `pyramidzoo.models` and its arguments.

This module does not import torch, so commands that only need names start at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from types import MappingProxyType
from typing import Any

from pyramidzoo.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """One row of the table of architectures.

    Attributes:
        name: Name of the architecture.
        family: Name of the module in `pyramidzoo.models` that contains the network's class.
        class_name: Name of the network's class.
        arguments: The arguments with which this class builds this architecture.
        description: The network in words.
        source: The paper that described the network, and the project whose code builds exactly this graph.
        dataset: The dataset for which the authors of the network published it first.
        input_size: Height and width of the input for that dataset, in pixels.
        num_classes: Number of classes of that dataset.
    """

    name: str
    family: str
    class_name: str
    arguments: Mapping[str, Any]
    description: str
    source: str
    dataset: str = "cifar10"
    input_size: int = 32
    num_classes: int = 10


# The papers and the projects from which the networks come. `Architecture.source` joins them.
_HE15 = "He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385)"
_HE16 = "He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027)"
_WRN = "Zagoruyko & Komodakis 2016, Wide Residual Networks (arXiv:1605.07146); szagoruyko/wide-residual-networks"
_PYRAMIDNET = "Han, Kim & Kim 2017, Deep Pyramidal Residual Networks (arXiv:1610.02915); jhkim89/PyramidNet"
_DENSENET = "Huang et al. 2017, Densely Connected Convolutional Networks (arXiv:1608.06993); liuzhuang13/DenseNet"
_RESNEXT = "Xie et al. 2017, Aggregated Residual Transformations (arXiv:1611.05431); facebookresearch/ResNeXt"
_SHAKE_SHAKE = "Gastaldi 2017, Shake-Shake regularization (arXiv:1705.07485); xgastaldi/shake-shake"
_SENET = "Hu et al. 2018, Squeeze-and-Excitation Networks (arXiv:1709.01507)"
_VGG = "Simonyan & Zisserman 2015, Very Deep Convolutional Networks (arXiv:1409.1556)"
_FB_RESNET_TORCH = "facebookarchive/fb.resnet.torch"
_HYSTS = "hysts/pytorch_image_classification"
_PYTORCHCV = "pytorchcv"
_TORCHVISION = "torchvision"

# pytorchcv's narrow ImageNet networks: the end of the name, and the factor for the numbers of channels. "wd4" means
# "width divided by 4", and "w3d4" means "width times 3, divided by 4".
_SUFFIXES_AND_WIDTHS = (("18_wd4", 0.25), ("18_wd2", 0.5), ("18_w3d4", 0.75))


def _make_architecture(
    name: str, family: str, class_name: str, description: str, source: str, *, imagenet: bool = False, **arguments: Any
) -> Architecture:
    """Make a row of the table. `arguments` are the arguments of the network's class.

    The dataset is ImageNet-1k with `imagenet`, and CIFAR-10 without.
    """
    read_only_arguments = MappingProxyType(arguments)
    if imagenet:
        return Architecture(name, family, class_name, read_only_arguments, description, source, "imagenet1k", 224, 1000)
    return Architecture(name, family, class_name, read_only_arguments, description, source)


def _list_resnets() -> Iterator[Architecture]:
    """List the ResNets with post-activation.

    Option A and B are the two shortcuts of He et al. 2015: padding with zero channels, or a convolution.
    """
    make_cifar_row = partial(_make_architecture, family="resnet", class_name="CifarResNet")
    for depth in (20, 32, 44, 56, 110, 1202):
        text = f"CIFAR ResNet-{depth}, option-A shortcuts: zero channels half before and half after"
        yield make_cifar_row(f"resnet{depth}", description=text, source=_HE15, depth=depth)
    for depth in (20, 32, 44, 56, 110, 1202):
        text = f"CIFAR ResNet-{depth}, option-B shortcuts: strided conv1x1 and BN"
        source = f"{_HE15}; {_HYSTS}, {_PYTORCHCV}, chenyaofo/pytorch-cifar-models"
        yield make_cifar_row(f"resnet{depth}_b", description=text, source=source, depth=depth, shortcut="B")
    for depth in (20, 32, 44, 56):
        text = f"CIFAR ResNet-{depth} that strides and widens in the last convolution of a stage"
        source = f"{_HE15}; fattorib/ResNets-CIFAR10"
        yield make_cifar_row(f"resnet{depth}_fattorib", description=text, source=source, depth=depth, transition="last")
    for depth in (164, 272, 542, 1001):
        text = f"CIFAR ResNet-{depth}, bottleneck units strided in the 3x3, option-B shortcuts"
        yield _make_architecture(
            f"resnet{depth}", "resnet", "CifarBottleneckResNet", text, f"{_HE15}; {_PYTORCHCV}", depth=depth
        )

    make_imagenet_row = partial(_make_architecture, family="resnet", class_name="ImageResNet", imagenet=True)
    for depth in (10, 12, 14, 16, 18, 26, 34):
        source = f"{_HE15}; {_TORCHVISION if depth in (18, 34) else _PYTORCHCV}"
        yield make_imagenet_row(
            f"resnet{depth}", description=f"ImageNet ResNet-{depth}, basic units", source=source, depth=depth
        )
    for name, width in _SUFFIXES_AND_WIDTHS:
        text = f"ImageNet ResNet-18, basic units, {width} times as wide"
        yield make_imagenet_row(
            f"resnet{name}", description=text, source=f"{_HE15}; {_PYTORCHCV}", depth=18, width=width
        )
    for depth in (14, 26, 38):
        text = f"ImageNet ResNet-{depth}, bottleneck units strided in the 3x3"
        source = f"{_HE15}; {_PYTORCHCV}"
        yield make_imagenet_row(
            f"resnet{depth}_bottleneck", description=text, source=source, depth=depth, bottleneck=True
        )
    for depth in (50, 101, 152):
        text = f"ImageNet ResNet-{depth}, bottleneck units strided in the 3x3"
        yield make_imagenet_row(
            f"resnet{depth}", description=text, source=f"{_HE15}; {_TORCHVISION}", depth=depth, bottleneck=True
        )
    for depth in (50, 101, 152):
        text = f"ImageNet ResNet-{depth}, bottleneck units strided in the first 1x1, as in the paper"
        yield make_imagenet_row(
            f"resnet{depth}_s1", description=text, source=_HE15, depth=depth, bottleneck=True, stride_in="1x1"
        )


def _list_preresnets() -> Iterator[Architecture]:
    """List the ResNets with pre-activation."""
    make_basic_row = partial(_make_architecture, family="preresnet", class_name="CifarPreResNet")
    for depth in (20, 50, 110):
        text = f"CIFAR PreResNet-{depth}, basic units, bare conv1x1 shortcuts"
        yield make_basic_row(f"preresnet{depth}", description=text, source=f"{_HE16}; {_HYSTS}", depth=depth)
    for depth in (20, 50):
        text = f"CIFAR PreResNet-{depth}, basic units, four times as wide, stem included"
        source = f"{_HE16}; {_HYSTS}, widening factor 4"
        yield make_basic_row(f"preresnet{depth}_w4", description=text, source=source, depth=depth, width=4)
    yield from _list_preresnet_ablations()
    yield make_basic_row(
        "preresnet110_a",
        description="CIFAR PreResNet-110, basic units, option-A shortcuts: zero channels after the existing ones",
        source=f"{_HE16}; {_FB_RESNET_TORCH}",
        depth=110,
        shortcut="A",
    )
    for depth in (20, 56, 110, 1202):
        yield make_basic_row(
            f"preresnet{depth}_rawid",
            description=f"CIFAR PreResNet-{depth}, basic units, the first identity without BN-ReLU",
            source=f"{_HE16}; {_PYTORCHCV}",
            depth=depth,
            shared_stages=(False, True, True),
        )

    make_bottleneck_row = partial(_make_architecture, family="preresnet", class_name="CifarBottleneckPreResNet")
    for depth in (164, 1001):
        text = f"CIFAR PreResNet-{depth}, bottleneck units, stride in the first 1x1"
        source = f"{_HE16}; KaimingHe/resnet-1k-layers"
        yield make_bottleneck_row(f"preresnet{depth}", description=text, source=source, depth=depth)
    for depth in (164, 272, 542, 1001):
        text = f"CIFAR PreResNet-{depth}, bottleneck units, stride in the 3x3"
        source = f"{_HE16}; {_FB_RESNET_TORCH}, {_PYTORCHCV}"
        yield make_bottleneck_row(f"preresnet{depth}_s3", description=text, source=source, depth=depth, stride_in="3x3")
    for depth in (164, 1001):
        yield make_bottleneck_row(
            f"preresnet{depth}_hysts",
            description=f"CIFAR PreResNet-{depth}, bottleneck units, stride in the 3x3, stage 1 as narrow as the stem",
            source=f"{_HE16}; {_HYSTS}",
            depth=depth,
            stride_in="3x3",
            first_width=16,
        )
    yield make_bottleneck_row(
        "preresnet164_bearpaw",
        description="CIFAR PreResNet-164, bottleneck units, stride in the 3x3, shortcuts from the raw input everywhere",
        source=f"{_HE16}; bearpaw/pytorch-classification, which calls it preresnet-110",
        depth=164,
        stride_in="3x3",
        shared_stages=(False, False, False),
    )

    yield _make_architecture(
        "preresnet200",
        "preresnet",
        "ImagePreResNet",
        "ImageNet PreResNet-200, bottleneck units strided in the 3x3, the first one without a BN of its own",
        f"{_HE16}; {_FB_RESNET_TORCH}",
        imagenet=True,
        depth=200,
        bottleneck=True,
        first_bn=False,
    )
    make_imagenet_row = partial(
        _make_architecture,
        family="preresnet",
        class_name="ImagePreResNet",
        source=f"{_HE16}; {_PYTORCHCV}",
        imagenet=True,
    )
    first_block = "the first one with a BN of its own"
    for depth in (10, 12, 14, 16, 18, 26, 34):
        text = f"ImageNet PreResNet-{depth}, basic units, {first_block}"
        yield make_imagenet_row(f"preresnet{depth}_pytorchcv", description=text, depth=depth)
    for name, width in _SUFFIXES_AND_WIDTHS:
        text = f"ImageNet PreResNet-18, basic units, {first_block}, {width} times as wide"
        yield make_imagenet_row(f"preresnet{name}_pytorchcv", description=text, depth=18, width=width)
    for depth in (14, 26, 38):
        text = f"ImageNet PreResNet-{depth}, bottleneck units strided in the 3x3, {first_block}"
        yield make_imagenet_row(
            f"preresnet{depth}_bottleneck_pytorchcv", description=text, depth=depth, bottleneck=True
        )
    for depth in (50, 101, 152, 200, 269):
        # preresnet50 is a CIFAR network.
        name = "50_imagenet" if depth == 50 else str(depth)
        text = f"ImageNet PreResNet-{depth}, bottleneck units strided in the 3x3, {first_block}"
        yield make_imagenet_row(f"preresnet{name}_pytorchcv", description=text, depth=depth, bottleneck=True)
    for depth in (50, 101, 152):
        name = "50_imagenet" if depth == 50 else str(depth)
        text = f"ImageNet PreResNet-{depth}, bottleneck units strided in the first 1x1, {first_block}"
        yield make_imagenet_row(
            f"preresnet{name}_s1_pytorchcv", description=text, depth=depth, bottleneck=True, stride_in="1x1"
        )


def _list_preresnet_ablations() -> Iterator[Architecture]:
    """List the PreResNet-56 networks with which hysts compared variants of the residual block (an ablation study).

    The networks differ in three points: in which stages the first BN-ReLU of a block feeds the shortcut too, whether a
    ReLU follows the first BN of a block, and whether a block ends with a BN.
    """
    first_stage_only = (True, False, False)
    for suffix, text, arguments in (
        (
            "",
            "shortcuts pre-activated in stage 1 only, which is not the pattern of preresnet20, 50 and 110 (that one, "
            "at this depth, is preresnet56_sharedpreact)",
            {"shared_stages": first_stage_only},
        ),
        ("_sharedpreact", "shortcuts pre-activated in every stage", {}),
        ("_norelu1", "without a unit's first ReLU", {"shared_stages": first_stage_only, "first_relu": False}),
        ("_lastbn", "a BN at the end of each unit", {"shared_stages": first_stage_only, "last_bn": True}),
        (
            "_norelu1_lastbn",
            "without a unit's first ReLU, with a BN at its end",
            {"shared_stages": first_stage_only, "first_relu": False, "last_bn": True},
        ),
        (
            "_norelu1_lastbn_sharedpreact",
            "without a unit's first ReLU, with a BN at its end, shortcuts pre-activated in every stage",
            {"first_relu": False, "last_bn": True},
        ),
    ):
        yield _make_architecture(
            f"preresnet56{suffix}",
            "preresnet",
            "CifarPreResNet",
            f"CIFAR PreResNet-56 of the residual-unit ablation, basic units: {text}",
            f"{_HE16}; {_HYSTS}, residual-unit ablation",
            depth=56,
            **arguments,
        )


def _list_wide_resnets() -> Iterator[Architecture]:
    """List the wide ResNets."""
    depths_and_widths = ((16, 1), (16, 2), (16, 8), (16, 10), (28, 10), (40, 1), (40, 2), (40, 4), (40, 8), (40, 10))
    for depth, width in depths_and_widths:
        text = f"WRN-{depth}-{width}: {depth} layers, {width} times as wide as its ResNet"
        yield _make_architecture(
            f"wrn_{depth}_{width}", "wide_resnet", "WideResNet", text, _WRN, depth=depth, width=width
        )
    for depth in (50, 101):
        yield _make_architecture(
            f"wide_resnet{depth}_2",
            "wide_resnet",
            "ImageWideResNet",
            f"ImageNet ResNet-{depth} of bottlenecks twice as wide inside, strided in the 3x3",
            f"{_WRN}; {_TORCHVISION}",
            imagenet=True,
            depth=depth,
            width=2,
        )


def _list_pyramidnets() -> Iterator[Architecture]:
    """List the PyramidNets. `alpha` says by how much the width grows from the first block to the last."""
    make_cifar_row = partial(_make_architecture, family="pyramidnet", class_name="CifarPyramidNet")
    for alpha in (48, 84, 270):
        text = f"CIFAR PyramidNet-110, basic units, additive, alpha {alpha}"
        yield make_cifar_row(f"pyramidnet110_a{alpha}", description=text, source=_PYRAMIDNET, depth=110, alpha=alpha)
    for factor in (4.75, 8, 27):
        text = f"CIFAR PyramidNet-110, basic units, multiplicative, alpha {factor}"
        name = f"pyramidnet110_mul_a{factor}".replace(".", "p")
        yield make_cifar_row(name, description=text, source=_PYRAMIDNET, depth=110, alpha=factor, multiplicative=True)
    for depth, alpha in ((164, 48), (164, 84), (164, 270), (200, 240), (236, 220), (272, 200)):
        text = f"CIFAR PyramidNet-{depth}, bottleneck units, additive, alpha {alpha}"
        name = f"pyramidnet{depth}_a{alpha}"
        yield make_cifar_row(name, description=text, source=_PYRAMIDNET, depth=depth, alpha=alpha, bottleneck=True)
    for depth, alpha in ((164, 270), (272, 200)):
        yield make_cifar_row(
            f"pyramidnet{depth}_a{alpha}_hysts",
            description=f"CIFAR PyramidNet-{depth}, bottleneck units, additive, alpha {alpha}, with a 64-channel stem",
            source=f"{_PYRAMIDNET}; {_HYSTS} before 2019-09-07",
            depth=depth,
            alpha=alpha,
            bottleneck=True,
            stem_channels=64,
        )
    for depth, alpha, note in (
        (200, 300, ""),
        (200, 450, "; its authors trained it with drop_rate 0.5"),
        (101, 360, ""),
    ):
        text = f"ImageNet PyramidNet-{depth}, bottleneck units, additive, alpha {alpha}{note}"
        source = _PYRAMIDNET if depth == 200 else f"{_PYRAMIDNET}; dyhan0920/PyramidNet-PyTorch"
        yield _make_architecture(
            f"pyramidnet{depth}_a{alpha}",
            "pyramidnet",
            "ImagePyramidNet",
            text,
            source,
            imagenet=True,
            depth=depth,
            alpha=alpha,
        )


def _list_densenets() -> Iterator[Architecture]:
    """List the DenseNets. `k` is the growth rate: the number of channels that each layer adds."""
    make_cifar_row = partial(_make_architecture, family="densenet", class_name="CifarDenseNet")
    for depth, k in ((40, 12), (100, 12), (100, 24)):
        text = f"CIFAR DenseNet-{depth}, growth rate {k}: 16 stem channels, no compression"
        yield make_cifar_row(f"densenet_{depth}_k{k}", description=text, source=_DENSENET, depth=depth, growth_rate=k)
    for k in (12, 24):
        yield make_cifar_row(
            f"densenet_100_k{k}_stem2k",
            description=f"CIFAR DenseNet-100, growth rate {k}: {2 * k} stem channels, no compression",
            source=f"{_DENSENET}, later code; {_HYSTS}",
            depth=100,
            growth_rate=k,
            stem_channels=2 * k,
        )
    for depth, k in ((40, 12), (100, 12), (100, 24)):
        yield make_cifar_row(
            f"densenet_c_{depth}_k{k}",
            description=f"CIFAR DenseNet-C-{depth}, growth rate {k}: {2 * k} stem channels, halving transitions",
            source=f"{_DENSENET}; {_PYTORCHCV}, {_HYSTS}",
            depth=depth,
            growth_rate=k,
            compression=0.5,
            stem_channels=2 * k,
        )
    for depth, k in ((40, 12), (40, 24), (40, 36), (100, 12), (190, 40), (250, 24)):
        yield make_cifar_row(
            f"densenet_bc_{depth}_k{k}",
            description=f"CIFAR DenseNet-BC-{depth}, growth rate {k}: bottlenecks, halving transitions",
            source=_DENSENET,
            depth=depth,
            growth_rate=k,
            bottleneck=True,
            compression=0.5,
            stem_channels=2 * k,
        )
    for depth, k in ((121, 32), (161, 48), (169, 32), (201, 32)):
        text = f"ImageNet DenseNet-BC-{depth}, growth rate {k}"
        source = f"{_DENSENET}; {_TORCHVISION}"
        yield _make_architecture(
            f"densenet{depth}", "densenet", "ImageDenseNet", text, source, imagenet=True, depth=depth, growth_rate=k
        )


def _list_resnexts() -> Iterator[Architecture]:
    """List the ResNeXts. Their names contain the number of groups and the width of a group, such as 32x4d."""
    for depth, cardinality, width in ((29, 4, 64), (29, 8, 64), (29, 16, 64), (29, 32, 4), (272, 1, 64), (272, 2, 32)):
        yield _make_architecture(
            f"resnext{depth}_{cardinality}x{width}d",
            "resnext",
            "CifarResNeXt",
            f"CIFAR ResNeXt-{depth}, {cardinality} groups {width} channels wide",
            # The authors published the networks of depth 29 with groups of 64 channels. pytorchcv has the others.
            _RESNEXT if width == 64 and depth == 29 else f"{_RESNEXT}; {_PYTORCHCV}",
            depth=depth,
            cardinality=cardinality,
            base_width=width,
        )
    pytorchcv_sizes = ((14, 16, 4), (14, 32, 2), (14, 32, 4), (26, 32, 2), (26, 32, 4), (101, 32, 4))
    torchvision_sizes = ((50, 32, 4), (101, 32, 8), (101, 64, 4))
    for depth, cardinality, width in sorted((*pytorchcv_sizes, *torchvision_sizes)):
        yield _make_architecture(
            f"resnext{depth}_{cardinality}x{width}d",
            "resnext",
            "ImageResNeXt",
            f"ImageNet ResNeXt-{depth}, {cardinality} groups {width} channels wide",
            f"{_RESNEXT}; {_TORCHVISION if (depth, cardinality, width) in torchvision_sizes else _PYTORCHCV}",
            imagenet=True,
            depth=depth,
            cardinality=cardinality,
            base_width=width,
        )


def _list_shake_shakes() -> Iterator[Architecture]:
    """List the shake-shake networks. Their names contain the number of branches (2) and the width of a branch."""
    make_cifar_row = partial(_make_architecture, family="shake_shake", class_name="CifarShakeShake")
    for width in (32, 64, 96):
        text = f"shake-shake-26 2x{width}d: 16 stem channels, a ReLU at the start of branches and at the end only"
        yield make_cifar_row(f"shakeshake26_2x{width}d", description=text, source=_SHAKE_SHAKE, depth=26, width=width)
    for width in (32, 64, 96):
        text = (
            f"shake-shake-26 2x{width}d as hysts trained it: {width} stem channels with a ReLU, no projection in stage "
            "1, none at the end"
        )
        yield make_cifar_row(
            f"shakeshake26_2x{width}d_hysts",
            description=text,
            source=f"{_SHAKE_SHAKE}; {_HYSTS} before 2020-04-18",
            depth=26,
            width=width,
            variant="hysts",
        )
    for depth, width in ((20, 16), (26, 32)):
        yield make_cifar_row(
            f"shakeshake{depth}_2x{width}d_pytorchcv",
            description=f"shake-shake-{depth} 2x{width}d with a ReLU after the stem and after every sum",
            source=f"{_SHAKE_SHAKE}; {_PYTORCHCV}",
            depth=depth,
            width=width,
            variant="pytorchcv",
        )


def _list_senets() -> Iterator[Architecture]:
    """List the networks with squeeze-and-excitation."""
    source = f"{_SENET}; {_PYTORCHCV}"
    for prefix, class_name, text in (
        ("seresnet", "CifarSEResNet", "SE-ResNet"),
        ("sepreresnet", "CifarSEPreResNet", "SE-PreResNet"),
    ):
        for depth in (20, 56, 110):
            description = f"CIFAR {text}-{depth}, basic units"
            yield _make_architecture(f"{prefix}{depth}", "senet", class_name, description, source, depth=depth)
        for depth in (164, 272, 542):
            description = f"CIFAR {text}-{depth}, bottleneck units strided in the 3x3"
            yield _make_architecture(
                f"{prefix}{depth}", "senet", class_name, description, source, depth=depth, bottleneck=True
            )

    make_imagenet_row = partial(_make_architecture, family="senet", imagenet=True)
    for prefix, class_name, text, basic_depths, bottleneck_depths in (
        ("seresnet", "ImageSEResNet", "SE-ResNet", (10, 12, 14, 16, 18, 26), (50, 101, 152)),
        ("sepreresnet", "ImageSEPreResNet", "SE-PreResNet", (10, 12, 16, 18, 26), (50,)),
    ):
        make_row_of_class = partial(make_imagenet_row, class_name=class_name, source=source)
        for depth in basic_depths:
            yield make_row_of_class(
                f"{prefix}{depth}", description=f"ImageNet {text}-{depth}, basic units", depth=depth
            )
        for depth in (26, 38, *bottleneck_depths):
            # Depth 26 exists with both kinds of blocks.
            name = f"{prefix}{depth}_bottleneck" if depth < 50 else f"{prefix}{depth}"
            description = f"ImageNet {text}-{depth}, bottleneck units strided in the 3x3"
            yield make_row_of_class(name, description=description, depth=depth, bottleneck=True)
    for depth in (50, 101, 152):
        yield make_imagenet_row(
            f"seresnet{depth}_s1",
            class_name="ImageSEResNet",
            description=f"ImageNet SE-ResNet-{depth}, bottleneck units strided in the first 1x1, as in the paper",
            source=f"{_SENET}; hujie-frank/SENet",
            depth=depth,
            bottleneck=True,
            stride_in="1x1",
        )
    for depth, cardinality, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        yield make_imagenet_row(
            f"seresnext{depth}_{cardinality}x{width}d",
            class_name="ImageSEResNet",
            description=f"ImageNet SE-ResNeXt-{depth}, {cardinality} groups {width} channels wide",
            source=f"{_SENET}; {_PYTORCHCV}, timm",
            depth=depth,
            bottleneck=True,
            cardinality=cardinality,
            base_width=width,
        )
    for depth, cardinality in ((16, 32), (28, 32), (154, 64)):
        yield make_imagenet_row(
            f"senet{depth}",
            class_name="SENet",
            description=f"ImageNet SENet-{depth}, {cardinality} groups, three 3x3 convolutions as stem",
            source=source,
            depth=depth,
            cardinality=cardinality,
        )


def _list_vggs() -> Iterator[Architecture]:
    """List the VGGs with batch normalization (BN)."""
    make_cifar_row = partial(_make_architecture, family="vgg", class_name="CifarVgg")
    yield make_cifar_row(
        "vgg15_bn",
        description='VGG-like CIFAR network "of depth 15": 13 convolutions and one linear layer, one ReLU a stage',
        source=f"{_VGG}; {_HYSTS} before 2020-09-03",
        stages=(2, 2, 3, 3, 3),
        one_relu=True,
    )
    yield make_cifar_row(
        "vgg_zagoruyko",
        description="VGG-like CIFAR network: 16 convolutions without bias and one linear layer",
        source=f"{_VGG}; szagoruyko/wide-residual-networks",
        stages=(2, 2, 4, 4, 4),
        conv_bias=False,
    )
    yield make_cifar_row(
        "vgg19_bn_bearpaw",
        description="CIFAR VGG-19 with BN and one linear layer",
        source=f"{_VGG}; bearpaw/pytorch-classification",
        stages=(2, 2, 4, 4, 4),
    )
    for depth in (11, 13, 16, 19):
        yield _make_architecture(
            f"vgg{depth}_bn_chenyaofo",
            "vgg",
            "ImageVgg",
            f"CIFAR VGG-{depth} with BN and three linear layers, 512 wide",
            f"{_VGG}; chenyaofo/pytorch-cifar-models",
            depth=depth,
            pool=1,
            hidden=512,
        )
    make_imagenet_row = partial(_make_architecture, family="vgg", class_name="ImageVgg", imagenet=True)
    for depth in (11, 13, 16, 19):
        text = f"ImageNet VGG-{depth} with BN"
        yield make_imagenet_row(f"vgg{depth}_bn", description=text, source=f"{_VGG}; {_TORCHVISION}", depth=depth)
    for depth in (11, 13, 16, 19):
        text = f"ImageNet VGG-{depth} with BN, convolutions without bias"
        yield make_imagenet_row(
            f"vgg{depth}_bn_nobias", description=text, source=f"{_VGG}; {_PYTORCHCV}", depth=depth, conv_bias=False
        )


_LIST_FUNCTIONS = (
    _list_resnets,
    _list_preresnets,
    _list_wide_resnets,
    _list_pyramidnets,
    _list_densenets,
    _list_resnexts,
    _list_shake_shakes,
    _list_senets,
    _list_vggs,
)


@cache
def architectures() -> Mapping[str, Architecture]:
    """Return all architectures by name, in the order of the table.

    Raises:
        ValueError: If two rows have the same name.
    """
    table: dict[str, Architecture] = {}
    for list_family in _LIST_FUNCTIONS:
        for architecture in list_family():
            if architecture.name in table:
                raise ValueError(f"two graphs are called {architecture.name}")
            table[architecture.name] = architecture
    return MappingProxyType(table)


def get_architecture(name: str) -> Architecture:
    """Find an architecture by its name.

    Args:
        name: The exact name.

    Returns:
        The architecture.

    Raises:
        UsageError: If no architecture has this name; the message suggests similar names.
    """
    table = architectures()
    if name not in table:
        raise UsageError(f"no architecture is called {name!r}; {suggest_names(name, table)}")
    return table[name]


def list_models(pattern: str = "*") -> list[str]:
    """List the names of the architectures that match a shell pattern.

    Args:
        pattern: A shell pattern, such as "wrn_16_*".

    Returns:
        The names, in the order of the table.
    """
    return [name for name in architectures() if fnmatchcase(name, pattern)]


def suggest_names(name: str, candidates: Iterable[str]) -> str:
    """Suggest names that are similar to an unknown name, as the end of an error message.

    Args:
        name: The unknown name.
        candidates: All known names.

    Returns:
        The question "did you mean ...?" with up to four names. A name that has more first letters in common with the
        unknown name comes earlier. If no name is similar, the result is a sentence with the command that lists all
        names.
    """
    similar_names = difflib.get_close_matches(name, list(candidates), n=12, cutoff=0.4)
    # difflib returns the most similar name first. The sort is stable: it keeps this order where the keys are equal.
    similar_names.sort(key=lambda similar_name: -_count_common_first_letters(name, similar_name))
    if similar_names:
        return f"did you mean {', '.join(similar_names[:4])}?"
    return "`pyramidzoo list` shows all names"


def _count_common_first_letters(a: str, b: str) -> int:
    """Count how many characters at the beginning of both names are equal."""
    # `b` starts with the first 1, 2, ... characters of `a` until the names differ, so the sum counts the equal ones.
    return sum(b.startswith(a[:length]) for length in range(1, len(a) + 1))
