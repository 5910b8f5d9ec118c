"""The table of names. Each architecture is one exact graph: a class in a family's file and its arguments.

Nothing here needs torch, so names can be listed, completed and corrected at once.
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
    """One row of the table. `family` is the module in `pyramidzoo.models`, `class_name` the class in it.

    `dataset` is the one that its authors published first; `input_size` (pixels) and `num_classes` are that one's.
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


_HE15 = "He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385)"
_HE16 = "He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027)"
_WRN = "Zagoruyko & Komodakis 2016, Wide Residual Networks (arXiv:1605.07146); szagoruyko/wide-residual-networks"
_PYRAMID = "Han, Kim & Kim 2017, Deep Pyramidal Residual Networks (arXiv:1610.02915); jhkim89/PyramidNet"
_DENSE = "Huang et al. 2017, Densely Connected Convolutional Networks (arXiv:1608.06993); liuzhuang13/DenseNet"
_NEXT = "Xie et al. 2017, Aggregated Residual Transformations (arXiv:1611.05431); facebookresearch/ResNeXt"
_SHAKE = "Gastaldi 2017, Shake-Shake regularization (arXiv:1705.07485); xgastaldi/shake-shake"
_SE = "Hu et al. 2018, Squeeze-and-Excitation Networks (arXiv:1709.01507)"
_VGG = "Simonyan & Zisserman 2015, Very Deep Convolutional Networks (arXiv:1409.1556)"
_FB = "facebookarchive/fb.resnet.torch"
_HYSTS = "hysts/pytorch_image_classification"
_PCV = "pytorchcv"
_TV = "torchvision"

# pytorchcv's scaled ImageNet networks: name and width
_SCALED = (("18_wd4", 0.25), ("18_wd2", 0.5), ("18_w3d4", 0.75))


def _row(
    name: str, family: str, class_name: str, description: str, source: str, *, imagenet: bool = False, **arguments: Any
) -> Architecture:
    settings = MappingProxyType(arguments)
    if imagenet:
        return Architecture(name, family, class_name, settings, description, source, "imagenet1k", 224, 1000)
    return Architecture(name, family, class_name, settings, description, source)


def _resnet() -> Iterator[Architecture]:
    cifar = partial(_row, family="resnet", class_name="CifarResNet")
    for depth in (20, 32, 44, 56, 110, 1202):
        text = f"CIFAR ResNet-{depth}, option-A shortcuts: zero channels half before and half after"
        yield cifar(f"resnet{depth}", description=text, source=_HE15, depth=depth)
    for depth in (20, 32, 44, 56, 110, 1202):
        text = f"CIFAR ResNet-{depth}, option-B shortcuts: strided conv1x1 and BN"
        source = f"{_HE15}; {_HYSTS}, {_PCV}, chenyaofo/pytorch-cifar-models"
        yield cifar(f"resnet{depth}_b", description=text, source=source, depth=depth, shortcut="B")
    for depth in (20, 32, 44, 56):
        text = f"CIFAR ResNet-{depth} that strides and widens in the last convolution of a stage"
        source = f"{_HE15}; fattorib/ResNets-CIFAR10"
        yield cifar(f"resnet{depth}_fattorib", description=text, source=source, depth=depth, transition="last")
    for depth in (164, 272, 542, 1001):
        text = f"CIFAR ResNet-{depth}, bottleneck units strided in the 3x3, option-B shortcuts"
        yield _row(f"resnet{depth}", "resnet", "CifarBottleneckResNet", text, f"{_HE15}; {_PCV}", depth=depth)

    image = partial(_row, family="resnet", class_name="ImageResNet", imagenet=True)
    for depth in (10, 12, 14, 16, 18, 26, 34):
        source = f"{_HE15}; {_TV if depth in (18, 34) else _PCV}"
        yield image(f"resnet{depth}", description=f"ImageNet ResNet-{depth}, basic units", source=source, depth=depth)
    for name, width in _SCALED:
        text = f"ImageNet ResNet-18, basic units, {width} times as wide"
        yield image(f"resnet{name}", description=text, source=f"{_HE15}; {_PCV}", depth=18, width=width)
    for depth in (14, 26, 38):
        text = f"ImageNet ResNet-{depth}, bottleneck units strided in the 3x3"
        source = f"{_HE15}; {_PCV}"
        yield image(f"resnet{depth}_bottleneck", description=text, source=source, depth=depth, bottleneck=True)
    for depth in (50, 101, 152):
        text = f"ImageNet ResNet-{depth}, bottleneck units strided in the 3x3"
        yield image(f"resnet{depth}", description=text, source=f"{_HE15}; {_TV}", depth=depth, bottleneck=True)
    for depth in (50, 101, 152):
        text = f"ImageNet ResNet-{depth}, bottleneck units strided in the first 1x1, as in the paper"
        yield image(f"resnet{depth}_s1", description=text, source=_HE15, depth=depth, bottleneck=True, stride_in="1x1")


