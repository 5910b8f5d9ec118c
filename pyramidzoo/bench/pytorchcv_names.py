"""Translate pytorchcv's names of networks into the zoo's names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

# The datasets at the end of pytorchcv's names, and the number of classes of each. A name without one of them means a
# network for ImageNet.
DATASETS = {"cifar10": 10, "cifar100": 100, "svhn": 10}

# Rules for CIFAR and SVHN, then for ImageNet: a pattern for pytorchcv's name without the dataset, and the zoo's name.
# The first rule whose pattern matches the whole name is used.
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


class PytorchcvModel(NamedTuple):
    """One of pytorchcv's models.

    Attributes:
        name: pytorchcv's name.
        architecture: the zoo's name of the same network.
        dataset: the dataset that it was trained on.
        classes: the number of classes of the dataset.
    """

    name: str
    architecture: str
    dataset: str
    classes: int


def describe_model(name: str) -> PytorchcvModel:
    """Translate one of pytorchcv's names into the zoo's architecture and dataset.

    Args:
        name: pytorchcv's name.

    Returns:
        The description of the model.

    Raises:
        KeyError: the zoo has no such network.
    """
    network, dataset = split_dataset(name)
    for pattern, replacement in _CIFAR if dataset in DATASETS else _IMAGENET:
        if match := re.fullmatch(pattern, network):
            return PytorchcvModel(name, match.expand(replacement), dataset, DATASETS.get(dataset, 1000))
    raise KeyError(name)


def find_names(architecture: str, names: Iterable[str]) -> list[str]:
    """Return those of pytorchcv's names that mean the network of one of the zoo's architectures.

    There can be several, one for each dataset. Their networks differ only in the number of classes.
    """
    matches = []
    for name in names:
        try:
            if describe_model(name).architecture == architecture:
                matches.append(name)
        except KeyError:
            continue
    return matches


def split_dataset(name: str) -> tuple[str, str]:
    """Split one of pytorchcv's names into the network and the dataset."""
    network, _, dataset = name.rpartition("_")
    return (network, dataset) if dataset in DATASETS else (name, "imagenet1k")
