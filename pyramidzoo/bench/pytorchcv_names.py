"""pytorchcv's names for the zoo's networks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

DATASETS = {"cifar10": 10, "cifar100": 100, "svhn": 10}

# pytorchcv's name without the data set, and the zoo's; the first rule that fits counts
_CIFAR = (
    (r"resnet(20|56|110|1202)", r"resnet\1_b"),
    (r"resnet(\d+)(?:bn)?", r"resnet\1"),
    (r"preresnet(20|56|110|1202)", r"preresnet\1_rawid"),
    (r"preresnet(\d+)(?:bn)?", r"preresnet\1_s3"),
    (r"se(pre)?resnet(\d+)(?:bn)?", r"se\1resnet\2"),
    (r"densenet(\d+)_k(\d+)", r"densenet_c_\1_k\2"),
    (r"densenet(\d+)_k(\d+)_bc", r"densenet_bc_\1_k\2"),
    (r"wrn(\d+)_(\d+)", r"wrn_\1_\2"),
    (r"resnext(\d+_\d+x\d+d)", r"resnext\1"),
    (r"pyramidnet(\d+_a\d+)(?:_bn)?", r"pyramidnet\1"),
    (r"shakeshakeresnet(\d+_2x\d+d)", r"shakeshake\1_pytorchcv"),
)
_IMAGENET = (
    (r"(se)?resnet(50|101|152)", r"\1resnet\2_s1"),
    (r"(se)?resnet(\d+)b", r"\1resnet\2"),
    (r"(se|sepre)?resnetbc(\d+)b", r"\1resnet\2_bottleneck"),
    (r"resnet(18_wd4|18_wd2|18_w3d4)", r"resnet\1"),
    (r"(se)?resnet(\d+)", r"\1resnet\2"),
    (r"sepreresnet50b", r"sepreresnet50"),
    (r"sepreresnet(\d+)", r"sepreresnet\1"),
    (r"preresnetbc(\d+)b", r"preresnet\1_bottleneck_pytorchcv"),
    (r"preresnet50", r"preresnet50_imagenet_s1_pytorchcv"),
    (r"preresnet50b", r"preresnet50_imagenet_pytorchcv"),
    (r"preresnet(101|152)", r"preresnet\1_s1_pytorchcv"),
    (r"preresnet(\d+)b", r"preresnet\1_pytorchcv"),
    (r"preresnet(\d+(?:_w\w+)?)", r"preresnet\1_pytorchcv"),
    (r"((?:se)?resnext\d+_\d+x\d+d|senet\d+|densenet\d+|pyramidnet101_a360)", r"\1"),
    (r"bn_vgg(\d+)b", r"vgg\1_bn"),
    (r"bn_vgg(\d+)", r"vgg\1_bn_nobias"),
    (r"wrn50_2", r"wide_resnet50_2"),
)


class Model(NamedTuple):
    """One of pytorchcv's models: its name, the zoo's name for its network, and what it was trained on."""

    name: str
    architecture: str
    dataset: str
    classes: int


def model(name: str) -> Model:
    """What the zoo calls one of pytorchcv's models. Raises KeyError where it has no such network."""
    plain, dataset = split(name)
    for pattern, replacement in _CIFAR if dataset in DATASETS else _IMAGENET:
        if found := re.fullmatch(pattern, plain):
            return Model(name, found.expand(replacement), dataset, DATASETS.get(dataset, 1000))
    raise KeyError(name)


def names_of(architecture: str, names: Iterable[str]) -> list[str]:
    """Which of pytorchcv's names mean a network of the zoo: one for each data set, which differ in the classifier."""
    found = []
    for name in names:
        try:
            if model(name).architecture == architecture:
                found.append(name)
        except KeyError:
            continue
    return found


def split(name: str) -> tuple[str, str]:
    """A name without its data set, and the data set."""
    plain, _, dataset = name.rpartition("_")
    return (plain, dataset) if dataset in DATASETS else (name, "imagenet1k")