def _preresnet() -> Iterator[Architecture]:
    basic = partial(_row, family="preresnet", class_name="CifarPreResNet")
    for depth in (20, 50, 110):
        text = f"CIFAR PreResNet-{depth}, basic units, bare conv1x1 shortcuts"
        yield basic(f"preresnet{depth}", description=text, source=f"{_HE16}; {_HYSTS}", depth=depth)
    for depth in (20, 50):
        text = f"CIFAR PreResNet-{depth}, basic units, four times as wide, stem included"
        source = f"{_HE16}; {_HYSTS}, widening factor 4"
        yield basic(f"preresnet{depth}_w4", description=text, source=source, depth=depth, width=4)
    yield from _ablations()
    yield basic(
        "preresnet110_a",
        description="CIFAR PreResNet-110, basic units, option-A shortcuts: zero channels after the existing ones",
        source=f"{_HE16}; {_FB}",
        depth=110,
        shortcut="A",
    )
    for depth in (20, 56, 110, 1202):
        yield basic(
            f"preresnet{depth}_rawid",
            description=f"CIFAR PreResNet-{depth}, basic units, the first identity without BN-ReLU",
            source=f"{_HE16}; {_PCV}",
            depth=depth,
            shared_stages=(False, True, True),
        )

    bottleneck = partial(_row, family="preresnet", class_name="CifarBottleneckPreResNet")
    for depth in (164, 1001):
        text = f"CIFAR PreResNet-{depth}, bottleneck units, stride in the first 1x1"
        source = f"{_HE16}; KaimingHe/resnet-1k-layers"
        yield bottleneck(f"preresnet{depth}", description=text, source=source, depth=depth)
    for depth in (164, 272, 542, 1001):
        text = f"CIFAR PreResNet-{depth}, bottleneck units, stride in the 3x3"
        source = f"{_HE16}; {_FB}, {_PCV}"
        yield bottleneck(f"preresnet{depth}_s3", description=text, source=source, depth=depth, stride_in="3x3")
    for depth in (164, 1001):
        yield bottleneck(
            f"preresnet{depth}_hysts",
            description=f"CIFAR PreResNet-{depth}, bottleneck units, stride in the 3x3, stage 1 as narrow as the stem",
            source=f"{_HE16}; {_HYSTS}",
            depth=depth,
            stride_in="3x3",
            first_width=16,
        )
    yield bottleneck(
        "preresnet164_bearpaw",
        description="CIFAR PreResNet-164, bottleneck units, stride in the 3x3, shortcuts from the raw input everywhere",
        source=f"{_HE16}; bearpaw/pytorch-classification, which calls it preresnet-110",
        depth=164,
        stride_in="3x3",
        shared_stages=(False, False, False),
    )

    yield _row(
        "preresnet200",
        "preresnet",
        "ImagePreResNet",
        "ImageNet PreResNet-200, bottleneck units strided in the 3x3, the first one without a BN of its own",
        f"{_HE16}; {_FB}",
        imagenet=True,
        depth=200,
        bottleneck=True,
        first_bn=False,
    )
    image = partial(_row, family="preresnet", class_name="ImagePreResNet", source=f"{_HE16}; {_PCV}", imagenet=True)
    own = "the first one with a BN of its own"
    for depth in (10, 12, 14, 16, 18, 26, 34):
        text = f"ImageNet PreResNet-{depth}, basic units, {own}"
        yield image(f"preresnet{depth}_pytorchcv", description=text, depth=depth)
    for name, width in _SCALED:
        text = f"ImageNet PreResNet-18, basic units, {own}, {width} times as wide"
        yield image(f"preresnet{name}_pytorchcv", description=text, depth=18, width=width)
    for depth in (14, 26, 38):
        text = f"ImageNet PreResNet-{depth}, bottleneck units strided in the 3x3, {own}"
        yield image(f"preresnet{depth}_bottleneck_pytorchcv", description=text, depth=depth, bottleneck=True)
    for depth in (50, 101, 152, 200, 269):
        name = "50_imagenet" if depth == 50 else str(depth)
        text = f"ImageNet PreResNet-{depth}, bottleneck units strided in the 3x3, {own}"
        yield image(f"preresnet{name}_pytorchcv", description=text, depth=depth, bottleneck=True)
    for depth in (50, 101, 152):
        name = "50_imagenet" if depth == 50 else str(depth)
        text = f"ImageNet PreResNet-{depth}, bottleneck units strided in the first 1x1, {own}"
        yield image(f"preresnet{name}_s1_pytorchcv", description=text, depth=depth, bottleneck=True, stride_in="1x1")


