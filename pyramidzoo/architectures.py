"""The table of names. Each architecture is one exact graph: a class in a family's file and its arguments.

Nothing here needs torch, so names can be listed, completed and corrected at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from types import MappingProxyType
from typing import Any

from pyramidzoo.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """One row of the table. `family` is the module in `pyramidzoo.models`, `builder` the class in it.

    `dataset` is the one that its authors published first; `input_size` (pixels) and `num_classes` are that one's.
    """

    name: str
    family: str
    builder: str
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
_HYSTS = "hysts/pytorch_image_classification"


def _resnet() -> Iterator[Architecture]:
    def row(name: str, text: str, source: str, **arguments: Any) -> Architecture:
        return Architecture(name, "resnet", "CifarResNet", MappingProxyType(arguments), text, source)

    for depth in (20, 32, 44, 56, 110):
        text = f"CIFAR ResNet-{depth}, option-A shortcuts: zero channels half before and half after"
        yield row(f"resnet{depth}", text, _HE15, depth=depth)
    for depth in (20, 32, 44, 56, 110):
        text = f"CIFAR ResNet-{depth}, option-B shortcuts: strided conv1x1 and BN"
        yield row(f"resnet{depth}_b", text, _HE15, depth=depth, shortcut="B")
    for depth in (20, 32, 44, 56):
        text = f"CIFAR ResNet-{depth} that strides and widens in the last convolution of a stage"
        yield row(f"resnet{depth}_fattorib", text, "fattorib/ResNets-CIFAR10", depth=depth, transition="last")


def _preresnet() -> Iterator[Architecture]:
    def row(name: str, text: str, source: str = _HE16, **arguments: Any) -> Architecture:
        return Architecture(name, "preresnet", "CifarPreResNet", MappingProxyType(arguments), text, source)

    for depth in (20, 50, 110):
        text = f"CIFAR PreResNet-{depth}, basic units, bare conv1x1 shortcuts"
        yield row(f"preresnet{depth}", text, f"{_HE16}; {_HYSTS}", depth=depth)
    for depth in (20, 50):
        text = f"CIFAR PreResNet-{depth}, basic units, four times as wide, stem included"
        yield row(f"preresnet{depth}_w4", text, f"{_HYSTS}, widening factor 4", depth=depth, width=4)
    yield row(
        "preresnet56",
        "CIFAR PreResNet-56 of the residual-unit ablation: shortcuts pre-activated in stage 1 only, which "
        "is not the pattern of preresnet20, 50 and 110 (that one, at this depth, is preresnet56_sharedpreact)",
        f"{_HYSTS}, residual-unit ablation",
        depth=56,
        shared_stages=(True, False, False),
    )
    yield row(
        "preresnet56_sharedpreact",
        "CIFAR PreResNet-56, basic units, shortcuts pre-activated in every stage",
        f"{_HE16}; {_HYSTS}, residual-unit ablation",
        depth=56,
    )
    yield row(
        "preresnet110_a",
        "CIFAR PreResNet-110, basic units, option-A shortcuts: zero channels after the existing ones",
        "facebookarchive/fb.resnet.torch",
        depth=110,
        shortcut="A",
    )
    for depth in (164, 1001):
        text = f"CIFAR PreResNet-{depth}, bottleneck units, stride in the first 1x1"
        yield row(f"preresnet{depth}", text, f"{_HE16}; KaimingHe/resnet-1k-layers", depth=depth, bottleneck=True)


def _wide_resnet() -> Iterator[Architecture]:
    for depth, width in ((16, 1), (16, 2), (16, 8), (28, 10), (40, 1), (40, 2), (40, 4), (40, 10)):
        arguments = MappingProxyType({"depth": depth, "width": width})
        text = f"WRN-{depth}-{width}: {depth} layers, {width} times as wide as its ResNet"
        yield Architecture(f"wrn_{depth}_{width}", "wide_resnet", "WideResNet", arguments, text, _WRN)


def _pyramidnet() -> Iterator[Architecture]:
    def row(name: str, text: str, source: str = _PYRAMID, **arguments: Any) -> Architecture:
        return Architecture(name, "pyramidnet", "CifarPyramidNet", MappingProxyType(arguments), text, source)

    for alpha in (48, 84, 270):
        text = f"CIFAR PyramidNet-110, basic units, additive, alpha {alpha}"
        yield row(f"pyramidnet110_a{alpha}", text, depth=110, alpha=alpha)
    for factor in (4.75, 8, 27):
        text = f"CIFAR PyramidNet-110, basic units, multiplicative, alpha {factor}"
        name = f"pyramidnet110_mul_a{factor}".replace(".", "p")
        yield row(name, text, depth=110, alpha=factor, multiplicative=True)
    for depth, alpha in ((164, 48), (164, 84), (164, 270), (200, 240), (236, 220), (272, 200)):
        text = f"CIFAR PyramidNet-{depth}, bottleneck units, additive, alpha {alpha}"
        yield row(f"pyramidnet{depth}_a{alpha}", text, depth=depth, alpha=alpha, bottleneck=True)
    for depth, alpha in ((164, 270), (272, 200)):
        text = f"CIFAR PyramidNet-{depth}, bottleneck units, additive, alpha {alpha}, with a 64-channel stem"
        source = f"{_HYSTS} before 2019-09-07"
        name = f"pyramidnet{depth}_a{alpha}_hysts"
        yield row(name, text, source, depth=depth, alpha=alpha, bottleneck=True, stem_channels=64)
    for alpha, note in ((300, ""), (450, "; its authors trained it with drop_rate 0.5")):
        yield Architecture(
            f"pyramidnet200_a{alpha}",
            "pyramidnet",
            "ImagePyramidNet",
            MappingProxyType({"depth": 200, "alpha": alpha}),
            f"ImageNet PyramidNet-200, bottleneck units, additive, alpha {alpha}{note}",
            _PYRAMID,
            dataset="imagenet1k",
            input_size=224,
            num_classes=1000,
        )


@cache
def architectures() -> Mapping[str, Architecture]:
    """Every architecture by name, in the table's order. A name given twice is a ValueError."""
    table: dict[str, Architecture] = {}
    for rows in (_resnet(), _preresnet(), _wide_resnet(), _pyramidnet()):
        for row in rows:
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
