"""Code that the layouts of DenseNets share: it takes the zoo's names of layers apart, and recognises DenseNet-BC."""

from __future__ import annotations

import re
from typing import NamedTuple

from pyramidzoo.catalog.architectures import Architecture

# For example "features.denseblock1.denselayer2.conv1" and "features.transition1.norm".
_LAYER_NAME = re.compile(r"features\.(?:denseblock(\d)\.denselayer(\d+)|transition(\d))\.(norm|conv)(\d?)")


class Place(NamedTuple):
    """The place of a convolution or BN in a dense layer or in a transition.

    Attributes:
        block: The number of the dense block, counted from 1. For a transition it is the number of
            the block before the transition.
        layer: The number of the dense layer in its block, counted from 1; None in a transition.
        kind: "bn" or "conv".
        number: 1 or 2 in a dense layer, which can have two BNs and two convolutions; 1 in a
            transition.
    """

    block: int
    layer: int | None
    kind: str
    number: int


def parse_place(module: str) -> Place | None:
    """Find the place of a convolution or BN from its name in the zoo.

    Returns:
        The place; None for a module of the stem or the head.
    """
    match = _LAYER_NAME.fullmatch(module)
    if match is None:
        return None
    block, layer, transition, kind_in_zoo, number = match.groups()
    kind = "bn" if kind_in_zoo == "norm" else kind_in_zoo
    return Place(int(block or transition), int(layer) if layer else None, kind, int(number or 1))


def is_densenet_bc(architecture: Architecture) -> bool:
    """Return whether an architecture is a DenseNet-BC for CIFAR, with the stem of the DenseNet authors.

    Their stem has twice as many channels as the growth rate.
    """
    arguments = architecture.arguments
    if architecture.class_name != "CifarDenseNet" or not arguments.get("bottleneck"):
        return False
    return arguments.get("compression") == 0.5 and arguments.get("stem_channels") == 2 * arguments["growth_rate"]