def _ablations() -> Iterator[Architecture]:
    """hysts' residual units, PreResNet-56: which shortcuts are pre-activated, the first ReLU, a last BN."""
    first_only = (True, False, False)
    for suffix, text, arguments in (
        (
            "",
            "shortcuts pre-activated in stage 1 only, which is not the pattern of preresnet20, 50 and 110 (that one, "
            "at this depth, is preresnet56_sharedpreact)",
            {"shared_stages": first_only},
        ),
        ("_sharedpreact", "shortcuts pre-activated in every stage", {}),
        ("_norelu1", "without a unit's first ReLU", {"shared_stages": first_only, "first_relu": False}),
        ("_lastbn", "a BN at the end of each unit", {"shared_stages": first_only, "last_bn": True}),
        (
            "_norelu1_lastbn",
            "without a unit's first ReLU, with a BN at its end",
            {"shared_stages": first_only, "first_relu": False, "last_bn": True},
        ),
        (
            "_norelu1_lastbn_sharedpreact",
            "without a unit's first ReLU, with a BN at its end, shortcuts pre-activated in every stage",
            {"first_relu": False, "last_bn": True},
        ),
    ):
        yield _row(
            f"preresnet56{suffix}",
            "preresnet",
            "CifarPreResNet",
            f"CIFAR PreResNet-56 of the residual-unit ablation, basic units: {text}",
            f"{_HE16}; {_HYSTS}, residual-unit ablation",
            depth=56,
            **arguments,
        )


def _wide_resnet() -> Iterator[Architecture]:
    sizes = ((16, 1), (16, 2), (16, 8), (16, 10), (28, 10), (40, 1), (40, 2), (40, 4), (40, 8), (40, 10))
    for depth, width in sizes:
        text = f"WRN-{depth}-{width}: {depth} layers, {width} times as wide as its ResNet"
        yield _row(f"wrn_{depth}_{width}", "wide_resnet", "WideResNet", text, _WRN, depth=depth, width=width)
    for depth in (50, 101):
        yield _row(
            f"wide_resnet{depth}_2",
            "wide_resnet",
            "ImageWideResNet",
            f"ImageNet ResNet-{depth} of bottlenecks twice as wide inside, strided in the 3x3",
            f"{_WRN}; {_TV}",
            imagenet=True,
            depth=depth,
            width=2,
        )


def _pyramidnet() -> Iterator[Architecture]:
    cifar = partial(_row, family="pyramidnet", class_name="CifarPyramidNet")
    for alpha in (48, 84, 270):
        text = f"CIFAR PyramidNet-110, basic units, additive, alpha {alpha}"
        yield cifar(f"pyramidnet110_a{alpha}", description=text, source=_PYRAMID, depth=110, alpha=alpha)
    for factor in (4.75, 8, 27):
        text = f"CIFAR PyramidNet-110, basic units, multiplicative, alpha {factor}"
        name = f"pyramidnet110_mul_a{factor}".replace(".", "p")
        yield cifar(name, description=text, source=_PYRAMID, depth=110, alpha=factor, multiplicative=True)
    for depth, alpha in ((164, 48), (164, 84), (164, 270), (200, 240), (236, 220), (272, 200)):
        text = f"CIFAR PyramidNet-{depth}, bottleneck units, additive, alpha {alpha}"
        name = f"pyramidnet{depth}_a{alpha}"
        yield cifar(name, description=text, source=_PYRAMID, depth=depth, alpha=alpha, bottleneck=True)
    for depth, alpha in ((164, 270), (272, 200)):
        yield cifar(
            f"pyramidnet{depth}_a{alpha}_hysts",
            description=f"CIFAR PyramidNet-{depth}, bottleneck units, additive, alpha {alpha}, with a 64-channel stem",
            source=f"{_PYRAMID}; {_HYSTS} before 2019-09-07",
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
        source = _PYRAMID if depth == 200 else f"{_PYRAMID}; dyhan0920/PyramidNet-PyTorch"
        yield _row(
            f"pyramidnet{depth}_a{alpha}",
            "pyramidnet",
            "ImagePyramidNet",
            text,
            source,
            imagenet=True,
            depth=depth,
            alpha=alpha,
        )


def _densenet() -> Iterator[Architecture]:
    cifar = partial(_row, family="densenet", class_name="CifarDenseNet")
    for depth, k in ((40, 12), (100, 12), (100, 24)):
        text = f"CIFAR DenseNet-{depth}, growth rate {k}: 16 stem channels, no compression"
        yield cifar(f"densenet_{depth}_k{k}", description=text, source=_DENSE, depth=depth, growth_rate=k)
    for k in (12, 24):
        yield cifar(
            f"densenet_100_k{k}_stem2k",
            description=f"CIFAR DenseNet-100, growth rate {k}: {2 * k} stem channels, no compression",
            source=f"{_DENSE}, later code; {_HYSTS}",
            depth=100,
            growth_rate=k,
            stem_channels=2 * k,
        )
    for depth, k in ((40, 12), (100, 12), (100, 24)):
        yield cifar(
            f"densenet_c_{depth}_k{k}",
            description=f"CIFAR DenseNet-C-{depth}, growth rate {k}: {2 * k} stem channels, halving transitions",
            source=f"{_DENSE}; {_PCV}, {_HYSTS}",
            depth=depth,
            growth_rate=k,
            compression=0.5,
            stem_channels=2 * k,
        )
    for depth, k in ((40, 12), (40, 24), (40, 36), (100, 12), (190, 40), (250, 24)):
        yield cifar(
            f"densenet_bc_{depth}_k{k}",
            description=f"CIFAR DenseNet-BC-{depth}, growth rate {k}: bottlenecks, halving transitions",
            source=_DENSE,
            depth=depth,
            growth_rate=k,
            bottleneck=True,
            compression=0.5,
            stem_channels=2 * k,
        )
    for depth, k in ((121, 32), (161, 48), (169, 32), (201, 32)):
        text = f"ImageNet DenseNet-BC-{depth}, growth rate {k}"
        source = f"{_DENSE}; {_TV}"
        yield _row(
            f"densenet{depth}", "densenet", "ImageDenseNet", text, source, imagenet=True, depth=depth, growth_rate=k
        )


def _resnext() -> Iterator[Architecture]:
    for depth, cardinality, width in ((29, 4, 64), (29, 8, 64), (29, 16, 64), (29, 32, 4), (272, 1, 64), (272, 2, 32)):
        yield _row(
            f"resnext{depth}_{cardinality}x{width}d",
            "resnext",
            "CifarResNeXt",
            f"CIFAR ResNeXt-{depth}, {cardinality} groups {width} channels wide",
            _NEXT if width == 64 and depth == 29 else f"{_NEXT}; {_PCV}",
            depth=depth,
            cardinality=cardinality,
            base_width=width,
        )
    sizes = ((14, 16, 4), (14, 32, 2), (14, 32, 4), (26, 32, 2), (26, 32, 4), (50, 32, 4), (101, 32, 4), (101, 32, 8))
    for depth, cardinality, width in (*sizes, (101, 64, 4)):
        yield _row(
            f"resnext{depth}_{cardinality}x{width}d",
            "resnext",
            "ImageResNeXt",
            f"ImageNet ResNeXt-{depth}, {cardinality} groups {width} channels wide",
            f"{_NEXT}; {_TV if (depth, cardinality * width) in ((50, 128), (101, 256)) else _PCV}",
            imagenet=True,
            depth=depth,
            cardinality=cardinality,
            base_width=width,
        )


def _shake_shake() -> Iterator[Architecture]:
    row = partial(_row, family="shake_shake", class_name="CifarShakeShake")
    for width in (32, 64, 96):
        text = f"shake-shake-26 2x{width}d: 16 stem channels, a ReLU at the start of branches and at the end only"
        yield row(f"shakeshake26_2x{width}d", description=text, source=_SHAKE, depth=26, width=width)
    for width in (32, 64, 96):
        text = (
            f"shake-shake-26 2x{width}d as hysts trained it: {width} stem channels with a ReLU, no projection in stage "
            "1, none at the end"
        )
        yield row(
            f"shakeshake26_2x{width}d_hysts",
            description=text,
            source=f"{_SHAKE}; {_HYSTS} before 2020-04-18",
            depth=26,
            width=width,
            variant="hysts",
        )
    for depth, width in ((20, 16), (26, 32)):
        yield row(
            f"shakeshake{depth}_2x{width}d_pytorchcv",
            description=f"shake-shake-{depth} 2x{width}d with a ReLU after the stem and after every sum",
            source=f"{_SHAKE}; {_PCV}",
            depth=depth,
            width=width,
            variant="pytorchcv",
        )


def _senet() -> Iterator[Architecture]:
    source = f"{_SE}; {_PCV}"
    for prefix, class_name, text in (
        ("seresnet", "CifarSEResNet", "SE-ResNet"),
        ("sepreresnet", "CifarSEPreResNet", "SE-PreResNet"),
    ):
        for depth in (20, 56, 110):
            description = f"CIFAR {text}-{depth}, basic units"
            yield _row(f"{prefix}{depth}", "senet", class_name, description, source, depth=depth)
        for depth in (164, 272, 542):
            description = f"CIFAR {text}-{depth}, bottleneck units strided in the 3x3"
            yield _row(f"{prefix}{depth}", "senet", class_name, description, source, depth=depth, bottleneck=True)

    image = partial(_row, family="senet", imagenet=True)
    for prefix, class_name, text, basic, deep in (
        ("seresnet", "ImageSEResNet", "SE-ResNet", (10, 12, 14, 16, 18, 26), (50, 101, 152)),
        ("sepreresnet", "ImageSEPreResNet", "SE-PreResNet", (10, 12, 16, 18, 26), (50,)),
    ):
        named = partial(image, class_name=class_name, source=source)
        for depth in basic:
            yield named(f"{prefix}{depth}", description=f"ImageNet {text}-{depth}, basic units", depth=depth)
        for depth in (26, 38, *deep):
            name = f"{prefix}{depth}_bottleneck" if depth < 50 else f"{prefix}{depth}"
            description = f"ImageNet {text}-{depth}, bottleneck units strided in the 3x3"
            yield named(name, description=description, depth=depth, bottleneck=True)
    for depth in (50, 101, 152):
        yield image(
            f"seresnet{depth}_s1",
            class_name="ImageSEResNet",
            description=f"ImageNet SE-ResNet-{depth}, bottleneck units strided in the first 1x1, as in the paper",
            source=f"{_SE}; hujie-frank/SENet",
            depth=depth,
            bottleneck=True,
            stride_in="1x1",
        )
    for depth, cardinality, width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
        yield image(
            f"seresnext{depth}_{cardinality}x{width}d",
            class_name="ImageSEResNet",
            description=f"ImageNet SE-ResNeXt-{depth}, {cardinality} groups {width} channels wide",
            source=f"{_SE}; {_PCV}, timm",
            depth=depth,
            bottleneck=True,
            cardinality=cardinality,
            base_width=width,
        )
    for depth, cardinality in ((16, 32), (28, 32), (154, 64)):
        yield image(
            f"senet{depth}",
            class_name="SENet",
            description=f"ImageNet SENet-{depth}, {cardinality} groups, three 3x3 convolutions as stem",
            source=source,
            depth=depth,
            cardinality=cardinality,
        )


def _vgg() -> Iterator[Architecture]:
    cifar = partial(_row, family="vgg", class_name="CifarVgg")
    yield cifar(
        "vgg15_bn",
        description='VGG-like CIFAR network "of depth 15": 13 convolutions and one linear layer, one ReLU a stage',
        source=f"{_VGG}; {_HYSTS} before 2020-09-03",
        stages=(2, 2, 3, 3, 3),
        one_relu=True,
    )
    yield cifar(
        "vgg_zagoruyko",
        description="VGG-like CIFAR network: 16 convolutions without bias and one linear layer",
        source=f"{_VGG}; szagoruyko/wide-residual-networks",
        stages=(2, 2, 4, 4, 4),
        conv_bias=False,
    )
    yield cifar(
        "vgg19_bn_bearpaw",
        description="CIFAR VGG-19 with BN and one linear layer",
        source=f"{_VGG}; bearpaw/pytorch-classification",
        stages=(2, 2, 4, 4, 4),
    )
    for depth in (11, 13, 16, 19):
        yield _row(
            f"vgg{depth}_bn_chenyaofo",
            "vgg",
            "ImageVgg",
            f"CIFAR VGG-{depth} with BN and three linear layers, 512 wide",
            f"{_VGG}; chenyaofo/pytorch-cifar-models",
            depth=depth,
            pool=1,
            hidden=512,
        )
    image = partial(_row, family="vgg", class_name="ImageVgg", imagenet=True)
    for depth in (11, 13, 16, 19):
        text = f"ImageNet VGG-{depth} with BN"
        yield image(f"vgg{depth}_bn", description=text, source=f"{_VGG}; {_TV}", depth=depth)
    for depth in (11, 13, 16, 19):
        text = f"ImageNet VGG-{depth} with BN, convolutions without bias"
        yield image(f"vgg{depth}_bn_nobias", description=text, source=f"{_VGG}; {_PCV}", depth=depth, conv_bias=False)


_FAMILIES = (
    _resnet,
    _preresnet,
    _wide_resnet,
    _pyramidnet,
    _densenet,
    _resnext,
    _shake_shake,
    _senet,
    _vgg,
)


@cache
def architectures() -> Mapping[str, Architecture]:
    """Every architecture by name, in the table's order. A name given twice is a ValueError."""
    table: dict[str, Architecture] = {}
    for rows in _FAMILIES:
        for row in rows():
            if row.name in table:
                raise ValueError(f"two graphs are called {row.name}")
            table[row.name] = row
    return MappingProxyType(table)


def get_architecture(name: str) -> Architecture:
    """The row of that name. Raises UsageError, which names near matches."""
    table = architectures()
    if name not in table:
        raise UsageError(f"no architecture is called {name!r}; {near_matches(name, table)}")
    return table[name]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the architectures that match a shell pattern, in the table's order."""
    return [name for name in architectures() if fnmatchcase(name, pattern)]


def near_matches(name: str, candidates: Iterable[str]) -> str:
    """The end of an error message: what could have been meant, or how to see everything."""
    close = difflib.get_close_matches(name, list(candidates), n=12, cutoff=0.4)
    close.sort(key=lambda other: -_common_start(name, other))  # stable: difflib's order within equal starts
    if close:
        return f"did you mean {', '.join(close[:4])}?"
    return "`pyramidzoo list` shows all names"


def _common_start(a: str, b: str) -> int:
    """How many characters both begin with."""
    return sum(b.startswith(a[:length]) for length in range(1, len(a) + 1))
